"""Follows jobs for one engineer: everything at first, then each job whole when something about it changed.

Changes within a moment come as one answer. Follows the ledger and the presence for as long as somebody watches.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import msgspec

from common.model.api import JobDetail, JobStatus, WatchedJobs, WatchJobs
from common.model.job import Job
from common.model.node import NodeCondition
from common.model.task import Slot, Task
from controller.api.term import ApiTerm
from controller.core.slots import settles_at_s
from controller.core.views import job_detail
from controller.ledger import Committed

REST_S = 0.02
"""From one answer to the next at least: what is decided, placed and started within a moment comes as one. The first
change after a quiet time is told at once: whoever waits for a container should not wait for us."""
REST_FACTOR = 20.0
"""An answer that took t seconds to make and send is followed by so many t of rest: a watcher of a job of a thousand
tasks costs the leader a twentieth of its time and no more."""
REST_LIMIT_S = 1.0
"""Longer would look as if nothing happened."""


async def watch_jobs(term: ApiTerm, request: WatchJobs, send: Callable[[WatchedJobs], Awaitable[None]]) -> None:
    """Until cancelled."""
    loop = asyncio.get_running_loop()
    watch = _Watch(term, request)
    unsubscribe = term.ledger.subscribe(watch.committed), term.presence.subscribe(watch.condition_changed)
    try:
        begun_s = loop.time()
        await send(WatchedJobs(jobs=watch.begin()))
        while True:
            await asyncio.sleep(_rest_s(loop.time() - begun_s))
            await watch.wait()
            begun_s = loop.time()
            details = watch.take()
            if details:
                await send(WatchedJobs(jobs=details))
    finally:
        for stop in unsubscribe:
            stop()


def _rest_s(took_s: float) -> float:
    return min(max(REST_S, took_s * REST_FACTOR), REST_LIMIT_S)


class _Watch:
    """What one watcher was shown, and which jobs may look different by now."""

    def __init__(self, term: ApiTerm, request: WatchJobs) -> None:
        self._term = term
        self._namespace = request.namespace
        self._names = frozenset(request.jobs)
        self._shown: dict[str, JobDetail] = {}
        self._dirty: dict[str, None] = {}
        self._changed = asyncio.Event()
        self._looked_at_s = 0.0
        """Unix time of the last answer: what settled since then has not been shown yet."""

    def begin(self) -> tuple[JobDetail, ...]:
        self._dirty = dict.fromkeys(job.id for job in self._term.state.jobs.values() if self._concerns(job))
        return self.take()

    async def wait(self) -> None:
        """Until something changed, or mere time makes a task count as well."""
        due_at_s = min((at_s for _, at_s in self._settling()), default=math.inf)
        wait_s = max(0.0, due_at_s - self._term.clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s if math.isfinite(wait_s) else None):
                await self._changed.wait()

    def take(self) -> tuple[JobDetail, ...]:
        """The jobs that look different from what was shown last."""
        self._changed.clear()
        now_s = self._term.clock()
        self._dirty.update((job_id, None) for job_id, at_s in self._settling() if at_s <= now_s)
        self._looked_at_s = now_s
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

    def _settling(self) -> Iterator[tuple[str, float]]:
        """Jobs with tasks that count, for mere time, only after the last answer; when each does."""
        state = self._term.state
        for job_id in self._shown:
            for task in state.tasks_of_job(job_id).values():
                for at_s in settles_at_s(task, state.spec_of_task(task)):
                    if at_s > self._looked_at_s:
                        yield job_id, at_s


def _gone(shown: JobDetail) -> JobDetail:
    job = msgspec.structs.replace(shown.view.job, removed=True)
    view = msgspec.structs.replace(
        shown.view, job=job, status=JobStatus.STOPPED, desired=0, running=0, healthy=0, message="removed"
    )
    return JobDetail(view=view)
