"""Whether the jobs that a job depends on have come far enough for it to start (Compose's `depends_on`), and whether
jobs would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from common.circles import circles
from common.errors import Fault
from common.model.api import ApplyRequest
from common.model.job import Dependency, DependencyCondition, DesiredState, Job, JobSpec
from common.model.task import Health, Task, TaskState
from controller.core import batch
from controller.core.runs import newest_first
from controller.state import State


def waits_for(state: State, spec: JobSpec) -> tuple[str, ...]:
    """A sentence for each dependency that does not hold yet; empty when the job may start."""
    return tuple(text for dependency in spec.depends_on if (text := _unmet(state, spec, dependency)))


def _unmet(state: State, spec: JobSpec, dependency: Dependency) -> str:
    name = dependency.full_name_seen_from(spec.namespace)
    job = state.job_named(dependency.namespace or spec.namespace, dependency.job)
    if job is None or job.removed:
        return "" if dependency.optional else f"waits for {name}, which does not exist"
    if job.desired is DesiredState.STOP:
        return f"waits for {job.full_name}, which is stopped"
    if _met(state, job, dependency.condition):
        return ""
    ended = state.spec_of(job).mode.ends and batch.progress_of(job).ended_at_s
    failed = " and has failed: restart it when the cause is gone" if ended else ""
    return f"waits for {job.full_name} to be {_WORDS[dependency.condition]}" + (
        f", which ended{failed}" if failed else ""
    )


_WORDS = {
    DependencyCondition.SERVICE_STARTED: "running",
    DependencyCondition.SERVICE_HEALTHY: "healthy",
    DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY: "complete",
}


def _met(state: State, job: Job, condition: DependencyCondition) -> bool:
    spec = state.spec_of(job)
    if spec.schedule is not None:  # it has no tasks itself: what completes is a run of it
        return any(_met(state, run, condition) for run in newest_first(state, job))
    tasks = [task for task in state.tasks_of_job(job.id).values() if task.version == job.version and not task.lost_at_s]
    match condition:
        case DependencyCondition.SERVICE_STARTED:
            started = any(task.status.state in (TaskState.RUNNING, TaskState.COMPLETE) for task in tasks)
            return started or bool(spec.mode.ends and batch.progress_of(job).succeeded)
        case DependencyCondition.SERVICE_HEALTHY:
            return _all_healthy(job, spec, tasks)
        case DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY:
            return spec.mode.ends and _completed(state, job, spec)
        case _:
            assert_never(condition)


def _completed(state: State, job: Job, spec: JobSpec) -> bool:
    if spec.mode.per_node:  # which nodes it is about depends on how they are
        return bool(batch.progress_of(job).ended_at_s) and job.good_version == job.version
    return len(batch.tally(state, job, spec).succeeded.within(job.replicas)) >= job.replicas


def _all_healthy(job: Job, spec: JobSpec, tasks: list[Task]) -> bool:
    healthy = {task.slot for task in tasks if _healthy(task) or task.status.state is TaskState.COMPLETE}
    if spec.mode.per_node:  # a node that came or went since says nothing against a job that was well
        return job.good_version == job.version and bool(healthy)
    return len(healthy) >= job.replicas > 0


def _healthy(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING and task.status.health in (Health.HEALTHY, Health.NONE)


# --- circles


def dependency_faults(state: State, request: ApplyRequest) -> Iterator[Fault]:
    """A fault for each circle that a job of the request would close, also over jobs of other files."""
    if not any(spec.depends_on for spec in request.specs):
        return
    asked = {spec.full_name: spec for spec in request.specs}
    specs = {job.full_name: state.spec_of(job) for job in state.jobs.values() if not job.removed} | asked
    waiting = {name: spec for name, spec in specs.items() if spec.depends_on}
    for circle in circles({name: _awaited(spec) for name, spec in waiting.items()}):
        steps = [place for place, name in enumerate(circle[:-1]) if name in asked]
        steps.sort(key=lambda place: circle[place + 1] in asked)  # the one out of the file says most
        for place in steps[:1]:
            around = circle[place:-1] + circle[: place + 1]
            text = f"jobs wait for each other in a circle: {' -> '.join(around)}"
            yield Fault(path=_path(asked[circle[place]], circle[place + 1], circle[place + 1] in asked), text=text)


def _awaited(spec: JobSpec) -> list[str]:
    return [one.full_name_seen_from(spec.namespace) for one in spec.depends_on]


def _path(spec: JobSpec, name: str, of_the_file: bool) -> str:
    """Where a Compose file says it: what is not of the file stands under `x-podium`."""
    awaited = next(one for one in spec.depends_on if one.full_name_seen_from(spec.namespace) == name)
    shown = f"{awaited.namespace}/{awaited.job}" if awaited.namespace else awaited.job
    key = "depends_on" if of_the_file and not awaited.namespace else "x-podium.depends_on"
    return f"services.{spec.name}.{key}.{shown}"
