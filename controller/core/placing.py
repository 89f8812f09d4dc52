"""One pass over pending tasks: the most important first, each beside the room that is kept for others, and room made
for those that fit nowhere. Used by production and by plans alike; the choices are the scheduler's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from common.model.task import Task
from controller.core.gang import keeper, nominations
from controller.core.pending import pending, placed_at, requests_for, requests_of
from controller.core.preemption import Displacing, Room, kept_room, make_room
from controller.core.slots import Conditions
from controller.scheduler.node_table import NodeTable
from controller.scheduler.schedule import schedule
from controller.scheduler.values import Placement, Request, SchedulePlan, Unplaced
from controller.state import Change, Group, State, Write


class Placing(msgspec.Struct, frozen=True, kw_only=True):
    plan: SchedulePlan = SchedulePlan()
    displacing: tuple[Displacing, ...] = ()
    withdrawn: tuple[Group, ...] = ()
    """Changes of tasks for which room was kept in vain."""
    keeping: tuple[Group, ...] = ()
    """Changes of tasks of a gang for which room is kept from now on."""


def place_pending(
    state: State, table: NodeTable, task_ids: Iterable[str], conditions: Conditions, now_s: float
) -> Placing:
    """Nodes for these tasks as far as they fit, and who makes room for the others.

    The placements, and nothing else, are accounted in `table`.
    """
    requests = requests_for(state, task_ids)
    room = _KeptRoom(state, table, kept_room(state, conditions, now_s))
    plan, kept = _scheduled(state, table, requests, room, now_s)
    if not plan.unplaced:
        room.release()
        return Placing(plan=plan)
    room.hold(0)
    left = [msgspec.structs.replace(entry.request, task_ids=entry.task_ids) for entry in plan.unplaced]
    made = make_room(state, table.copy(), left, conditions, now_s) if state.nominated or ranked(state) else Room()
    room.release()
    keeping = tuple((Write(task),) for task in kept)
    return Placing(plan=plan, displacing=made.displacing, withdrawn=made.withdrawn, keeping=keeping)


def place_newborn(state: State, table: NodeTable, groups: Sequence[Group]) -> list[Group]:
    """The same changes, with a node for every task among them that is new and fits somewhere at once.

    What is made with its place costs the store one write instead of two. Only where nobody waits for a node and no room
    is kept: otherwise the most important come first, and that is a pass's affair. Gangs and successors of tasks that
    move are left to it too. The placements are accounted in `table`.
    """
    born = [change.record for group in groups for change in group if _newborn(state, change)]
    requests = requests_of(state, [task for task in born if isinstance(task, Task)])
    if not requests:
        return list(groups)
    placements = {placement.task_id: placement for placement in schedule(table, requests).placements}

    def placed(change: Change) -> Change:
        task = change.record
        if not isinstance(task, Task) or task.id not in placements:
            return change
        return Write(placed_at(task, placements[task.id]))

    return [tuple(map(placed, group)) for group in groups]


def _newborn(state: State, change: Change) -> bool:
    task = change.record
    if not isinstance(task, Task) or not isinstance(change, Write) or task.id in state.tasks:
        return False
    return pending(task) and not task.moves and not state.spec_of_task(task).gang


def beside_kept_room(
    state: State, table: NodeTable, request: Request, conditions: Conditions, now_s: float
) -> NodeTable:
    """The table as the request finds it: without the room that is kept for others. To be read only."""
    kept = kept_room(state, conditions, now_s)
    if not kept:
        return table
    trial = table.copy()
    room = _KeptRoom(state, trial, kept)
    room.hold(request.priority)
    room.free(request.task_ids)
    return trial


def _scheduled(
    state: State, table: NodeTable, requests: Sequence[Request], room: _KeptRoom, now_s: float
) -> tuple[SchedulePlan, tuple[Task, ...]]:
    """The plan, and the tasks of a gang for which room is kept from now on."""
    gang = keeper(state, table, requests, now_s)
    if not room and gang is None:
        return schedule(table, requests), ()
    placements: list[Placement] = []
    unplaced: list[Unplaced] = []
    kept: tuple[Task, ...] = ()
    for request in sorted(requests, key=lambda one: (-one.priority, one is not gang)):
        room.hold(request.priority)
        room.free(request.task_ids)
        plan = schedule(table, (request,))
        placements += plan.placements
        unplaced += plan.unplaced
        room.forget(placement.task_id for placement in plan.placements)
        if request is gang and plan.unplaced:
            kept = nominations(state, table, request, now_s)
            room.keep(kept, request.priority)
    return SchedulePlan(placements=tuple(placements), unplaced=tuple(unplaced)), kept


def ranked(state: State) -> bool:
    """Whether there are different priorities at all: in most clusters there are not."""
    return len({job.priority for job in state.jobs.values()}) > 1


class _KeptRoom:
    """Room on nodes for tasks that wait until it comes free, on the books only while others are placed."""

    def __init__(self, state: State, table: NodeTable, kept: Sequence[tuple[Task, int]]) -> None:
        self._state, self._table = state, table
        self._kept = {task.id: (task, priority) for task, priority in kept}
        self._held: dict[str, Task] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def hold(self, priority: int) -> None:
        """Keep the room of all of this priority or a higher one."""
        for task, its in self._kept.values():
            if its >= priority and task.id not in self._held:
                self._held[task.id] = task
                self._account(task, 1)

    def keep(self, tasks: Iterable[Task], priority: int) -> None:
        """Room is kept for these from now on, and nowhere else."""
        self._kept.update({task.id: (task, priority) for task in tasks})

    def free(self, task_ids: Iterable[str]) -> None:
        """Open the room of these: they may take it now."""
        for task_id in task_ids:
            task = self._held.pop(task_id, None)
            if task is not None:
                self._account(task, -1)

    def forget(self, task_ids: Iterable[str]) -> None:
        """These have a place."""
        for task_id in task_ids:
            self._kept.pop(task_id, None)

    def release(self) -> None:
        self.free(tuple(self._held))

    def _account(self, task: Task, sign: int) -> None:
        nomination, spec = task.nomination, self._state.spec_of_task(task).task
        assert nomination is not None, f"task {task.id} has no room to keep"
        change = self._table.add_task if sign > 0 else self._table.remove_task
        change(nomination.node_id, spec, task.job_id, nomination.devices)
