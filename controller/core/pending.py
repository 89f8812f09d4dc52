"""Which tasks need a node, and what to ask the scheduler for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from common.model.job import DesiredState
from common.model.task import Task
from controller.core.gang import whole_and_pending
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
    return requests_of(state, _with_whole_gangs(state, tasks))


def requests_of(state: State, tasks: Iterable[Task]) -> tuple[Request, ...]:
    """As `requests_for`, of pending tasks that need not be in `state` yet; of a gang all or none are given."""
    batches: dict[tuple[str, int, tuple[str, ...], str], list[str]] = {}
    for task in sorted(tasks, key=lambda task: _rank(state, task)):
        avoid = _avoided(state, task)
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
            leaving=leaving(state, job_id, version),
        )
        for (job_id, version, avoid, only), batch in batches.items()
    )


def leaving(state: State, job_id: str, version: int) -> tuple[tuple[str, int], ...]:
    """Where tasks of the job are that go when those of `version` have come: those that are to stop, and, of the wanted
    version, those of all others. By the ids of their nodes, in order."""
    if state.all_stay(job_id, version):
        return ()
    wanted = state.jobs[job_id].version == version
    going = Counter(
        task.node_id
        for task in state.tasks_of_job(job_id).values()
        if task.node_id
        and not task.ended
        and (task.desired is DesiredState.STOP or (wanted and task.version != version))
    )
    return tuple(sorted(going.items()))


def _with_whole_gangs(state: State, tasks: list[Task]) -> list[Task]:
    """Of a gang all of its tasks are asked for, or none."""
    gangs = {(task.job_id, task.version): None for task in tasks if state.spec_of_task(task).gang}
    if not gangs:
        return tasks
    whole = (whole_and_pending(state, state.jobs[job_id], version) for job_id, version in gangs)
    alone = [task for task in tasks if not state.spec_of_task(task).gang]
    return alone + [state.tasks[task_id] for ids in whole for task_id in ids]


def _avoided(state: State, task: Task) -> tuple[str, ...]:
    """Where tasks of its slot failed; of a gang, where any of its tasks did."""
    if not state.spec_of_task(task).gang:
        return state.slot_of(task.job_id, task.slot).failed_nodes
    slots = state.slots_of(task.job_id)
    return tuple(dict.fromkeys(node_id for _, slot in sorted(slots.items()) for node_id in slot.failed_nodes))


def _rank(state: State, task: Task) -> tuple[object, ...]:
    priority, kept = state.jobs[task.job_id].priority, task.nomination is not None
    return -priority, task.job_name, task.version, not kept, task.slot, task.created_at_s, task.id
