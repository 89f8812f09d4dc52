"""The `Jobs` service over values: checks requests, lets the core decide on the committed state, then answers.

Never decides by itself what a write means, and never touches a task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import msgspec

from common.model.api import (
    ApplyRequest,
    Changes,
    JobDetail,
    JobList,
    JobRef,
    JobsRequest,
    JobView,
    ListJobs,
    ListTasks,
    LogLines,
    LogsRequest,
    Plan,
    RollbackRequest,
    ScaleRequest,
    TaskDetail,
    TaskList,
    TaskRef,
    TaskView,
    WatchedJobs,
    WatchJobs,
    WhyRequest,
)
from common.model.job import Job
from common.model.program import ExecRequest
from common.model.session import ExecOutput
from common.model.task import Slot
from common.model.verdict import Verdict
from controller.api import requests
from controller.api.exec import run_exec
from controller.api.log_reading import read_logs
from controller.api.names import find_job_or_task
from controller.api.term import ApiFront, ApiTerm
from controller.api.watch import watch_jobs
from controller.api.why import Known, why_job, why_task
from controller.core.apply import Applying, apply_specs, jobs_of, remove, restart, scale, stop
from controller.core.assets import check_known
from controller.core.autoscale import kept_notes
from controller.core.certificates import check_shown
from controller.core.certificates import notes as certificate_notes
from controller.core.plan import plan
from controller.core.steer import pause, promote, resume, rollback
from controller.core.traffic import routing_notes
from controller.core.turns import Turns
from controller.core.views import job_detail, job_view, task_view
from controller.state import Group, State, find_job, find_task
from controller.turns import in_turns

Decide = Callable[[State], Applying]


class JobsService:
    """Every method raises `NotLeader` where nobody leads, and what it says besides."""

    def __init__(self, front: ApiFront) -> None:
        self._front = front

    # --- writes: in the store when they return

    async def apply(self, request: ApplyRequest) -> Changes:
        """Raises `Invalid` with every fault, or `Conflict`; then nothing was changed."""
        requests.check_apply(request)
        term = self._front.term
        requests.check_exclusive(request, term.timers.exclusive)
        requests.check_queries(request, asks=term.asks)

        def decide(state: State) -> Applying:
            check_known(state, request)
            check_shown(state, request.specs, term.vault, term.clock())
            return apply_specs(state, request, term.clock(), term.rng)

        changes = await self._write(term, "apply", request, decide)
        return msgspec.structs.replace(changes, warnings=(*changes.warnings, *_traffic_notes(term.state, request)))

    async def scale(self, request: ScaleRequest) -> Changes:
        requests.check_scale(request)
        term = self._front.term
        return await self._write(term, "scale", request, lambda state: scale(state, request, term.clock()))

    async def restart(self, request: JobsRequest) -> Changes:
        requests.check_jobs(request)
        term = self._front.term
        return await self._write(term, "restart", request, lambda state: restart(state, request, term.clock()))

    async def rollback(self, request: RollbackRequest) -> Changes:
        """Raises `Conflict` where there is nothing to go back to, as the next three do where they make no sense."""
        requests.check_rollback(request)
        term = self._front.term
        return await self._write(term, "rollback", request, lambda state: rollback(state, request, term.clock()))

    async def pause(self, request: JobsRequest) -> Changes:
        requests.check_jobs(request)
        return await self._write(self._front.term, "pause", request, lambda state: pause(state, request))

    async def resume(self, request: JobsRequest) -> Changes:
        requests.check_jobs(request)
        term = self._front.term
        return await self._write(term, "resume", request, lambda state: resume(state, request, term.clock()))

    async def promote(self, request: JobsRequest) -> Changes:
        requests.check_jobs(request)
        term = self._front.term
        return await self._write(term, "promote", request, lambda state: promote(state, request, term.clock()))

    async def stop(self, request: JobsRequest) -> Changes:
        requests.check_jobs(request)
        return await self._write(self._front.term, "stop", request, lambda state: stop(state, request))

    async def remove(self, request: JobsRequest) -> Changes:
        requests.check_jobs(request)
        return await self._write(self._front.term, "remove", request, lambda state: remove(state, request))

    async def _write(
        self,
        term: ApiTerm,
        verb: str,
        request: ApplyRequest | ScaleRequest | JobsRequest | RollbackRequest,
        decide: Decide,
    ) -> Changes:
        key = request.idempotency_key and f"{verb} {request.namespace} {request.idempotency_key}"
        return await term.repeats.once(key, request, lambda: _committed(term, decide))

    # --- reads

    async def plan(self, request: ApplyRequest) -> Plan:
        """What `apply` would do. Raises like it."""
        requests.check_apply(request)
        term = self._front.term
        requests.check_exclusive(request, term.timers.exclusive)
        requests.check_queries(request, asks=term.asks)
        check_shown(term.state, request.specs, term.vault, term.clock())
        notes = (*kept_notes(term.state, request.specs), *_traffic_notes(term.state, request))
        planned = await in_turns(
            plan(term.state, term.conditions, term.table, request, term.clock(), term.rng, term.attention())
        )
        return msgspec.structs.replace(planned, notes=(*planned.notes, *notes))

    async def list_jobs(self, request: ListJobs) -> JobList:
        requests.check_namespace(request.namespace)
        term = self._front.term
        return await in_turns(_listed(term, [job.id for job in jobs_of(term.state, request.namespace)]))

    async def inspect(self, request: JobRef) -> JobDetail:
        term = self._front.term
        job = find_job(term.state, request.namespace, request.name)
        return job_detail(term.state, job, term.conditions, term.clock(), term.verdicts)

    async def tasks(self, request: ListTasks) -> TaskList:
        requests.check_namespace(request.namespace)
        term = self._front.term
        if request.job:
            jobs = [find_job(term.state, request.namespace, request.job)]
        else:
            jobs = jobs_of(term.state, request.namespace)
        return await in_turns(_tasks_listed(term, [job.id for job in jobs], ended=request.include_ended))

    async def inspect_task(self, request: TaskRef) -> TaskDetail:
        term = self._front.term
        task = find_task(term.state, request.namespace, request.name)
        return TaskDetail(
            view=task_view(term.state, task, term.conditions, term.verdicts),
            spec=term.state.spec_of_task(task),
            slot=term.state.slot_of(task.job_id, task.slot),
        )

    async def why(self, request: WhyRequest) -> Verdict:
        term = self._front.term
        known = Known(
            state=term.state,
            conditions=term.conditions,
            table=term.table,
            now_s=term.clock(),
            scaling=term.scaling,
        )
        found = find_job_or_task(term.state, request.namespace, request.name)
        return why_job(known, found) if isinstance(found, Job) else why_task(known, found)

    # --- streams

    async def watch(self, request: WatchJobs, send: Callable[[WatchedJobs], Awaitable[None]]) -> None:
        requests.check_namespace(request.namespace)
        await watch_jobs(self._front.term, request, send)

    async def logs(self, request: LogsRequest, send: Callable[[LogLines], Awaitable[None]]) -> None:
        requests.check_logs(request)
        await read_logs(self._front.term, request, send)

    async def exec(self, asked: AsyncIterator[ExecRequest], send: Callable[[ExecOutput], Awaitable[None]]) -> None:
        await run_exec(self._front.term, asked, send)


def _listed(term: ApiTerm, job_ids: Iterable[str]) -> Turns[JobList]:
    """Each job as it is when its turn comes; those that are gone by then are left out."""
    now_s = term.clock()
    views: list[JobView] = []
    for job_id in job_ids:
        job = term.state.jobs.get(job_id)
        if job is not None:
            views.append(job_view(term.state, job, term.conditions, now_s, term.verdicts))
        yield
    return JobList(jobs=tuple(views))


def _tasks_listed(term: ApiTerm, job_ids: Iterable[str], *, ended: bool) -> Turns[TaskList]:
    """As `_listed`. `ended`: also tasks that have, and the memory of slots."""
    views: list[TaskView] = []
    slots: list[Slot] = []
    for job_id in job_ids:
        tasks = [task for task in term.state.tasks_of_job(job_id).values() if ended or not task.ended]
        tasks.sort(key=lambda task: (task.slot, task.created_at_s, task.id))
        views += (task_view(term.state, task, term.conditions, term.verdicts) for task in tasks)
        if ended:
            slots += (slot for _, slot in sorted(term.state.slots_of(job_id).items()))
        yield
    return TaskList(tasks=tuple(views), slots=tuple(slots))


async def _committed(term: ApiTerm, decide: Decide) -> Changes:
    """Carry out what `decide` makes of the state at its turn, and say what that was."""
    applying = Applying(groups=(), changes=())

    def transaction(state: State) -> tuple[Group, ...]:
        nonlocal applying
        applying = decide(state)  # the last call is the one that was committed
        return applying.groups

    await term.ledger.answer(transaction)
    return Changes(changes=applying.changes)


def _traffic_notes(state: State, request: ApplyRequest) -> tuple[str, ...]:
    return (*routing_notes(state, request.specs), *certificate_notes(state, request.specs))
