"""Follows jobs for one engineer: everything at first, then each job whole when something about it changed.

Changes within a moment come as one answer. Follows the ledger and the presence for as long as somebody watches.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import msgspec

from common.model.api import JobDetail, JobStatus, WatchedJobs, WatchJobs
from common.model.job import Job
from common.model.node import NodeCondition
from common.model.task import Slot, Task
from controller.api.term import ApiTerm
from controller.core.slots import settles_at_s
from controller.core.views import job_detail
from controller.ledger import Committed

COALESCE_S = 0.1
"""People see no difference, and a job that starts a thousand tasks makes ten answers a second and no more."""


async def watch_jobs(term: ApiTerm, request: WatchJobs, send: Callable[[WatchedJobs], Awaitable[None]]) -> None:
    """Until cancelled."""
    watch = _Watch(term, request)
    unsubscribe = term.ledger.subscribe(watch.committed), term.presence.subscribe(watch.condition_changed)
    try:
        await send(WatchedJobs(jobs=watch.begin()))
        while True:
            await watch.wait()
            await asyncio.sleep(COALESCE_S)
            details = watch.take()
            if details:
                await send(WatchedJobs(jobs=details))
    finally:
        for stop in unsubscribe:
            stop()


class _Watch:
    """What one watcher was shown, and which jobs may look different by now."""

    def __init__(self, term: ApiTerm, request: WatchJobs) -> None:
        self._term = term
        self._namespace = request.namespace
        self._names = frozenset(request.jobs)
        self._shown: dict[str, JobDetail] = {}
        self._dirty: dict[str, None] = {}
        self._changed = asyncio.Event()

    def begin(self) -> tuple[JobDetail, ...]:
        self._dirty = dict.fromkeys(job.id for job in self._term.state.jobs.values() if self._concerns(job))
        return self.take()

    async def wait(self) -> None:
        """Until something changed, or mere time makes a task count as well."""
        wait_s = self._settles_in_s()
        try:
            async with asyncio.timeout(wait_s if math.isfinite(wait_s) else None):
                await self._changed.wait()
        except TimeoutError:
            self._dirty.update(dict.fromkeys(self._shown))

    def take(self) -> tuple[JobDetail, ...]:
        """The jobs that look different from what was shown last."""
        self._changed.clear()
        dirty, self._dirty = self._dirty, {}
        details = []
        for job_id in dirty:
            detail = self._detail(job_id)
            if detail is not None and detail != self._shown.get(job_id):
                self._shown[job_id] = detail
                details.append(detail)
            if job_id not in self._term.state.jobs:
                self._shown.pop(job_id, None)
        return tuple(details)

    def committed(self, committed: Committed) -> None:
        for applied in committed.applied:
            match applied.after or applied.before:
                case Job() as job if self._concerns(job):
                    self._mark(job.id)
                case Task() | Slot() as record:
                    self._mark_known(record.job_id)
                case _:
                    pass

    def condition_changed(self, before: NodeCondition | None, after: NodeCondition) -> None:
        if before is None or before.status is not after.status:
            for task in self._term.state.tasks_of_node(after.node_id).values():
                self._mark_known(task.job_id)

    def _concerns(self, job: Job) -> bool:
        return job.namespace == self._namespace and (not self._names or job.name in self._names)

    def _mark_known(self, job_id: str) -> None:
        job = self._term.state.jobs.get(job_id)
        if job is not None and self._concerns(job):
            self._mark(job_id)

    def _mark(self, job_id: str) -> None:
        self._dirty[job_id] = None
        self._changed.set()

    def _detail(self, job_id: str) -> JobDetail | None:
        """The job as it is; a last word on one that is gone."""
        term = self._term
        job = term.state.jobs.get(job_id)
        if job is not None:
            return job_detail(term.state, job, term.conditions, term.clock(), term.verdicts)
        shown = self._shown.get(job_id)
        return None if shown is None else _gone(shown)

    def _settles_in_s(self) -> float:
        """Seconds until a running task without a health check counts as well."""
        now_s = self._term.clock()
        state = self._term.state
        waits = [
            at_s - now_s
            for job_id in self._shown
            for task in state.tasks_of_job(job_id).values()
            if (at_s := settles_at_s(task, state.spec_of_task(task))) is not None and at_s > now_s
        ]
        return min(waits, default=math.inf)


def _gone(shown: JobDetail) -> JobDetail:
    job = msgspec.structs.replace(shown.view.job, removed=True)
    view = msgspec.structs.replace(
        shown.view, job=job, status=JobStatus.STOPPED, desired=0, running=0, healthy=0, message="removed"
    )
    return JobDetail(view=view)
