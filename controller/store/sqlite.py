"""The store of a single controller: one SQLite file, in which an acknowledged commit survives kill -9 and power loss.

Owns the file's format and the lock that keeps other processes out. Everything that blocks runs on one thread of the
store's own, in the order it was asked for. Never writes to a file that is not a Podium store.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from common.errors import Fenced, OutcomeUnknown, PodiumError, Unavailable
from common.model.epoch import Epoch
from controller.store import sqlite_read
from controller.store.interface import Contents, Examination, LeaderRecord, Leadership, Operation, Snapshot
from controller.store.limits import check_operations
from controller.store.sqlite_file import SqliteFile

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CALL_TIMEOUT_S = 30.0
"""A disk that does not answer for so long is as good as gone; spinning ones that wake up and full ones take seconds."""

_READ_TIMEOUT_S = 600.0
"""Reading everything, at 10 MB/s from a disk that is busy."""


class SqliteStore:
    """See the module. Opens the file when first used; what is wrong with it is said then.

    An observer looks every `look_period_s` who holds the lock; what its own store does it sees at once.
    """

    kind = "sqlite"

    def __init__(self, path: Path, *, look_period_s: float = 1.0) -> None:
        self._file = SqliteFile(path)
        self._path = path
        self._look_period_s = look_period_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._changed = asyncio.Event()
        self._in_doubt: Epoch | None = None
        self._closed = False

    async def campaign(self, candidate: LeaderRecord) -> Leadership:
        """Lead at once, or raise `Conflict` naming the process that uses the file."""
        try:
            epoch = await self._run(lambda: self._file.elect(candidate))
        except (asyncio.CancelledError, Unavailable):
            self._withdraw()
            raise
        self._tell_observers()
        return Leadership(epoch=epoch, lease_s=math.inf)

    async def keep_alive(self, leadership: Leadership) -> None:
        await self._run(lambda: self._file.check(leadership.epoch))

    def renewal_age_s(self, leadership: Leadership) -> float:
        return math.inf

    async def resign(self, leadership: Leadership) -> None:
        await self._run(lambda: self._file.resign(leadership.epoch))
        self._tell_observers()

    async def load(self, leadership: Leadership) -> Snapshot:
        return await self._run(lambda: self._file.load(leadership.epoch))

    async def commit(self, leadership: Leadership, operations: Sequence[Operation]) -> int:
        check_operations(operations)
        written = tuple(operations)
        return await self._commit(leadership, lambda: self._file.commit(leadership.epoch, written))

    async def raise_generation(
        self, leadership: Leadership, generation: int, operations: Sequence[Operation] = ()
    ) -> int:
        check_operations(operations)
        written = tuple(operations)
        return await self._commit(
            leadership, lambda: self._file.raise_generation(leadership.epoch, generation, written)
        )

    async def _commit(self, leadership: Leadership, commit: Callable[[], int]) -> int:
        if self._in_doubt == leadership.epoch:
            raise Fenced("the outcome of an earlier commit is unknown, so this term must end")
        try:
            return await self._run(commit, late=OutcomeUnknown)
        except (asyncio.CancelledError, OutcomeUnknown):
            self._in_doubt = leadership.epoch  # the thread goes on with what it has begun
            raise

    async def read(self) -> Contents:
        leader = await self._run(self._file.leader)
        return await self._aside(lambda: sqlite_read.read(self._path, leader))

    async def get(self, key: str) -> bytes | None:
        return await self._aside(lambda: sqlite_read.get(self._path, key))

    async def examine(self) -> Examination:
        return await self._aside(lambda: sqlite_read.examine(self._path))

    async def observe_leader(self) -> AsyncIterator[LeaderRecord | None]:
        first = True
        seen: LeaderRecord | None = None
        while not self._closed:
            changed = self._changed
            try:
                leader = await self._run(self._file.leader)
            except Unavailable as error:
                logger.warning("cannot see who leads: %s", error)
            else:
                if first or leader != seen:
                    first, seen = False, leader
                    yield leader
            await _wait_for(changed, self._look_period_s)

    async def ping(self) -> None:
        await self._run(self._file.ping)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        self._thread.shutdown(wait=False)
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await asyncio.shield(closing)
        except TimeoutError:
            logger.warning("%s did not close within %g s; nothing committed is at risk", self._path, _CALL_TIMEOUT_S)

    def _withdraw(self) -> None:
        """Undo, behind it on the same thread, a campaign that may be won when nobody waits for it any more."""
        if not self._closed:
            self._thread.submit(self._file.release)

    async def _aside(self, call: Callable[[], T]) -> T:
        """Long reads, on a thread that no commit waits for."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                return await asyncio.to_thread(call)
        except TimeoutError:
            raise Unavailable(f"{self._path}: was not read within {_READ_TIMEOUT_S:g} s") from None

    def _tell_observers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self, call: Callable[[], T], *, late: type[PodiumError] = Unavailable) -> T:
        if self._closed:
            raise Unavailable("this store is closed")
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except TimeoutError:
            raise late(f"{self._path}: the disk did not answer within {_CALL_TIMEOUT_S:g} s") from None


async def _wait_for(event: asyncio.Event, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        pass
