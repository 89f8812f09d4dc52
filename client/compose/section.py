"""One mapping of a Compose file as a table of its keys. What the tables say stands in `client.compose.keys`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one mapping of the file; each maps to a remark (honoured), a consequence (ignored) or a reason and
    a way out (refused)."""

    title: str
    honoured: Mapping[str, str]
    ignored: Mapping[str, str] = {}
    refused: Mapping[str, str] = {}

    @property
    def known(self) -> tuple[str, ...]:
        return (*self.honoured, *self.ignored, *self.refused)
