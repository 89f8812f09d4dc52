"""A store for tests of the rooms above it: keeps everything in memory, waits at a gate and fails when told to."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence

from common.errors import Fenced, PodiumError
from common.model.epoch import Epoch
from controller.store.interface import Delete, LeaderRecord, Leadership, Operation, Put, Snapshot


class ScriptedStore:
    kind = "scripted"

    def __init__(self, lease_s: float = math.inf) -> None:
        self.lease_s = lease_s
        self.values: dict[str, bytes] = {}
        self.commits: list[list[Operation]] = []
        self.commit_gate = asyncio.Event()
        self.commit_gate.set()
        self.commit_begun = asyncio.Event()
        self.commit_failures: deque[PodiumError] = deque()
        self.renewals = 0
        self.renewal_failures: deque[PodiumError] = deque()
        self.stand_in_age_s = math.inf
        self.renewal_gate = asyncio.Event()
        self.renewal_gate.set()
        self.campaign_failures: deque[PodiumError] = deque()
        self.load_failures: deque[PodiumError] = deque()
        self.resigned: list[int] = []
        self.term = 0
        self.leader: LeaderRecord | None = None
        self.changed = asyncio.Condition()
        self.ping_failure: PodiumError | None = None

    async def campaign(self, candidate: LeaderRecord) -> Leadership:
        if self.campaign_failures:
            raise self.campaign_failures.popleft()
        async with self.changed:
            await self.changed.wait_for(lambda: self.leader is None)
            self.term += 1
            epoch = Epoch(term=self.term)
            self.leader = LeaderRecord(controller_id=candidate.controller_id, address=candidate.address, epoch=epoch)
            self.changed.notify_all()
        return Leadership(epoch=epoch, lease_s=self.lease_s)

    async def keep_alive(self, leadership: Leadership) -> None:
        async with self.changed:
            self.renewals += 1
            self.changed.notify_all()
        await self.renewal_gate.wait()
        if self.renewal_failures:
            raise self.renewal_failures.popleft()
        self._check(leadership)

    def renewal_age_s(self, leadership: Leadership) -> float:
        return self.stand_in_age_s

    async def more_renewals(self, count: int) -> None:
        """Wait until `count` more renewals were tried."""
        enough = self.renewals + count
        async with self.changed:
            await self.changed.wait_for(lambda: self.renewals >= enough)

    async def resign(self, leadership: Leadership) -> None:
        self.resigned.append(leadership.epoch.term)
        if self.leader is not None and self.leader.epoch == leadership.epoch:
            await self.set_leader(None)

    async def set_leader(self, leader: LeaderRecord | None) -> None:
        async with self.changed:
            self.leader = leader
            self.changed.notify_all()

    async def load(self, leadership: Leadership) -> Snapshot:
        if self.load_failures:
            raise self.load_failures.popleft()
        self._check(leadership)
        return Snapshot(revision=len(self.commits), values=dict(self.values))

    async def commit(self, leadership: Leadership, operations: Sequence[Operation]) -> int:
        self.commit_begun.set()
        await self.commit_gate.wait()
        if self.commit_failures:
            raise self.commit_failures.popleft()
        self._check(leadership)
        for operation in operations:
            match operation:
                case Put(key=key, value=value):
                    self.values[key] = value
                case Delete(key=key):
                    self.values.pop(key, None)
        self.commits.append(list(operations))
        return len(self.commits)

    async def observe_leader(self) -> AsyncIterator[LeaderRecord | None]:
        seen = self.leader
        yield seen
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: self.leader != seen)  # noqa: B023  read at once
                seen = self.leader
            yield seen

    async def ping(self) -> None:
        if self.ping_failure is not None:
            raise self.ping_failure

    async def close(self) -> None:
        pass

    def _check(self, leadership: Leadership) -> None:
        if self.leader is None or self.leader.epoch != leadership.epoch:
            raise Fenced(f"term {leadership.epoch.term} is over")
