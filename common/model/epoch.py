"""The two-part epoch that every message to an agent carries, and by which zombies are recognised."""

from __future__ import annotations

import msgspec


class Epoch(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Ordered first by `generation` (raised by a restore), then by `term` (raised by an election)."""

    generation: int = 0
    term: int = 0
