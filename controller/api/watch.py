"""Follows jobs for one engineer: everything at first, then what looks different, task by task.

Changes within a moment come as one answer, cut into messages that fit. Follows the ledger and the presence for as long
as somebody watches, and looks again only at tasks that something happened to: a job of a hundred thousand is not shown
anew because one of them started.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from common.model.api import JobDelta, JobDetail, JobStatus, JobView, TaskView, WatchedJobs, WatchJobs
from common.model.job import Job
from common.model.node import NodeCondition
from common.model.task import Slot, Task
from common.pieces import cut
from common.settings import LIMITS
from controller.api.term import ApiTerm
from controller.core.slots import settles_at_s
from controller.core.views import job_view, task_view
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
        for message in _messages(watch.begin()) or [WatchedJobs()]:
            await send(message)
        while True:
            await asyncio.sleep(_rest_s(loop.time() - begun_s))
            await watch.wait()
            begun_s = loop.time()
            for message in _messages(watch.take()):
                await send(message)
    finally:
        for stop in unsubscribe:
            stop()


def _rest_s(took_s: float) -> float:
    return min(max(REST_S, took_s * REST_FACTOR), REST_LIMIT_S)


@dataclass(slots=True)
class _Shown:
    """A job as its watcher knows it, and what of it may look different by now."""

    view: JobView
    tasks: dict[str, TaskView] = field(default_factory=dict)
    pending: dict[str, None] = field(default_factory=dict)
    """Tasks without a node: why they have none changes without a commit."""
    settles_at_s: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By task id: when mere time makes it count."""
    dirty_tasks: dict[str, None] = field(default_factory=dict)
    dirty_slots: dict[int, None] = field(default_factory=dict)

    def next_at_s(self, now_s: float) -> float:
        """When the next task settles; what has settled is forgotten."""
        left = {task_id: later for task_id, all_ in self.settles_at_s.items() if (later := _after(all_, now_s))}
        self.settles_at_s = left
        return min((moment for later in left.values() for moment in later), default=math.inf)


def _after(moments: tuple[float, ...], now_s: float) -> tuple[float, ...]:
    return tuple(moment for moment in moments if moment > now_s)


class _Watch:
    """What one watcher was shown, and which jobs may look different by now."""

    def __init__(self, term: ApiTerm, request: WatchJobs) -> None:
        self._term = term
        self._namespace = request.namespace
        self._names = frozenset(request.jobs)
        self._shown: dict[str, _Shown] = {}
        self._dirty: dict[str, None] = {}
        self._changed = asyncio.Event()
        self._settles_at_s: dict[str, float] = {}
        """By job: when mere time makes the next task of it count. Unix time."""

    def begin(self) -> list[JobDetail | JobDelta]:
        self._dirty = dict.fromkeys(job.id for job in self._term.state.jobs.values() if self._concerns(job))
        return self.take()

    async def wait(self) -> None:
        """Until something changed, or mere time makes a task count as well."""
        wait_s = max(0.0, min(self._settles_at_s.values(), default=math.inf) - self._term.clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s if math.isfinite(wait_s) else None):
                await self._changed.wait()

    def take(self) -> list[JobDetail | JobDelta]:
        """What looks different from what was shown last, job by job."""
        self._changed.clear()
        now_s = self._term.clock()
        self._dirty.update((job_id, None) for job_id, at_s in self._settles_at_s.items() if at_s <= now_s)
        dirty, self._dirty = self._dirty, {}
        return [news for job_id in dirty if (news := self._news(job_id, now_s)) is not None]

    # --- what happens

    def committed(self, committed: Committed) -> None:
        for applied in committed.applied:
            match applied.after or applied.before:
                case Job() as job if self._concerns(job):
                    self._mark(job.id)
                case Task() as task:
                    self._mark_task(task)
                case Slot(job_id=job_id, slot=number):
                    if job_id in self._shown:
                        self._shown[job_id].dirty_slots[number] = None
                        self._mark(job_id)
                case _:
                    pass

    def condition_changed(self, before: NodeCondition | None, after: NodeCondition) -> None:
        if before is None or before.status is not after.status:
            for task in self._term.state.tasks_of_node(after.node_id).values():
                self._mark_task(task)

    def _mark_task(self, task: Task) -> None:
        shown = self._shown.get(task.job_id)
        if shown is not None:
            shown.dirty_tasks[task.id] = None
            self._mark(task.job_id)

    def _mark(self, job_id: str) -> None:
        self._dirty[job_id] = None
        self._changed.set()

    def _concerns(self, job: Job) -> bool:
        return job.namespace == self._namespace and (not self._names or job.name in self._names)

    # --- how it looks

    def _news(self, job_id: str, now_s: float) -> JobDetail | JobDelta | None:
        term = self._term
        job = term.state.jobs.get(job_id)
        shown = self._shown.get(job_id)
        if job is None:
            self._shown.pop(job_id, None)
            self._settles_at_s.pop(job_id, None)
            return _last_word(shown.view) if shown else None
        view = job_view(term.state, job, term.conditions, now_s, term.verdicts)
        news = self._whole(job_id, view) if shown is None else self._delta(job_id, shown, view)
        self._settles_at_s[job_id] = self._shown[job_id].next_at_s(now_s)
        return news

    def _whole(self, job_id: str, view: JobView) -> JobDetail:
        state = self._term.state
        shown = self._shown[job_id] = _Shown(view=view, dirty_tasks=dict.fromkeys(state.tasks_of_job(job_id)))
        tasks, _ = self._look(job_id, shown)
        slots = tuple(slot for _, slot in sorted(state.slots_of(job_id).items()))
        return JobDetail(view=view, tasks=tuple(sorted(tasks, key=lambda task: task.order)), slots=slots)

    def _delta(self, job_id: str, shown: _Shown, view: JobView) -> JobDelta | None:
        tasks, gone = self._look(job_id, shown)
        kept = self._term.state.slots_of(job_id)
        slots = tuple(kept[number] for number in shown.dirty_slots if number in kept)
        shown.dirty_slots.clear()
        if view == shown.view and not (tasks or gone or slots):
            return None
        shown.view = view
        return JobDelta(view=view, tasks=tuple(tasks), gone=tuple(gone), slots=slots)

    def _look(self, job_id: str, shown: _Shown) -> tuple[list[TaskView], list[str]]:
        """Tasks that look different from what was shown, and those that are gone; both are taken as shown."""
        term = self._term
        known = term.state.tasks_of_job(job_id)
        tasks, gone = [], []
        for task_id in {**shown.dirty_tasks, **shown.pending}:
            task = known.get(task_id)
            if task is None:
                if shown.tasks.pop(task_id, None) is not None:
                    gone.append(task_id)
                self._settle(shown, task_id, None)
                continue
            view = task_view(term.state, task, term.conditions, term.verdicts)
            if view != shown.tasks.get(task_id):
                shown.tasks[task_id] = view
                tasks.append(view)
            self._settle(shown, task_id, task)
        shown.dirty_tasks.clear()
        return tasks, gone

    def _settle(self, shown: _Shown, task_id: str, task: Task | None) -> None:
        """Remember what about the task changes without a commit."""
        shown.pending.pop(task_id, None)
        shown.settles_at_s.pop(task_id, None)
        if task is None:
            return
        if not task.node_id and not task.ended:
            shown.pending[task_id] = None
        shown.settles_at_s[task_id] = settles_at_s(task, self._term.state.spec_of_task(task))


def _last_word(view: JobView) -> JobDetail:
    """On a job that is gone."""
    job = msgspec.structs.replace(view.job, removed=True)
    return JobDetail(
        view=msgspec.structs.replace(
            view, job=job, status=JobStatus.STOPPED, desired=0, running=0, healthy=0, message="removed"
        )
    )


def _messages(news: list[JobDetail | JobDelta]) -> list[WatchedJobs]:
    """One answer as messages that fit: as many small jobs as go in, a large one in pieces."""
    messages: list[WatchedJobs] = []
    jobs: list[JobDetail] = []
    deltas: list[JobDelta] = []
    room = LIMITS.items_per_piece
    for piece in _pieces(news):
        needed = 1 + len(piece.tasks)
        if needed > room and (jobs or deltas):
            messages.append(WatchedJobs(jobs=tuple(jobs), deltas=tuple(deltas), more=True))
            jobs, deltas, room = [], [], LIMITS.items_per_piece
        room -= needed
        if isinstance(piece, JobDetail):
            jobs.append(piece)
        else:
            deltas.append(piece)
    if jobs or deltas:
        messages.append(WatchedJobs(jobs=tuple(jobs), deltas=tuple(deltas)))
    return messages


def _pieces(news: list[JobDetail | JobDelta]) -> Iterator[JobDetail | JobDelta]:
    """What is long in pieces: the first one as it is, then what goes on from there."""
    for one in news:
        first, *others = cut(one, LIMITS.items_per_piece)
        yield first
        for other in others:
            yield JobDelta(view=other.view, tasks=other.tasks, slots=other.slots, gone=getattr(other, "gone", ()))
