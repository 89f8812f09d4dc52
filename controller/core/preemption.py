"""Who makes room for a task that fits nowhere, and how: asks the scheduler whom to displace, and turns its answer into
changes of records. Chooses neither nodes nor victims.

The pending task is nominated for the node, so that nobody of its priority or a lower one takes the room that comes
free, and each victim is told for whom it goes. One that fits elsewhere is relieved first (the surge-move of a drain,
see `rollout`), the others are stopped. All of it is one group of changes: a leader's death leaves the whole of it or
nothing, and the next leader goes on from the records.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import msgspec

from common.model.job import DesiredState, Job, UpdateOrder
from common.model.node import Availability, NodeStatus
from common.model.resources import Resources
from common.model.task import Displacement, Nomination, Task, TaskState
from common.model.verdict import Verdict
from controller.core.clocks import since_s
from controller.core.decisions import Stop, changes
from controller.core.pending import pending
from controller.core.rollout import order_of
from controller.core.settings import NOMINATION_S, PREEMPTOR_FAILURES, PREEMPTORS_AT_ONCE
from controller.core.slots import Conditions, makes_room
from controller.scheduler.node_table import NodeTable, holds_reservation
from controller.scheduler.preempt import Occupant, Preemption, Rival, comes_free, hindrance, preempt
from controller.scheduler.schedule import place
from controller.scheduler.values import Request
from controller.state import Group, State, Write


class Victim(msgspec.Struct, frozen=True, kw_only=True):
    task: Task
    moved: bool
    """It is relieved before it stops."""


class Displacing(msgspec.Struct, frozen=True, kw_only=True):
    """Room is made on a node for a task."""

    task: Task
    node_id: str
    by: str
    victims: tuple[Victim, ...]
    group: Group


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What is done for tasks that fit nowhere."""

    displacing: tuple[Displacing, ...] = ()
    withdrawn: tuple[Group, ...] = ()
    """Changes of tasks for which room was kept in vain."""


def make_room(
    state: State, table: NodeTable, requests: Iterable[Request], conditions: Conditions, now_s: float
) -> Room:
    """For whom of the requests, which fit nowhere, others are displaced now; the most important first.

    The table holds the places of all that were placed, and the room kept for the nominated; it takes over what is
    decided here.
    """
    return _RoomMaking(state, table, conditions, now_s).of(requests)


class _RoomMaking:
    """One pass, and whom it has told to go so far."""

    def __init__(self, state: State, table: NodeTable, conditions: Conditions, now_s: float) -> None:
        self._state, self._table, self._conditions, self._now_s = state, table, conditions, now_s
        kept = sum(
            stands(state, task, conditions, now_s) and not state.spec_of_task(task).gang
            for task in state.nominated.values()
        )
        self._left = PREEMPTORS_AT_ONCE - kept
        self._going: set[str] = set()

    def of(self, requests: Iterable[Request]) -> Room:
        displacing: list[Displacing] = []
        withdrawn: list[Group] = []
        for request in requests:
            mere_balance = request.only and not request.spec.mode.per_node  # nobody goes for that
            # Room for a gang comes free task by task: until there is enough of it, others would have gone for nothing.
            rivals = () if mere_balance or request.spec.gang else rivals_of(self._state, request.priority)
            for task in map(self._state.tasks.__getitem__, request.task_ids):
                one = msgspec.structs.replace(request, task_ids=(task.id,))
                if self._comes_free(one, task):
                    continue
                found = self._displace(one, task, rivals) if rivals else None
                if found is not None:
                    displacing.append(found)
                    continue
                if task.nomination is not None:
                    withdrawn.append((Write(msgspec.structs.replace(task, nomination=None)),))
                rivals = ()  # what did not help this one helps none of its like
        return Room(displacing=tuple(displacing), withdrawn=tuple(withdrawn))

    def _comes_free(self, request: Request, task: Task) -> bool:
        """Whether the task need only wait for the room that is kept for it; otherwise that is given back."""
        if task.nomination is None or not stands(self._state, task, self._conditions, self._now_s):
            return False
        node_id, devices = task.nomination.node_id, task.nomination.devices
        self._table.remove_task(node_id, request.spec.task, request.job_id, devices)
        waits = comes_free(self._table, request, node_id, self._occupants)
        if waits:
            self._table.add_task(node_id, request.spec.task, request.job_id, devices)
        else:
            self._left += 1
        return waits

    def _displace(self, request: Request, task: Task, rivals: Sequence[Rival]) -> Displacing | None:
        if self._left <= 0 or not may_displace(self._state, task):
            return None
        found = preempt(self._table, request, rivals, self._occupants)
        if found is None:
            return None
        self._left -= 1
        self._going.update(found.victims)
        return _displacing(self._state, self._table, request, found, self._now_s)

    def _occupants(self, node_id: str) -> list[Occupant]:
        return occupants(self._state, node_id, self._now_s, self._going)


def kept_room(state: State, conditions: Conditions, now_s: float) -> list[tuple[Task, int]]:
    """The pending tasks for which room is kept, with their priorities, the most important first."""
    held = [
        (task, state.priority_of(task)) for task in state.nominated.values() if stands(state, task, conditions, now_s)
    ]
    return sorted(held, key=lambda entry: (-entry[1], entry[0].created_at_s, entry[0].id))


def rivals_of(state: State, priority: int) -> list[Rival]:
    """All jobs of a lower priority, by name."""
    lower = sorted((job for job in state.jobs.values() if job.priority < priority), key=lambda job: job.full_name)
    return [Rival(job_id=job.id, most=_most(state, job)) for job in lower]


def may_displace(state: State, task: Task) -> bool:
    """Not when its slot keeps failing: it would take the room from others to fail again."""
    return state.slot_of(task.job_id, task.slot).failures < PREEMPTOR_FAILURES


def why_not(state: State, table: NodeTable, request: Request, now_s: float) -> str:
    """What to say about preemption to somebody whose task is pending; empty where there is nothing to displace."""
    task = state.tasks[request.task_ids[0]]
    rivals = rivals_of(state, request.priority)
    if not rivals:
        return ""
    if request.spec.gang:
        return "it displaces nobody: room for a gang would come free task by task"
    if not may_displace(state, task):
        failures = state.slot_of(task.job_id, task.slot).failures
        return f"it displaces nobody: {task.job}.{task.slot} failed {failures} times in a row"
    trial = table.copy()
    found = preempt(trial, request, rivals, lambda node_id: occupants(state, node_id, now_s))
    if found is not None:
        return (
            f"{_counted(len(found.victims))} of lower priority can make room on node {state.nodes[found.node_id].name}"
        )
    return hindrance(trial, request, rivals, lambda node_id: occupants(state, node_id, now_s))


def told(state: State, task: Task, displacing: Displacing | None, verdict: Verdict) -> Verdict:
    """The verdict on a pending task with who makes room for it, or by whom it was displaced."""
    nomination = task.nomination
    node_id = displacing.node_id if displacing else (nomination.node_id if nomination else "")
    text = verdict.verdict
    if nomination is not None and state.spec_of_task(task).gang:
        kept = sum(other.job_id == task.job_id for other in state.nominated.values())
        text = f"what is free is kept for it since it waits for long, {kept} of its tasks by now; {text}"
    elif node_id in state.nodes:
        tasks = state.tasks_of_node(node_id).values()
        going = len(displacing.victims) if displacing else sum(_goes_for(other, task) for other in tasks)
        who = f"{_counted(going)} of lower priority make way" if going else "what is there leaves already"
        text = f"room is made on node {state.nodes[node_id].name}, {who}; until then {text}"
    if task.displaced is not None:
        text = f"preempted by {task.displaced.by}; {text}"
    return verdict if text == verdict.verdict else msgspec.structs.replace(verdict, verdict=text)


def _goes_for(task: Task, waiting: Task) -> bool:
    return task.displaced is not None and task.displaced.task_id == waiting.id and not task.ended


def occupants(state: State, node_id: str, now_s: float, going: Container[str] = ()) -> list[Occupant]:
    """Every task that holds something on a node, by id. `going` were just told to go."""
    holding = (task for task in state.tasks_of_node(node_id).values() if holds_reservation(task))
    return [_occupant(state, task, now_s, going) for task in sorted(holding, key=lambda task: task.id)]


def name_of(state: State, task: Task) -> str:
    """By whom others are displaced, for people: `shop/web (priority 80)`."""
    return f"{task.job_name} (priority {state.priority_of(task)})"


def _counted(victims: int) -> str:
    return "1 task" if victims == 1 else f"{victims} tasks"


def _occupant(state: State, task: Task, now_s: float, going: Container[str]) -> Occupant:
    told = task.desired is DesiredState.STOP
    stuck = told and since_s(task.stop_requested_at_s, now_s) >= NOMINATION_S
    return Occupant(
        task_id=task.id,
        job_id=task.job_id,
        spec=state.spec_of_task(task).task,
        devices=task.devices,
        priority=state.priority_of(task),
        disturbance=_disturbance(state, task),
        leaving=not stuck and (told or task.id in going or makes_room(task, state)),
        stays=stuck,
    )


def _disturbance(state: State, task: Task) -> int:
    spec = state.spec_of_task(task)
    if spec.gang:  # all of it goes
        return 3
    if spec.mode.ends:
        return 2
    return 0 if order_of(spec) is UpdateOrder.START_FIRST else 1


def _most(state: State, job: Job) -> Resources:
    each = [version.spec.task.reservations for version in state.versions_of(job.id).values()]
    return Resources(
        cpu_millis=max((one.cpu_millis for one in each), default=0),
        memory_bytes=max((one.memory_bytes for one in each), default=0),
    )


def stands(state: State, task: Task, conditions: Conditions, now_s: float) -> bool:
    """Whether room is kept for the task: its node can still take it, and it has not waited in vain for too long."""
    if task.nomination is None or task.job_id not in state.jobs or not pending(task):
        return False
    node, condition = state.nodes.get(task.nomination.node_id), conditions.get(task.nomination.node_id)
    able = node is not None and node.availability is Availability.ACTIVE
    heard = condition is not None and condition.status is NodeStatus.READY
    return able and heard and since_s(task.nomination.at_s, now_s) < NOMINATION_S


# --- carrying it out


def _displacing(state: State, table: NodeTable, request: Request, found: Preemption, now_s: float) -> Displacing:
    task = state.tasks[found.task_id]
    by = name_of(state, task)
    table.add_task(found.node_id, request.spec.task, request.job_id, found.devices)
    victims = tuple(
        Victim(task=victim, moved=_fits_elsewhere(state, table, victim))
        for victim in map(state.tasks.__getitem__, found.victims)
    )
    nomination = Nomination(node_id=found.node_id, devices=found.devices, at_s=now_s)
    changed = [change for victim in victims for change in _going(state, victim, task.id, by, now_s)]
    return Displacing(
        task=task,
        node_id=found.node_id,
        by=by,
        victims=victims,
        group=(Write(msgspec.structs.replace(task, nomination=nomination)), *changed),
    )


def _fits_elsewhere(state: State, table: NodeTable, task: Task) -> bool:
    """Whether the task can be relieved by another one of its slot before it goes. Takes the room for that."""
    spec = state.spec_of_task(task)
    if (
        spec.mode.per_node
        or order_of(spec) is not UpdateOrder.START_FIRST
        or task.status.state is not TaskState.RUNNING
    ):
        return False
    request = Request(job_id=task.job_id, task_ids=(task.id,), spec=spec, avoid=(task.node_id,))
    trial = table.copy()
    rows = place(trial, request)
    elsewhere = [node_id for node_id in table.node_ids(rows) if node_id != task.node_id]
    for node_id in elsewhere:
        table.add_task(node_id, spec.task, task.job_id)
    return bool(elsewhere)


def _going(state: State, victim: Victim, task_id: str, by: str, now_s: float) -> Group:
    task = msgspec.structs.replace(victim.task, displaced=Displacement(by=by, task_id=task_id, at_s=now_s))
    if victim.moved:
        return (Write(task),)
    job = state.jobs[task.job_id]
    return changes(job, state.spec_of(job), Stop(task=task, reason=f"preempted by {by}"), now_s, _NoChance())


class _NoChance:
    """Stopping takes no chance."""

    def random(self) -> float:
        raise AssertionError("a stop has nothing to draw")

    def getrandbits(self, _bits: int, /) -> int:
        raise AssertionError("a stop has nothing to draw")
