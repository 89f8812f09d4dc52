"""Starts the runs of jobs with a schedule: one timer, for the one that is due first.

A thin shell around `controller.core.recurrence`, which decides, inside the ledger's transaction. Looks at a job when it
or one of its runs changed and when it is due, and writes only then. The wall clock may be set while the timer runs, so
it is looked at once a minute besides, as long as there is any schedule.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from common.model.ids import Rng
from common.model.job import Job, JobVersion
from common.model.task import Task
from controller.core.clocks import CLOCKS_DIFFER_S
from controller.core.recurrence import look
from controller.ledger import Committed, Ledger
from controller.state import Applied, Group, State

CLOCK_LOOK_S = 60.0
"""Schedules are to the minute, so a clock that was put right is noticed in time for the next one."""
JOBS_AT_ONCE = 64
"""Looked at in one transaction, which is evaluated without a break: each takes a fraction of a millisecond."""
LEAST_WAIT_S = 0.001
"""A timer may fire a rounding error early."""


class ScheduleLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float], rng: Rng) -> None:
        self._ledger = ledger
        self._state = ledger.state
        self._clock = clock
        self._rng = rng
        self._marked: dict[str, None] = {}
        self._due_at_s: dict[str, float] = {}
        """When each job with a schedule is due next."""
        self._wake = asyncio.Event()
        self._clock_seen_s = -math.inf

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed)
        try:
            for job in self._state.jobs.values():
                self._mark(job)
            while True:
                await self._until_marked()
                await self._look_at(tuple(islice(self._marked, JOBS_AT_ONCE)))
        finally:
            unsubscribe()

    async def _look_at(self, job_ids: tuple[str, ...]) -> None:
        for job_id in job_ids:
            del self._marked[job_id]
        due_at_s: dict[str, float] = {}

        def transaction(state: State) -> list[Group]:
            groups: list[Group] = []
            for job_id in job_ids:
                job = state.jobs.get(job_id)
                if job is not None:
                    found = look(state, job, self._clock(), self._rng)
                    groups += found.groups
                    due_at_s[job_id] = found.wake_at_s
            return groups

        await self._ledger.submit(transaction)
        for job_id in job_ids:
            self._due_at_s.pop(job_id, None)
            if math.isfinite(due_at_s.get(job_id, math.inf)):
                self._due_at_s[job_id] = due_at_s[job_id]

    async def _until_marked(self) -> None:
        while True:
            self._mark_due()
            if self._marked:
                return
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_s()):
                    await self._wake.wait()

    def _wait_s(self) -> float | None:
        if not self._due_at_s:
            return None
        return min(max(min(self._due_at_s.values()) - self._clock(), LEAST_WAIT_S), CLOCK_LOOK_S)

    def _mark_due(self) -> None:
        """Also everything when the clock went back: what was due next is not, by the new one."""
        now_s = self._clock()
        went_back = now_s < self._clock_seen_s - CLOCKS_DIFFER_S
        self._clock_seen_s = now_s
        for job_id, at_s in self._due_at_s.items():
            if at_s <= now_s or went_back:
                self._marked[job_id] = None

    # --- which jobs

    def _committed(self, committed: Committed) -> None:
        for applied in committed.applied:
            for job in self._concerned(applied):
                self._mark(job)

    def _concerned(self, applied: Applied) -> Iterator[Job | None]:
        match applied.after or applied.before:
            case Job() as job:
                yield job
            case JobVersion(job_id=job_id):
                yield self._state.jobs.get(job_id)
            case Task() as task if task.ended or task.lost_at_s:
                run = self._state.jobs.get(task.job_id)
                yield run if run is not None and run.run_of is not None else None
            case _:
                pass

    def _mark(self, job: Job | None) -> None:
        """The job, or the one whose run it is, when that has a schedule or had one."""
        if job is None:
            return
        if job.run_of is not None:
            job = self._state.jobs.get(job.run_of.job_id)
        if job is not None and (job.recurrence is not None or self._state.runs_of(job.id) or job.id in self._due_at_s):
            self._marked[job.id] = None
            self._wake.set()
