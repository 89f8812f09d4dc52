"""The store without a disk: for simulation, tests and `podium dev --store memory`. Forgets everything with its process.

A `MemoryDatabase` is what several controllers share, a `MemoryStore` is one controller's way to it. Uses only the
event loop's own timers and events, so leases run on virtual time too. A store can be cut off, slowed down and made to
lose a commit or the answer to it.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import AsyncIterator, Sequence

import msgspec

from common.errors import Fenced, OutcomeUnknown, Unavailable
from common.model.epoch import Epoch
from controller.store.interface import (
    Contents,
    Delete,
    Examination,
    LeaderRecord,
    Leadership,
    Operation,
    Put,
    Snapshot,
)
from controller.store.limits import check_operations

_RETRY_S = 0.5
"""A candidate or observer that is cut off looks again this often."""


class MemoryDatabase:
    """The shared part: values, and a leader key that goes away when its lease is not renewed.

    `lease_s` is infinite for a single controller, which then never loses its term to a slow loop.
    """

    def __init__(self, *, lease_s: float = 3.0, generation: int = 0) -> None:
        self.lease_s = lease_s
        self.generation = generation
        self.values: dict[str, bytes] = {}
        self.revision = 0
        self.leader: LeaderRecord | None = None
        self._changed = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None

    def elect(self, candidate: LeaderRecord) -> Epoch | None:
        """Create the leader key; None when there is one. As in etcd the term is the revision that created it."""
        if self.leader is not None:
            return None
        self.revision += 1
        epoch = Epoch(generation=self.generation, term=self.revision)
        self._set_leader(msgspec.structs.replace(candidate, epoch=epoch))
        self._arm()
        return epoch

    def renew(self, epoch: Epoch) -> None:
        self.check(epoch)
        self._arm()

    def apply(self, epoch: Epoch, operations: Sequence[Operation]) -> int:
        self.check(epoch)
        for operation in operations:
            match operation:
                case Put(key=key, value=value):
                    self.values[key] = value
                case Delete(key=key):
                    self.values.pop(key, None)
        self.revision += 1
        return self.revision

    def check(self, epoch: Epoch) -> None:
        """Raises `Fenced` unless the leader key is the one of this epoch."""
        if self.leader is None or self.leader.epoch != epoch:
            successor = "nobody leads" if self.leader is None else f"term {self.leader.epoch.term} leads"
            raise Fenced(f"term {epoch.term} is over: {successor}")

    def end_term(self) -> None:
        """Take the leader key away, as the end of its lease does; whoever held it is not told."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self.leader is not None:
            self.revision += 1
            self._set_leader(None)

    async def leader_changed(self) -> None:
        """Wait for the next change of the leader key."""
        await self._changed.wait()

    def _set_leader(self, leader: LeaderRecord | None) -> None:
        self.leader = leader
        self._changed.set()
        self._changed = asyncio.Event()

    def _arm(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if math.isfinite(self.lease_s):
            self._expiry = asyncio.get_running_loop().call_later(self.lease_s, self.end_term)


class Loss(enum.Enum):
    """What a lost commit was: never carried out, or carried out and never acknowledged."""

    REQUEST = "request"
    ANSWER = "answer"


class MemoryStore:
    """One controller's handle. The public attributes are its faults; tests and the simulator set them at any time."""

    kind = "memory"

    def __init__(self, database: MemoryDatabase) -> None:
        self.reachable = True
        self.delay_s = 0.0
        """Every call takes this long."""
        self.lose_next_commit: Loss | None = None
        self._database = database
        self._in_doubt: Epoch | None = None
        self._closed = False

    async def campaign(self, candidate: LeaderRecord) -> Leadership:
        while True:
            try:
                await self._reach()
            except Unavailable:
                if self._closed:
                    raise
                await asyncio.sleep(_RETRY_S)
                continue
            epoch = self._database.elect(candidate)
            if epoch is not None:
                return Leadership(epoch=epoch, lease_s=self._database.lease_s)
            await self._database.leader_changed()

    async def keep_alive(self, leadership: Leadership) -> None:
        await self._reach()
        self._database.renew(leadership.epoch)

    def renewal_age_s(self, leadership: Leadership) -> float:
        return math.inf

    async def resign(self, leadership: Leadership) -> None:
        await self._reach()
        leader = self._database.leader
        if leader is not None and leader.epoch == leadership.epoch:
            self._database.end_term()

    async def load(self, leadership: Leadership) -> Snapshot:
        await self._reach()
        self._database.check(leadership.epoch)
        return Snapshot(revision=self._database.revision, values=dict(self._database.values))

    async def commit(self, leadership: Leadership, operations: Sequence[Operation]) -> int:
        return await self._commit(leadership, operations, None)

    async def raise_generation(
        self, leadership: Leadership, generation: int, operations: Sequence[Operation] = ()
    ) -> int:
        return await self._commit(leadership, operations, generation)

    async def _commit(self, leadership: Leadership, operations: Sequence[Operation], generation: int | None) -> int:
        check_operations(operations)
        if self._in_doubt == leadership.epoch:
            raise Fenced("the outcome of an earlier commit is unknown, so this term must end")
        try:
            await self._reach()
            return self._apply(leadership.epoch, operations, generation)
        except (asyncio.CancelledError, OutcomeUnknown):
            self._in_doubt = leadership.epoch
            raise

    async def read(self) -> Contents:
        await self._reach()
        database = self._database
        term = 0 if database.leader is None else database.leader.epoch.term
        return Contents(
            snapshot=Snapshot(revision=database.revision, values=dict(database.values)),
            epoch=Epoch(generation=database.generation, term=term),
            leader=database.leader,
        )

    async def get(self, key: str) -> bytes | None:
        await self._reach()
        return self._database.values.get(key)

    async def examine(self) -> Examination:
        await self._reach()
        return Examination(facts={"records": str(len(self._database.values))})

    async def observe_leader(self) -> AsyncIterator[LeaderRecord | None]:
        first = True
        seen: LeaderRecord | None = None
        while not self._closed:
            if not self.reachable:
                await asyncio.sleep(_RETRY_S)
                continue
            leader = self._database.leader
            if first or leader != seen:
                first, seen = False, leader
                yield leader
            else:
                await self._database.leader_changed()

    async def ping(self) -> None:
        await self._reach()

    async def close(self) -> None:
        self._closed = True

    def _apply(self, epoch: Epoch, operations: Sequence[Operation], generation: int | None) -> int:
        loss, self.lose_next_commit = self.lose_next_commit, None
        if loss is not Loss.REQUEST:
            revision = self._database.apply(epoch, operations)
            self._database.generation = self._database.generation if generation is None else generation
            if loss is None:
                return revision
        raise OutcomeUnknown("the memory store was told to lose this commit")

    async def _reach(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self._closed:
            raise Unavailable("this store is closed")
        if not self.reachable:
            raise Unavailable("the memory store is cut off from this controller")
