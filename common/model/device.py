"""Devices as values: what a node has besides CPU and memory, what a task needs of it, and which units it was given."""

from __future__ import annotations

import msgspec

WHOLE_MILLIS = 1000
"""All of one unit, in thousandths."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One unit that a node has, e.g. one GPU."""

    kind: str
    """An RFC 1123 label: `gpu`, `fpga`, ..."""
    id: str
    """What the runtime knows it by; unique on its node within its kind."""
    model: str = ""
    """E.g. `A10`; empty where nobody said."""


class DeviceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a task needs of one kind: `count` whole units, or a share of a single one."""

    kind: str
    count: int = 1
    share_millis: int = WHOLE_MILLIS
    """Thousandths of the unit that are set aside; less than a whole one only with `count` 1."""
    models: tuple[str, ...] = ()
    """Any of these will do; empty: any at all."""

    @property
    def total_millis(self) -> int:
        return self.count * self.share_millis


class DeviceGrant(msgspec.Struct, frozen=True, kw_only=True):
    """One unit, or a share of it, that a task holds while it holds its reservations."""

    kind: str
    id: str
    share_millis: int = WHOLE_MILLIS
