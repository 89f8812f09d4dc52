"""Keeps every job converging: reconciles those that something happened to, and those whose time has come.

A thin shell around `controller.core.reconcile`, which decides. Work follows change: commits, conditions of nodes and
timers mark jobs, and only marked jobs are looked at. Decisions are taken inside the ledger's transaction, on the
committed state, so they are never based on anything older.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec

from common.model.ids import Rng
from common.model.job import Job, JobVersion
from common.model.node import Node, NodeCondition
from common.model.quota import Quota
from common.model.task import Slot, Task
from common.model.trust import Authority, Denied, JoinToken, User
from controller.core.decisions import Create, Decision
from controller.core.exclusive import ExclusiveTimers
from controller.core.reconcile import reconcile
from controller.core.slots import merely_nearer
from controller.ledger import Committed, Ledger
from controller.loops.alarms import Alarms
from controller.presence import Presence
from controller.state import Applied, Group, State
from controller.store.keys import Record


class ConvergenceLimits(msgspec.Struct, frozen=True, kw_only=True):
    jobs: int = 64
    """Reconciled in one transaction: it is evaluated without a break, and 64 small jobs take a few milliseconds."""
    groups: int = 6_000
    """Changes taken from one transaction, 50 commits: others must get their turn while a huge job is created."""
    rest_factor: float = 3.0
    """A job whose reconciliation took t seconds rests for this many t: one huge job gets a quarter of the loop."""
    rest_from_s: float = 0.005
    """Shorter reconciliations need no rest."""


CONVERGENCE_LIMITS = ConvergenceLimits()


DecisionObserver = Callable[[Decision], None]
"""Told of each decision that was committed."""


class ConvergenceLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time."""

    def __init__(
        self,
        ledger: Ledger,
        presence: Presence,
        *,
        clock: Callable[[], float],
        rng: Rng,
        limits: ConvergenceLimits = CONVERGENCE_LIMITS,
        observe: DecisionObserver = lambda _decision: None,
        exclusive: Callable[[], ExclusiveTimers] = ExclusiveTimers,
    ) -> None:
        self._ledger = ledger
        self._state = ledger.state
        self._presence = presence
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._observe = observe
        self._exclusive = exclusive
        self._marked: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._alarms = Alarms(self._mark)
        self._rests_until_s: dict[str, float] = {}
        self._dependants = _Dependants(self._state)

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed), self._presence.subscribe(self._condition_changed)
        try:
            for job_id in self._state.jobs:
                self._dependants.follow(self._state.jobs[job_id])
                self._mark(job_id)
            while True:
                await self._wake.wait()
                await self._converge(tuple(islice(self._marked, self._limits.jobs)))
        finally:
            for stop in unsubscribe:
                stop()
            self._alarms.close()

    async def _converge(self, job_ids: tuple[str, ...]) -> None:
        """Reconcile these jobs as one transaction. Each is committed only whole or not at all."""
        for job_id in job_ids:
            del self._marked[job_id]
        if not self._marked:
            self._wake.clear()
        decided: list[Decision] = []

        def transaction(state: State) -> list[Group]:
            decided.clear()
            groups: list[Group] = []
            for job_id in job_ids:
                groups += self._reconcile(state, job_id, self._limits.groups - len(groups), decided)
            return groups

        await self._ledger.submit(transaction)
        for decision in decided:
            self._observe(decision)

    def _reconcile(self, state: State, job_id: str, room: int, decided: list[Decision]) -> tuple[Group, ...]:
        """The next changes of one job, at most `room`: their commit marks the job again for what did not fit."""
        self._alarms.cancel(job_id)
        job = state.jobs.get(job_id)
        if job is None:
            self._rests_until_s.pop(job_id, None)
            return ()
        if not room:
            self._mark(job_id)
            return ()
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        setting_out = sum(isinstance(decision, Create) and bool(decision.moves) for decision in decided)
        found = reconcile(
            state,
            job,
            self._presence.conditions,
            self._clock(),
            self._rng,
            setting_out=setting_out,
            timers=self._exclusive(),
        )
        took_s = loop.time() - begun_s
        if took_s >= self._limits.rest_from_s:
            self._rests_until_s[job_id] = loop.time() + took_s * self._limits.rest_factor
        if math.isfinite(found.wake_at_s):
            self._alarms.set(job_id, found.wake_at_s - self._clock())
        decided += found.decisions[:room]
        return found.groups[:room]

    # --- which jobs

    def _mark(self, job_id: str) -> None:
        rest_s = self._rests_until_s.get(job_id, 0.0) - asyncio.get_running_loop().time()
        if rest_s > 0:
            self._alarms.set(job_id, rest_s)
            return
        self._rests_until_s.pop(job_id, None)
        self._marked[job_id] = None
        self._wake.set()

    def _committed(self, committed: Committed) -> None:
        for job_id in dict.fromkeys(id_ for applied in committed.applied for id_ in self._concerned(applied)):
            self._mark(job_id)

    def _concerned(self, applied: Applied) -> Iterator[str]:
        """Jobs that a change may ask something of."""
        record = applied.after or applied.before
        match record:
            case Job():
                if applied.after is None:
                    self._dependants.forget(record)
                else:
                    self._dependants.follow(record)
                yield record.id
                yield from self._dependants.of(record.full_name)
            case Task():
                if isinstance(applied.before, Task) and applied.after and merely_nearer(applied.before, record):
                    return
                yield record.job_id
                yield from self._dependants.of(record.job_name)
                yield from self._made_room(applied.before)
            case JobVersion() | Slot():
                yield record.job_id
            case Node(id=node_id):
                yield from self._jobs_on(node_id)
            case Quota(namespace=namespace):
                yield from (job.id for job in self._state.jobs.values() if job.namespace == namespace)
            case Authority() | JoinToken() | User() | Denied() | None:  # nothing is placed or stopped because of these
                pass

    def _condition_changed(self, before: NodeCondition | None, after: NodeCondition) -> None:
        if before is None or (before.status, before.silent_s) != (after.status, after.silent_s):
            for job_id in dict.fromkeys(self._jobs_on(after.node_id)):
                self._mark(job_id)

    def _made_room(self, before: Record | None) -> Iterator[str]:
        """Jobs with tasks that were asked to make room for this one: it has a node now, or waits for another one."""
        if isinstance(before, Task) and before.nomination is not None:
            for task in self._state.tasks_of_node(before.nomination.node_id).values():
                if task.displaced is not None and task.displaced.task_id == before.id:
                    yield task.job_id

    def _jobs_on(self, node_id: str) -> Iterator[str]:
        return (task.job_id for task in self._state.tasks_of_node(node_id).values())


class _Dependants:
    """Which jobs wait for which, by the names in their current specs."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._awaited: dict[str, tuple[str, ...]] = {}
        self._waiting: dict[str, dict[str, None]] = {}

    def of(self, full_name: str) -> tuple[str, ...]:
        """Ids of the jobs that depend on the job of this name."""
        return tuple(self._waiting.get(full_name, ()))

    def follow(self, job: Job) -> None:
        self.forget(job)
        if job.id not in self._state.jobs:  # written and erased by one commit
            return
        names = tuple(f"{job.namespace}/{one.job}" for one in self._state.spec_of(job).depends_on)
        if names:
            self._awaited[job.id] = names
        for name in names:
            self._waiting.setdefault(name, {})[job.id] = None

    def forget(self, job: Job) -> None:
        for name in self._awaited.pop(job.id, ()):
            waiting = self._waiting[name]
            waiting.pop(job.id, None)
            if not waiting:
                del self._waiting[name]
