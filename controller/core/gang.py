"""Jobs whose tasks get their nodes all at once or not at all, and which live and die together. Reads only.

A gang is whole when every slot has a task of one version. It is placed whole, in one commit. When a member fails, is
lost or has to leave, the others cannot go on without it (they wait at a barrier, or hold its peers' addresses): all are
stopped, and when the last has ended the gang starts again as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.model.job import DesiredState, Job
from common.model.task import Task
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
