"""A bound on how much an engine is asked to do at once, with what was begun going first.

First come, first served would let the creates of fifty tasks go before the first start: all of them would run late
instead of one after the other. Owns the order only; knows nothing of containers.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Rank(enum.IntEnum):
    """Lower goes first."""

    START = 0
    CREATE = 1
    REMOVE = 2
    """Nobody waits for it."""


class Slots:
    """At most `count` holders at a time; of those who wait, the lowest rank goes first, and the first of it."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._order = itertools.count()
        self._waiting: list[tuple[Rank, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def hold(self, rank: Rank) -> AsyncIterator[None]:
        await self._take(rank)
        try:
            yield
        finally:
            self._give()

    async def _take(self, rank: Rank) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()  # the slot was handed over in the same moment
            raise

    def _give(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
