"""Wakes jobs that have no replica and that connections wait for, as soon as a node says so, and says how long it took.

A thin shell around `controller.core.waking`. Idle while nothing is wanted and nothing wakes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from common.model.job import DesiredState, Job
from common.model.task import Task, TaskState
from controller.core.admission import Door, knock
from controller.core.autoscale import affordable
from controller.core.endpoints import answers
from controller.core.settings import QUOTA_LOOK_S, WAKES_BURST, WAKES_PER_S
from controller.core.waking import ColdStart, advanced, awake, woken
from controller.ledger import Committed, Ledger
from controller.measurements import Measurements
from controller.state import Group, State, Write

logger = logging.getLogger(__name__)

_NODES_KNOWN = 1_000
"""Beyond that those are forgotten that have not woken anything for a while."""


class WakingLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time."""

    def __init__(
        self,
        ledger: Ledger,
        measurements: Measurements,
        *,
        clock: Callable[[], float],
        woke: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._ledger = ledger
        self._state = ledger.state
        self._measurements = measurements
        self._clock = clock
        self._woke = woke
        self._starts: dict[str, ColdStart] = {}
        """By job id."""
        self._up: dict[str, float] = {}
        """Job ids whose first task takes connections, and since when."""
        self._news = asyncio.Event()
        self._doors: dict[str, Door] = {}
        """Of nodes, by id."""
        self.refusals: dict[str, str] = {}
        """By job id: why it is not woken although connections wait, for people."""

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed)
        self._measurements.wanted = lambda _node_id: self._news.set()
        try:
            for job in self._state.jobs.values():
                self._job_changed(job)
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(QUOTA_LOOK_S if self.refusals else None):
                        await self._news.wait()
                self._news.clear()
                await self._look()
        finally:
            unsubscribe()

    async def _look(self) -> None:
        self.refusals.clear()
        for node_id, names in list(self._measurements.waited_for.items()):
            for name in names:
                await self._call(node_id, name)
        for job_id in list(self._up):
            await self._settle(job_id, self._up.pop(job_id))

    async def _call(self, node_id: str, name: str) -> None:
        """Connections at the node wait for the job."""
        namespace, _, short = name.partition("/")
        job = self._state.job_named(namespace, short)
        if job is None or job.replicas:
            return
        if not self._may_wake(node_id):
            self.refusals[job.id] = "connections wait for it on a node that has woken too many jobs of late: soon"
            return
        job_id, begun_s = job.id, self._now_s()
        done = False

        def transaction(state: State) -> tuple[Group, ...]:
            nonlocal done
            job, now_s = state.jobs.get(job_id), self._clock()
            if job is None:
                return ()
            node = state.nodes.get(node_id)
            asked = woken(job, state.spec_of(job), node.name if node else node_id, now_s)
            after, refused = affordable(state, job, asked, now_s)
            if refused:
                self.refusals[job_id] = f"connections wait for it, and it is not woken: {refused}"
            done = after != job
            return ((Write(after),),) if done else ()

        self._starts[job_id] = ColdStart(begun_s=begun_s)  # before its task is made by whoever sees the commit
        await self._ledger.submit(transaction)
        if done:
            logger.info("%s is woken: a connection waits for it", name)
        else:
            self._starts.pop(job_id, None)

    def _may_wake(self, node_id: str) -> bool:
        """Connections are the node's word alone, and a start costs something: each has a rate."""
        now_s = self._now_s()
        if len(self._doors) >= _NODES_KNOWN:
            self._doors = {known: door for known, door in self._doors.items() if door.full_at_s > now_s}
        door, wait_s = knock(self._doors.get(node_id, Door()), now_s, per_s=WAKES_PER_S, burst=WAKES_BURST)
        self._doors[node_id] = door
        return not wait_s

    async def _settle(self, job_id: str, at_s: float) -> None:
        """Note how long the cold start took."""

        def transaction(state: State) -> tuple[Group, ...]:
            job = state.jobs.get(job_id)
            if job is None or not job.scaling.woken_at_s:
                return ()
            return ((Write(awake(job, start, self._clock(), at_s)),),)

        start = self._starts.pop(job_id, None)
        await self._ledger.submit(transaction)
        if start is not None:
            self._woke(at_s - start.begun_s)

    # --- what changed

    def _committed(self, committed: Committed) -> None:
        for applied in committed.applied:
            match applied.after or applied.before:
                case Job() as job:
                    self._job_changed(job)
                case Task() as task:
                    self._progressed(task)
                case _:
                    pass

    def _job_changed(self, job: Job) -> None:
        """One that fell asleep may be waited for; one that another leader woke may be up."""
        if job.autoscale is None:
            return
        if not job.replicas:
            self._starts.pop(job.id, None)
            self._news.set()
        elif job.scaling.woken_at_s:
            for task in self._state.tasks_of_job(job.id).values():
                self._progressed(task)

    def _progressed(self, task: Task) -> None:
        job = self._state.jobs.get(task.job_id)
        if job is None or not job.scaling.woken_at_s or task.ended or task.id not in self._state.tasks:
            return
        if job.id in self._starts:
            self._starts[job.id] = advanced(self._starts[job.id], task, self._now_s())
        if job.id not in self._up and _takes_connections(self._state, task):
            self._up[job.id] = self._now_s()
            self._news.set()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _takes_connections(state: State, task: Task) -> bool:
    running = task.status.state is TaskState.RUNNING and task.desired is DesiredState.RUN
    return running and answers(task, state.spec_of_task(task))
