"""Jobs whose tasks get their nodes all at once or not at all, and which live and die together. Reads only.

A gang is whole when every slot has a task of one version. It is placed whole, in one commit. When a member fails, is
lost or has to leave, the others cannot go on without it (they wait at a barrier, or hold its peers' addresses): all are
stopped, and when the last has ended the gang starts again as a whole.

A gang that has waited for long keeps the room that is free (a nomination for each task that would fit), so that it
grows until there is enough for all of it: one gang at a time, and only half of the time.
(The queue's first job that holds what comes free is Slurm's and Volcano's; theirs hold it without an end.)
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import msgspec

from common.model.job import DesiredState, Job
from common.model.task import Nomination, Task
from controller.core.settings import GANG_PATIENCE_S, NOMINATION_S
from controller.scheduler.filters import room_at_most
from controller.scheduler.gradient import Gradient
from controller.scheduler.node_table import NodeTable
from controller.scheduler.schedule import choose, tie_salt
from controller.scheduler.values import Request
from controller.state import State


def whole_and_pending(state: State, job: Job, version: int) -> tuple[str, ...]:
    """Ids of a gang's tasks by slot when all of them are there and none has a node; else nothing may be placed."""
    members = [task for task in state.tasks_of_job(job.id).values() if task.version == version and _wanted(task)]
    slots = {task.slot: task.id for task in members}
    if any(task.node_id for task in members) or sorted(slots) != list(range(1, job.replicas + 1)):
        return ()
    return tuple(slots[number] for number in sorted(slots))


def _wanted(task: Task) -> bool:
    return task.desired is DesiredState.RUN and not task.ended and not task.lost_at_s


def failures_of(state: State, job: Job, version: int) -> int:
    """How often a gang failed in a row: each time counts once, whichever member it was."""
    slots = state.slots_of(job.id).values()
    return max((slot.failures for slot in slots if slot.failed_version == version), default=0)


def keeper(state: State, table: NodeTable, requests: Iterable[Request], now_s: float) -> Request | None:
    """The gang among these, the most important first, that keeps room now if it does not fit."""
    in_turn = (one for one in requests if one.spec.gang and keeps_room_since_s(state, one, now_s))
    # One that is larger than the cluster would keep room in vain.
    return next((one for one in in_turn if len(one.task_ids) <= room_at_most(table, one)), None)


def keeps_room_since_s(state: State, request: Request, now_s: float) -> float:
    """When the gang's turn to keep room began; 0 while it has none."""
    created_s = max(state.tasks[task_id].created_at_s for task_id in request.task_ids)
    first_s, turn_s = created_s + GANG_PATIENCE_S, 2 * NOMINATION_S
    began_s = first_s + turn_s * ((now_s - first_s) // turn_s)
    return began_s if now_s >= first_s and now_s - began_s < NOMINATION_S else 0.0


def nominations(state: State, table: NodeTable, request: Request, now_s: float) -> tuple[Task, ...]:
    """The tasks of a gang that does not fit, as far as they would, with the room that is to be kept for them; none when
    as much is kept already. The table is as it is without that."""
    trial = table.copy()
    chosen = choose(trial, request, tie_salt(request), Gradient(trial))
    tasks = [state.tasks[task_id] for task_id in request.task_ids]
    if len(chosen.rows) <= sum(task.nomination is not None for task in tasks):
        return ()
    at_s = keeps_room_since_s(state, request, now_s)
    places = zip(tasks, trial.node_ids(chosen.rows), chosen.devices or repeat(()), strict=False)
    return tuple(
        msgspec.structs.replace(task, nomination=Nomination(node_id=node_id, devices=devices, at_s=at_s))
        for task, node_id, devices in places
    )


def groups_of(state: State, placed: Iterable[Task]) -> list[tuple[Task, ...]]:
    """Placed tasks as they are to be committed: those of a gang together, every other one by itself."""
    gangs: dict[tuple[str, int], list[Task]] = {}
    alone: list[tuple[Task, ...]] = []
    for task in placed:
        if state.spec_of_task(task).gang:
            gangs.setdefault((task.job_id, task.version), []).append(task)
        else:
            alone.append((task,))
    return [*alone, *(tuple(members) for members in gangs.values())]
