"""What a rebalancing of the cluster would move, and whether this is the moment for it; the order itself as changes.

Which moves make it more even is the scheduler's to say (`controller.scheduler.rebalance`). Here stand which tasks may
be moved at all and what speaks against moving any now. Moves anything only by writing wishes into tasks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from common.errors import Conflict
from common.model.api import Moves, Plan, PlannedMove, PlanStep
from common.model.ids import Rng
from common.model.job import DesiredState, Job, JobMode, JobSpec
from common.model.node import Availability, Node, NodeStatus
from common.model.task import Task
from controller.core.attention import Attention
from controller.core.clocks import since_s
from controller.core.imagine import Imagination
from controller.core.moving import unmovable_because
from controller.core.plan import TablePlacer, outcome
from controller.core.settings import ROLLOUT_HOLDS_S
from controller.core.slots import Conditions, good
from controller.core.turns import Turns, at_once
from controller.scheduler.node_table import NodeTable
from controller.scheduler.rebalance import LEAST_GAIN, Movable, Move, rebalancing
from controller.scheduler.values import Request
from controller.scheduler.verdicts import node_reasons
from controller.state import Group, State, Write

AUTO_GAIN = 0.2
"""Of a node's capacity, or of the replicas that are too many: less is no reason for a controller to begin by itself. It
then moves all that is worth `LEAST_GAIN`, so that what is left is well below what would make it begin again."""
AUTO_AFTER_S = 120.0
"""It must have been worth it for so long: nodes come back, rollouts end, and jobs are scaled in steps."""
AUTO_REST_S = 600.0
"""Between two orders, whatever comes: each restarts containers."""
MOVES_AT_MOST = 100
"""Of one order: at five at a time, each watched for some seconds, that is some minutes of moving. Then look again."""
_NOTES = 5


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What could be moved."""

    moves: tuple[Move, ...] = ()
    notes: tuple[str, ...] = ()
    """What is not moved, and why: a line for each ground."""

    @property
    def gain(self) -> float:
        """Of the move that is worth most."""
        return max((move.gain for move in self.moves), default=0.0)


def look(state: State, conditions: Conditions, table: NodeTable, now_s: float, limit: int = MOVES_AT_MOST) -> Look:
    """What a rebalancing would move."""
    return at_once(looking(state, conditions, table, now_s, limit))


def looking(
    state: State, conditions: Conditions, table: NodeTable, now_s: float, limit: int = MOVES_AT_MOST
) -> Turns[Look]:
    """`look` in small pieces. Nothing may have changed in between: the caller throws the rest away when it has."""
    movables, kept = yield from _sorted_out(state, conditions, now_s)
    moves: list[Move] = []
    for move in rebalancing(table, movables, limit):
        if move is None:
            yield
        else:
            moves.append(move)
    return Look(moves=tuple(moves), notes=_notes(kept))


def held_because(state: State, conditions: Conditions, brake: str, now_s: float) -> str:
    """Why nothing should be moved for mere balance now; empty when nothing speaks against it.

    A rollout that comes no further holds up its own job only: it may never end.
    """
    if brake:
        return f"the brake holds: {brake}"
    for node in sorted(state.nodes.values(), key=lambda node: node.name):
        condition = conditions.get(node.id)
        if condition is None or condition.status in (NodeStatus.DISCONNECTED, NodeStatus.UNREACHABLE):
            return f"node {node.name} is {condition.status.value if condition else 'not heard of'}"
        if node.availability is Availability.DRAINING and state.tasks_of_node(node.id):
            return f"node {node.name} is being drained"
    for job in sorted(state.jobs.values(), key=lambda job: job.full_name):
        if _changing(state, job) and now_s < _comes_further_until_s(job, now_s):
            return f"the rollout of {job.full_name} is not through"
    return ""


def held_until_s(state: State, now_s: float) -> float:
    """When mere time lets go of what rollouts hold up; infinite when they hold up nothing."""
    jobs = (job for job in state.jobs.values() if _changing(state, job))
    moments = [until_s for job in jobs if (until_s := _comes_further_until_s(job, now_s)) > now_s]
    return max(moments, default=math.inf)


def _changing(state: State, job: Job) -> bool:
    """Whether the wanted version has not passed yet, and is to."""
    rests = job.removed or job.desired is DesiredState.STOP or job.paused or not job.replicas
    return not rests and not state.spec_of(job).mode.ends and job.good_version != job.version


def _comes_further_until_s(job: Job, now_s: float) -> float:
    """Until when a job that changes is taken for one that still gets somewhere."""
    rollout = job.rollout if job.rollout is not None and job.rollout.version == job.version else None
    last_s = rollout.advanced_at_s if rollout is not None else job.changed_at_s
    return now_s - since_s(last_s, now_s) + ROLLOUT_HOLDS_S


def becomes_of(found: Look, held: str, *, auto: bool, under_way: int) -> str:
    """What becomes of the moves that are suggested, for people; empty where there are none."""
    if not found.moves:
        return ""
    count = "1 task could move" if len(found.moves) == 1 else f"{len(found.moves)} tasks could move"
    if under_way:
        return f"{count} besides the {under_way} on their way"
    if held:
        return f"{count}, but not now: {held}"
    if auto and found.gain >= AUTO_GAIN:
        return f"{count}, which the controller orders by itself when that stays so for {AUTO_AFTER_S:g} s"
    return f"{count} (`podium rebalance`)"


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """What a controller that may order moves by itself remembers from one look to the next."""

    worth_since_s: float = 0.0
    """Since when there is a move that is worth it; 0: there is none."""
    rests_until_s: float = 0.0
    held_until_s: float = math.inf
    """When it is worth another look although nothing has changed: what held it up no longer does."""

    def after(self, gain: float, held: str, now_s: float, held_until_s: float = math.inf) -> Patience:
        """Having seen what a rebalancing would gain now."""
        worth = gain >= AUTO_GAIN and not held
        since_s = (self.worth_since_s or now_s) if worth else 0.0
        return msgspec.structs.replace(self, worth_since_s=since_s, held_until_s=held_until_s if held else math.inf)

    def due_at_s(self) -> float:
        """When it orders or looks again, if nothing changes; infinite when there is nothing to order."""
        if not self.worth_since_s:
            return self.held_until_s
        return max(self.worth_since_s + AUTO_AFTER_S, self.rests_until_s)

    def ordered(self, now_s: float) -> Patience:
        return Patience(rests_until_s=now_s + AUTO_REST_S)


def worth_ordering(moves: Iterable[Move]) -> tuple[Move, ...]:
    """Of what would be moved on an engineer's order, what a controller moves by itself."""
    return tuple(move for move in moves if move.gain >= LEAST_GAIN)


def under_way(state: State) -> int:
    """Tasks that are to move still."""
    return sum(bool(task.moves_to) and not task.ended for task in state.tasks.values())


# --- which tasks


def _sorted_out(
    state: State, conditions: Conditions, now_s: float
) -> Turns[tuple[list[Movable], Counter[tuple[str, str]]]]:
    """Tasks that may move; and of the others that a rebalancing leaves out, how many for each job and ground."""
    movables: list[Movable] = []
    kept: Counter[tuple[str, str]] = Counter()
    for job in sorted(state.jobs.values(), key=lambda job: job.full_name):
        if job.desired is DesiredState.STOP or job.removed:
            continue
        yield
        for task in state.tasks_of_job(job.id).values():
            if task.ended or not task.node_id or task.desired is DesiredState.STOP or task.lost_at_s:
                continue
            spec = state.spec_of_task(task)
            if spec.mode is not JobMode.SERVICE:  # nobody would expect it to be moved
                continue
            because = unmovable_because(job, spec, task) or ("it holds devices" if task.devices else "")
            because = because or ("its job is changing" if _changing(state, job) else "")
            if because:
                kept[job.full_name, because] += 1
            elif _may_move(state, task, spec, conditions, now_s):
                movables.append(movable_of(state, job, task))
    return movables, kept


def _may_move(state: State, task: Task, spec: JobSpec, conditions: Conditions, now_s: float) -> bool:
    """Whether it does its work where nothing else is about to happen to it."""
    node, condition = state.nodes.get(task.node_id), conditions.get(task.node_id)
    return (
        node is not None
        and node.availability is Availability.ACTIVE
        and condition is not None
        and condition.status is NodeStatus.READY
        and not task.moves_to
        and task.displaced is None
        and good(task, spec, conditions, now_s)
    )


def movables_on(state: State, conditions: Conditions, node_id: str, now_s: float) -> tuple[Movable, ...]:
    """The tasks of a node that could be moved to another one."""
    found: list[Movable] = []
    for task in state.tasks_of_node(node_id).values():
        job, spec = state.jobs[task.job_id], state.spec_of_task(task)
        runs = not task.ended and task.desired is DesiredState.RUN and not task.lost_at_s
        held = job.desired is DesiredState.STOP or job.removed or task.devices or unmovable_because(job, spec, task)
        if runs and not held and _may_move(state, task, spec, conditions, now_s):
            found.append(movable_of(state, job, task))
    return tuple(found)


def movable_of(state: State, job: Job, task: Task) -> Movable:
    avoid = state.slot_of(job.id, task.slot).failed_nodes
    request = Request(job_id=job.id, task_ids=(task.id,), spec=state.spec_of_task(task), avoid=avoid)
    return Movable(request=request, node_id=task.node_id, priority=job.priority)


def _notes(kept: Mapping[tuple[str, str], int]) -> tuple[str, ...]:
    """The jobs with most such tasks first; not those whose tasks nobody would expect to be moved."""
    lines = [
        f"{count} {'task' if count == 1 else 'tasks'} of {job} {'stays' if count == 1 else 'stay'}: {because}"
        for (job, because), count in sorted(kept.items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    more = len(lines) - _NOTES
    return (*lines[:_NOTES], *([f"and {more} more of that kind"] if more > 0 else []))


# --- the order


def planned_moves(state: State, moves: Iterable[Move]) -> tuple[PlannedMove, ...]:
    return tuple(
        _planned(
            state.tasks[move.movable.task_id], state.nodes[move.movable.node_id], state.nodes[move.to_id], move.text
        )
        for move in moves
    )


def _planned(task: Task, here: Node, there: Node, text: str) -> PlannedMove:
    return PlannedMove(job=task.job_name, slot=task.slot, task_id=task.id, node=here.name, to=there.name, text=text)


def wish(state: State, moves: Iterable[Move]) -> tuple[Group, ...]:
    """The changes that order these moves; what is gone by now is left out."""
    return tuple(
        (Write(msgspec.structs.replace(task, moves_to=move.to_id)),)
        for move in moves
        if (task := state.tasks.get(move.movable.task_id)) is not None and task.desired is DesiredState.RUN
    )


def plan_rebalance(
    state: State,
    conditions: Conditions,
    table: NodeTable,
    now_s: float,
    rng: Rng,
    *,
    limit: int,
    held: str,
    attention: Attention | None = None,
) -> Turns[Plan]:
    """What a rebalancing would do, step by step. As `controller.core.plan.plan` for the rest."""
    before, placer, conditions = state.fork(), TablePlacer(table), dict(conditions)
    imagined = Imagination(before, conditions, now_s, rng, placer, attention=attention)
    found = yield from looking(before, conditions, table.copy(), now_s, limit or MOVES_AT_MOST)
    imagined.take(wish(before, found.moves))
    rounds = yield from imagined.turns(dict.fromkeys(move.movable.request.job_id for move in found.moves))
    first = [
        PlanStep(action="move", subject=f"{one.job}.{one.slot}", text=f"{one.node} to {one.to}: {one.text}")
        for one in planned_moves(before, found.moves)
    ]
    notes = (*([f"not now: {held}"] if held else []), *found.notes)
    return (yield from outcome(before, imagined.state, rounds, placer, first=first, notes=notes))


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    groups: tuple[Group, ...]
    moves: Moves


def order_moves(state: State, table: NodeTable, tasks: Sequence[Task], there: Node) -> Ordered:
    """An operator's order to move these tasks to one node.

    Raises `Conflict` naming all that cannot be, and why; then none is moved.
    """
    surge = table.copy()
    faults: list[str] = []
    done: list[PlannedMove] = []
    groups: list[Group] = []
    for task in tasks:
        job = state.jobs[task.job_id]
        if why := _cannot_go(state, surge, job, task, there):
            faults.append(f"{task.job_name}.{task.slot} cannot move to {there.name}: {why}")
            continue
        if task.node_id == there.id or task.moves_to == there.id:
            continue
        surge.add_task(there.id, state.spec_of_task(task).task, job.id)
        done.append(_planned(task, state.nodes[task.node_id], there, "as ordered"))
        groups.append((Write(msgspec.structs.replace(task, moves_to=there.id)),))
    if faults:
        raise Conflict("; ".join(faults))
    return Ordered(groups=tuple(groups), moves=Moves(moves=tuple(done)))


def _cannot_go(state: State, table: NodeTable, job: Job, task: Task, there: Node) -> str:
    if task.ended or not task.node_id or task.desired is DesiredState.STOP or task.lost_at_s:
        return "it does not run" if not task.ended else "it has ended"
    if task.node_id not in state.nodes:
        return "its node is gone"
    if because := unmovable_because(job, state.spec_of_task(task), task):
        return because
    if task.node_id == there.id:
        return ""
    row = table.row_of(there.id)
    request = movable_of(state, job, task).request
    reasons = [reason.text for reason in node_reasons(table, request) if row is not None and reason.node == there.name]
    return "; ".join(reasons) if row is not None else "the node is not known"
