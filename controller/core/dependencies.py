"""Whether the jobs that a job depends on have come far enough for it to start (Compose's `depends_on`)."""

from __future__ import annotations

from typing import assert_never

from common.model.job import DependencyCondition, DesiredState, Job, JobMode, JobSpec
from common.model.task import Health, Task, TaskState
from controller.state import State


def waits_for(state: State, spec: JobSpec) -> tuple[str, ...]:
    """A sentence for each dependency that does not hold yet; empty when the job may start."""
    return tuple(
        text
        for dependency in spec.depends_on
        if (text := _unmet(state, spec.namespace, dependency.job, dependency.condition))
    )


def dependants(state: State, job: Job) -> tuple[Job, ...]:
    """Jobs that may have to be looked at again when something about `job` changed."""
    return tuple(
        other
        for other in state.jobs.values()
        if other.namespace == job.namespace
        and any(dependency.job == job.name for dependency in state.spec_of(other).depends_on)
    )


def _unmet(state: State, namespace: str, name: str, condition: DependencyCondition) -> str:
    job = state.job_named(namespace, name)
    if job is None or job.removed:
        return f"waits for {namespace}/{name}, which does not exist"
    if job.desired is DesiredState.STOP:
        return f"waits for {job.full_name}, which is stopped"
    tasks = [task for task in state.tasks_of_job(job.id).values() if task.version == job.version and not task.lost_at_s]
    met = _met(job, state.spec_of(job), tasks, condition)
    return "" if met else f"waits for {job.full_name} to be {_WORDS[condition]}"


_WORDS = {
    DependencyCondition.SERVICE_STARTED: "running",
    DependencyCondition.SERVICE_HEALTHY: "healthy",
    DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY: "complete",
}


def _met(job: Job, spec: JobSpec, tasks: list[Task], condition: DependencyCondition) -> bool:
    match condition:
        case DependencyCondition.SERVICE_STARTED:
            return any(task.status.state in (TaskState.RUNNING, TaskState.COMPLETE) for task in tasks)
        case DependencyCondition.SERVICE_HEALTHY:
            healthy = {task.slot for task in tasks if _healthy(task) or task.status.state is TaskState.COMPLETE}
            return len(healthy) >= job.replicas > 0
        case DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY:
            complete = {task.slot for task in tasks if task.status.state is TaskState.COMPLETE}
            return spec.mode is JobMode.BATCH and len(complete) >= job.replicas
        case _:
            assert_never(condition)


def _healthy(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING and task.status.health in (Health.HEALTHY, Health.NONE)
