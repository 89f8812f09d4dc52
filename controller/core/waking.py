"""Waking a job that has no replica, for a connection that waits: what that changes, and how long it took. PURE."""

from __future__ import annotations

import msgspec

from common.model.job import Job, JobSpec
from common.model.task import Task, TaskState
from controller.core.autoscale import scaled, with_replicas
from controller.core.clocks import since_s


class ColdStart(msgspec.Struct, frozen=True, kw_only=True):
    """How far a woken job has come, by a clock that never runs back; 0: not yet."""

    begun_s: float
    placed_s: float = 0.0
    started_s: float = 0.0


def woken(job: Job, spec: JobSpec, where: str, now_s: float) -> Job:
    """`job` with one replica, because connections on node `where` wait; the same object when it is not asleep."""
    if not scaled(job, spec) or job.replicas or job.autoscale is None or not job.autoscale.wakes:
        return job
    after = with_replicas(job, 1, f"a connection on {where} waits for it", now_s)
    return msgspec.structs.replace(after, scaling=msgspec.structs.replace(after.scaling, woken_at_s=now_s))


def advanced(start: ColdStart, task: Task, steady_s: float) -> ColdStart:
    """After one of its tasks was changed like this."""
    if task.node_id and not start.placed_s:
        start = msgspec.structs.replace(start, placed_s=steady_s)
    if task.status.state is TaskState.RUNNING and not start.started_s:
        start = msgspec.structs.replace(start, started_s=steady_s)
    return start


def awake(job: Job, start: ColdStart | None, now_s: float, steady_s: float) -> Job:
    """`job`, the first task of which takes connections now. `start` is None where another leader woke it."""
    text = f"woke in {since_s(job.scaling.woken_at_s, now_s):.2f} s, under another leader at first"
    if start is not None:
        placed_s = start.placed_s or steady_s
        started_s = max(start.started_s or steady_s, placed_s)
        text = (
            f"woke in {steady_s - start.begun_s:.2f} s: {placed_s - start.begun_s:.2f} placed, "
            f"{started_s - placed_s:.2f} started, {steady_s - started_s:.2f} healthy"
        )
    return msgspec.structs.replace(job, scaling=msgspec.structs.replace(job.scaling, woken_at_s=0.0, woke=text))
