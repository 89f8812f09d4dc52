"""The value of one readiness check; apart from `agent.http`, so that agents without a listener load no HTTP library."""

from __future__ import annotations

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at: well or not, and in words."""

    name: str
    good: bool
    text: str

    def __str__(self) -> str:
        return f"[{'+' if self.good else '-'}] {self.name}: {self.text}"
