"""What nodes and tasks use at the moment, put together from heartbeats, reports and the committed state."""

from __future__ import annotations

from collections.abc import Iterator

from common.model.job import Job
from common.model.node import Node, NodeCondition
from common.model.resources import Resources
from common.model.task import Task
from common.model.usage import NodeUse, TaskUse, UsageRequest, UsageView
from controller.api.term import ApiTerm
from controller.core.views import node_view
from controller.state import find_job


def usage_view(term: ApiTerm, request: UsageRequest) -> UsageView:
    """By node name, and by job, slot and id. Raises `NotFound` for a job that does not exist."""
    job = find_job(term.state, request.namespace, request.job) if request.job else None
    nodes = sorted(term.state.nodes.values(), key=lambda node: (node.name, node.id))
    tasks = [use for node in nodes for use in _tasks(term, node, request.namespace, job)]
    return UsageView(
        nodes=tuple(_node(term, node) for node in nodes),
        tasks=tuple(sorted(tasks, key=lambda use: (use.job, use.slot, use.usage.task_id))),
    )


def _node(term: ApiTerm, node: Node) -> NodeUse:
    condition = term.conditions.get(node.id) or NodeCondition(node_id=node.id)
    return NodeUse(
        node=node.name,
        node_id=node.id,
        status=condition.status,
        usage=condition.usage,
        capacity=node.description.capacity,
        reserved=node_view(term.state, node, condition).reserved,
        measured=term.measurements.fresh(node.id) is not None,
    )


def _tasks(term: ApiTerm, node: Node, namespace: str, job: Job | None) -> Iterator[TaskUse]:
    measurement = term.measurements.fresh(node.id)
    for task_id, measured in measurement.tasks.items() if measurement is not None else ():
        task = term.state.tasks.get(task_id)
        if task is None or task.node_id != node.id or (namespace and task.namespace != namespace):
            continue
        if job is None or task.job_id == job.id:
            yield TaskUse(
                job=task.job_name,
                slot=task.slot,
                node=node.name,
                usage=measured.usage,
                limits=_limits(term, task),
                age_s=max(0.0, term.measurements.age_s(measured.at_s)),
            )


def _limits(term: ApiTerm, task: Task) -> Resources:
    version = term.state.versions_of(task.job_id).get(task.version)
    return version.spec.task.limits if version is not None else Resources()
