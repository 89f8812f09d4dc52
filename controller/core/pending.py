"""Which tasks need a node, and what to ask the scheduler for them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from common.model.job import DesiredState
from common.model.task import Task
from controller.core.moving import target_of
from controller.scheduler.values import Placement, Request
from controller.state import State


def pending(task: Task) -> bool:
    """Whether the task should run and has no node yet."""
    return not task.node_id and task.desired is DesiredState.RUN and not task.ended


def placed_at(task: Task, placement: Placement) -> Task:
    """The task with its node, and the devices that it holds there."""
    return msgspec.structs.replace(task, node_id=placement.node_id, devices=placement.devices, nomination=None)


def requests_for(state: State, task_ids: Iterable[str]) -> tuple[Request, ...]:
    """Requests for these tasks, identical ones together; those that need no node are left out.

    Those of higher priority come first. Else they are in an order of their own, by job and slot: whoever asks for the
    same tasks, in production or in a plan, asks alike. Of identical tasks those for which room is kept are first.
    """
    tasks = [task for task_id in task_ids if (task := state.tasks.get(task_id)) is not None and pending(task)]
    tasks.sort(key=lambda task: _rank(state, task))
    batches: dict[tuple[str, int, tuple[str, ...], str], list[str]] = {}
    for task in tasks:
        avoid = state.slot_of(task.job_id, task.slot).failed_nodes
        only = task.only_node or target_of(task, state)
        batches.setdefault((task.job_id, task.version, avoid, only), []).append(task.id)
    return tuple(
        Request(
            job_id=job_id,
            task_ids=tuple(batch),
            spec=state.versions_of(job_id)[version].spec,
            avoid=avoid,
            only=only,
            priority=state.jobs[job_id].priority,
        )
        for (job_id, version, avoid, only), batch in batches.items()
    )


def _rank(state: State, task: Task) -> tuple[object, ...]:
    priority, kept = state.jobs[task.job_id].priority, task.nomination is not None
    return -priority, task.job_name, task.version, not kept, task.slot, task.created_at_s, task.id
