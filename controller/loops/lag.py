"""Measures how late this process's event loop turns. One per process; decides nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

LagObserver = Callable[[float], None]
"""Told how late each turn came, in seconds."""


class LoopLag:
    """Asks for a turn every `turn_s` and compares; remembers the last `window_s`."""

    def __init__(self, turn_s: float, window_s: float, observe: LagObserver = lambda _late_s: None) -> None:
        self._turn_s = turn_s
        self._late: deque[float] = deque(maxlen=max(1, round(window_s / turn_s)))
        self._observe = observe
        self._due_at_s = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._due_at_s = loop.time() + self._turn_s
            await asyncio.sleep(self._turn_s)
            late_s = max(0.0, loop.time() - self._due_at_s)
            self._late.append(late_s)
            self._observe(late_s)

    def late_s(self) -> float:
        """The worst of the window, the turn that is due now included.

        Heartbeats that came while the loop was held up are read late, perhaps after the loop that judges them: so a
        delay counts for a while after it is over.
        """
        overdue_s = asyncio.get_running_loop().time() - self._due_at_s if self._due_at_s else 0.0
        return max(overdue_s, 0.0, *self._late)
