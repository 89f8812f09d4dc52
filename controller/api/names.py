"""What a name in a request means: a job, or a task."""

from __future__ import annotations

from common.errors import NotFound
from common.model.job import Job
from common.model.task import Task
from controller.state import State, find_job, find_task


def find_job_or_task(state: State, namespace: str, name: str) -> Job | Task:
    """A job by its name, else a task by `job.slot`, id or prefix, else a job by id or prefix; `ns/name` works too.

    Raises `NotFound` when it is neither, `Conflict` when a prefix fits several.
    """
    within, _, last = name.rpartition("/")
    namespace = within or namespace
    job = state.job_named(namespace, last)
    if job is not None:
        return job
    try:
        return find_task(state, namespace, last)
    except NotFound:
        pass
    try:
        return find_job(state, namespace, last)
    except NotFound:
        known = sorted(job.name for job in state.jobs.values() if job.namespace == namespace)
        has = f"; the namespace has {', '.join(known[:10])}" if known else "; the namespace has no jobs"
        raise NotFound(f"no job or task {last!r} in namespace {namespace!r}{has}") from None
