"""Tasks as an agent is told of them: a test names only what it is about."""

from __future__ import annotations

from msgspec.structs import replace

from common.model.job import Container, DesiredState, HealthCheck, RestartCondition, RestartPolicy, TaskSpec
from common.model.session import Assignment, Assignments

CHECK = HealthCheck(test=("CMD", "/up"), interval_s=10.0, timeout_s=5.0, retries=3)


def assignment(task_id: str = "t1", *, desired: DesiredState = DesiredState.RUN, **task: object) -> Assignment:
    """Of `shop/web.1` version 1; `task` are fields of its `TaskSpec`."""
    spec = replace(TaskSpec(container=Container(image="shop:1")), **task)
    return Assignment(task_id=task_id, namespace="shop", job="web", slot=1, version=1, desired=desired, task=spec)


def stopped(order: Assignment) -> Assignment:
    return replace(order, desired=DesiredState.STOP)


def restart(condition: str = "any", **fields: object) -> RestartPolicy:
    return replace(RestartPolicy(condition=RestartCondition(condition)), **fields)


def complete(*assignments: Assignment, sequence: int = 1) -> Assignments:
    return Assignments(complete=True, sequence=sequence, assignments=assignments)


def incremental(*assignments: Assignment, sequence: int, removed: tuple[str, ...] = ()) -> Assignments:
    return Assignments(complete=False, sequence=sequence, assignments=assignments, removed=removed)
