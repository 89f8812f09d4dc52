"""Keeps the numbers of autoscaled jobs: when to look at them, what to ask for, and the carrying out.

A thin shell around `controller.core.autoscale`. Nothing is measured, asked or looked at while no job is autoscaled, and
nothing is written that does not change a number or what the schedule has come to.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec

from common.model.event import Event
from common.model.job import Job
from common.model.node import NodeCondition
from common.model.session import UsageReport
from controller.core.autoscale import Memory, Outlook, affordable, look, scaled
from controller.core.events import metric_event
from controller.core.load import Answer, Sight
from controller.core.load_book import AllTraffic, LoadBook
from controller.ledger import Committed, Ledger
from controller.measurements import FRESH_S, Measurements
from controller.presence import Presence
from controller.settings import ScalingTimers
from controller.state import Group, State, Write

logger = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[str], Awaitable[Answer]]
"""The value of an expression; never raises."""

QUESTIONS_AT_ONCE = 16
"""Questions to Prometheus under way at a time."""
LEAST_WAIT_S = 0.01
"""A timer may fire a rounding error early."""


class AutoscaleLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time."""

    def __init__(
        self,
        ledger: Ledger,
        presence: Presence,
        measurements: Measurements,
        *,
        clock: Callable[[], float],
        ask: Ask,
        timers: ScalingTimers,
        record: Callable[[Event], None] = lambda _event: None,
        decided: Callable[[int, int], None] = lambda _before, _after: None,
    ) -> None:
        self._ledger = ledger
        self._state = ledger.state
        self._presence = presence
        self._measurements = measurements
        self._clock = clock
        self._ask = ask
        self._timers = timers
        self._record = record
        self._decided = decided
        self._book = LoadBook(window_s=timers.period_s, fresh_s=max(FRESH_S, 3 * timers.report_s))
        self._jobs: dict[str, None] = {}
        """Ids of those whose number is looked after."""
        self._memories: dict[str, Memory] = {}
        self._wake_at_s: dict[str, float] = {}
        """When the schedule of each is due next, by the clock."""
        self._failing: dict[str, str] = {}
        """By job: why its query has no answer."""
        self._some = asyncio.Event()
        self.texts: dict[str, tuple[str, ...]] = {}
        """By job id: what the last look found, for people."""

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed)
        self._measurements.reported = self._reported
        try:
            for job in self._state.jobs.values():
                self._follow(job.id)
            while True:
                await self._some.wait()
                self._want()
                await asyncio.sleep(min(self._timers.period_s, max(LEAST_WAIT_S, self._due_s - self._clock())))
                await self._look_at_all()
        finally:
            unsubscribe()

    @property
    def _due_s(self) -> float:
        return min(self._wake_at_s.values(), default=math.inf)

    def _want(self) -> None:
        """Reports of the nodes with tasks, or of all where traffic counts, which any node may have."""
        node_ids: dict[str, None] = {}
        for job in self._looked_after():
            autoscale = job.autoscale
            if autoscale is not None and (autoscale.requests_per_second or autoscale.sleeps):
                node_ids = dict.fromkeys(self._state.nodes)
                break
            if autoscale is not None and autoscale.measures:
                node_ids |= {task.node_id: None for task in self._state.tasks_of_job(job.id).values() if task.node_id}
        self._book.keep_only(node_ids)
        self._measurements.want_steadily(dict.fromkeys(node_ids, self._timers.report_s))

    async def _look_at_all(self) -> None:
        jobs = self._looked_after()
        answers = await self._answers(jobs)
        steady_s = asyncio.get_running_loop().time()
        traffic = self._book.traffic(self._state.nodes.values(), self._conditions, steady_s)
        for job in jobs:
            await self._look_at(job.id, answers.get(job.id, Answer()), traffic)

    async def _look_at(self, job_id: str, answer: Answer, traffic: AllTraffic) -> None:
        found: Outlook | None = None
        before: Job | None = None
        refused = ""

        def transaction(state: State) -> tuple[Group, ...]:
            nonlocal found, before, refused
            before = state.jobs.get(job_id)
            if before is None or not scaled(before, state.spec_of(before)):
                return ()
            now_s, steady_s = self._clock(), asyncio.get_running_loop().time()
            tasks = self._book.tasks(state, before, self._conditions, now_s, steady_s)
            sight = Sight(tasks=tasks, traffic=traffic.of(before), answer=answer)
            found = look(before, state.spec_of(before), sight, self._memories.get(job_id), now_s, steady_s)
            after, refused = affordable(state, before, found.job, now_s)
            found = msgspec.structs.replace(found, job=after)
            return () if after == before else ((Write(after),),)

        await self._ledger.submit(transaction)
        if found is not None and before is not None:
            self._took(before, found, refused)

    def _took(self, before: Job, found: Outlook, refused: str) -> None:
        self._memories[before.id] = msgspec.structs.replace(found.memory, replicas=found.job.replicas)
        self.texts[before.id] = (*found.texts, refused) if refused else found.texts
        self._wake_at_s[before.id] = found.wake_at_s
        if found.job.replicas != before.replicas:
            self._decided(before.replicas, found.job.replicas)
            logger.info(
                "%s: %d to %d replicas: %s",
                before.full_name,
                before.replicas,
                found.job.replicas,
                found.job.scaling.reason,
            )

    async def _answers(self, jobs: list[Job]) -> dict[str, Answer]:
        """What Prometheus says for each job with a query, asked side by side."""
        room = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        answers: dict[str, Answer] = {}

        async def one(job_id: str, expression: str) -> None:
            async with room:
                answers[job_id] = await self._ask(expression)

        async with asyncio.TaskGroup() as group:
            for job in jobs:
                if job.autoscale is not None and job.autoscale.query is not None:
                    group.create_task(one(job.id, job.autoscale.query.prometheus))
        for job in jobs:
            if job.id in answers:
                self._note(job, answers[job.id])
        return answers

    def _note(self, job: Job, answer: Answer) -> None:
        """Tell once when a source disappears, and once when it is back."""
        known = self._failing.get(job.id, "")
        if bool(answer.problem) != bool(known):
            self._record(metric_event(job, answer.problem))
        self._failing[job.id] = answer.problem

    # --- which jobs

    def _looked_after(self) -> list[Job]:
        return [self._state.jobs[job_id] for job_id in self._jobs]

    @property
    def _conditions(self) -> Mapping[str, NodeCondition]:
        return self._presence.conditions

    def _reported(self, node_id: str, report: UsageReport, at_s: float) -> None:
        if self._jobs:
            self._book.take(node_id, report, at_s)

    def _committed(self, committed: Committed) -> None:
        for applied in committed.applied:
            match applied.after or applied.before:
                case Job(id=job_id):
                    if _resized(applied.before, applied.after):
                        self.texts.pop(job_id, None)  # it was said of another number
                    self._follow(job_id)
                case _:
                    pass

    def _follow(self, job_id: str) -> None:
        job = self._state.jobs.get(job_id)
        if job is not None and job.id in self._jobs and job.autoscale is not None:
            return
        if job is not None and job.autoscale is not None:
            self._jobs[job_id] = None
            self._some.set()
        elif job_id in self._jobs:
            for known in (self._jobs, self._memories, self._failing, self._wake_at_s, self.texts):
                known.pop(job_id, None)
            if not self._jobs:
                self._some.clear()
                self._want()


def _resized(before: object, after: object) -> bool:
    return isinstance(before, Job) and isinstance(after, Job) and before.replicas != after.replicas
