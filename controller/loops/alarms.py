"""One alarm for each key, which rings at the earliest moment it was set to. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarms:
    """See the module. `rings` is called with the key; the alarm is off by then."""

    def __init__(self, rings: Callable[[str], None]) -> None:
        self._rings = rings
        self._set: dict[str, tuple[float, asyncio.Handle]] = {}
        """When (loop time) each rings. A handle does not say: uvloop's has no `when` for a wait below its tick."""

    def set(self, key: str, wait_s: float) -> None:
        """Ring after this long, unless that is due earlier already."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + wait_s
        known = self._set.get(key)
        if known is None or known[0] > due_s:
            self.cancel(key)
            self._set[key] = due_s, loop.call_later(max(wait_s, 0.0), self._ring, key)

    def cancel(self, key: str) -> None:
        known = self._set.pop(key, None)
        if known is not None:
            known[1].cancel()

    def close(self) -> None:
        for _, handle in self._set.values():
            handle.cancel()
        self._set.clear()

    def _ring(self, key: str) -> None:
        del self._set[key]
        self._rings(key)
