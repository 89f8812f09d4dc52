"""Which nodes could not be lost without a task that would have no place elsewhere. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator

from common.model.api import Loss
from common.model.job import DesiredState
from common.model.node import NodeStatus
from common.model.task import Task
from controller.core.slots import Conditions
from controller.core.turns import Turns
from controller.scheduler.node_table import NodeTable
from controller.scheduler.survival import Survival
from controller.scheduler.values import Request, Unplaced
from controller.state import State

LOSSES_AT_MOST = 5
"""Told of: where there are that many, the cluster is full."""


def losing(state: State, conditions: Conditions, table: NodeTable) -> Turns[tuple[Loss, ...] | None]:
    """Which of the ready nodes could not be lost, and what would have no place then; the first few by name.

    None of one node that is all there is: everything would be lost with it. Nothing may change between two rests.
    """
    ready = [
        id_ for id_, condition in conditions.items() if condition.status is NodeStatus.READY and id_ in state.nodes
    ]
    if len(ready) < 2:
        return None
    survival = Survival(table)
    losses: list[Loss] = []
    for node_id in sorted(ready, key=lambda id_: state.nodes[id_].name):
        unplaced = survival.unplaced(node_id, tuple(requests_of(state, node_id)))
        if unplaced:
            losses.append(_loss(state.nodes[node_id].name, unplaced))
        if len(losses) == LOSSES_AT_MOST:
            break
        yield
    return tuple(losses)


def requests_of(state: State, node_id: str) -> Iterator[Request]:
    """What the scheduler would be asked for if the node were gone."""
    batches: dict[tuple[str, int], list[Task]] = {}
    for task in state.tasks_of_node(node_id).values():
        elsewhere = not state.spec_of_task(task).mode.per_node  # what belongs to the node goes with it
        if elsewhere and task.desired is DesiredState.RUN and not task.ended and not task.lost_at_s:
            batches.setdefault((task.job_id, task.version), []).append(task)
    for (job_id, _), tasks in batches.items():
        ids = tuple(task.id for task in tasks)
        yield Request(job_id=job_id, task_ids=ids, spec=state.spec_of_task(tasks[0]))


def _loss(name: str, unplaced: tuple[Unplaced, ...]) -> Loss:
    jobs = tuple(dict.fromkeys(one.request.spec.full_name for one in unplaced))
    more = len(jobs) - 1
    others = f", and of {more} more {'job' if more == 1 else 'jobs'}" if more else ""
    return Loss(node=name, jobs=jobs, text=f"without node {name}: {unplaced[0].verdict.verdict}{others}")
