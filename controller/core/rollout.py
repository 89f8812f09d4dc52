"""How a job goes from one version to the next, slot by slot: which slots change now. When to stop is not decided here.

A slot is outdated while what runs in it is not the wanted version, and it moves while its node is to be emptied: both
are a surge-move. `start-first` puts the new task beside the old one and stops the old when the new is good;
`stop-first` frees the slot first, and is forced where two tasks of a slot cannot coexist. At most `parallelism` slots
are under way at once. A rollout that must not go on (held by a dependency, or paused) holds no move up: a task leaves
its node at its own version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import msgspec

from common.model.job import Job, JobSpec, UpdateOrder
from common.model.task import Task, TaskState
from common.rollout_rules import stop_first_because
from controller.core.decisions import Create, Stop
from controller.core.slots import SlotView, drains, makes_room, must_move
from controller.state import State

Step: TypeAlias = Create | Stop


def order_of(spec: JobSpec) -> UpdateOrder:
    """The order the spec asks for, or stop-first where its tasks cannot run side by side."""
    return UpdateOrder.STOP_FIRST if stop_first_because(spec) else UpdateOrder.START_FIRST


class Judge(Protocol):
    """What may be said of a task now."""

    def good(self, task: Task) -> bool:
        """It does its work."""

    def passed(self, task: Task) -> bool:
        """It does, and has been watched for long enough to rely on it."""

    def sick(self, task: Task) -> bool:
        """Its node says that it does not do its work. Of a silent node nobody knows."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What of the job may change, and how much of it."""

    wanted_version: int
    filled_version: int
    """Of tasks that must be made in any case; an earlier one while the rollout to the wanted one is not to go on, and 0
    where none of those was ever good."""
    held: bool = False
    """Nothing begins to change its version, but what an earlier rollout left half done is tidied."""
    paused: bool = False
    """Nor is anything tidied: slots stay as they are, but for tasks that must leave their nodes."""
    quiet_slots: int = 0
    """Slots besides those that are looked at: each has one task of the wanted version and nothing else."""
    quiet_passed: int = 0
    """Those of them whose task is to be relied on; the others are on their way."""
    begin: bool = True
    """Slots that are well may begin to change; not before the delay since the last one is over."""
    moves: int
    """Tasks that may set out from nodes to be emptied, as far as the rest of the cluster has room for it."""


def outdated(task: Task, version: int, state: State) -> bool:
    return task.version != version or must_move(task, state)


def steps(state: State, job: Job, spec: JobSpec, slots: Sequence[SlotView], judge: Judge, pace: Pace) -> list[Step]:
    """The next steps for slots that have wanted tasks, towards the wanted version and away from nodes to be emptied.

    Slots whose new task is good lose their old ones; broken or unplaced old tasks are replaced first, since nothing is
    lost with them; then as many others begin as `parallelism` leaves room for. Tasks that must leave come before those
    that merely change.
    """
    readings = [_read(state, slot, judge, pace.wanted_version) for slot in slots]
    if pace.paused:
        readings = [reading for reading in readings if reading.concerned]
    decided: list[Step] = [stop for reading in readings for stop in reading.stops]
    waiting = sorted((one for one in readings if one.kept and not one.busy and not one.done), key=_urgency)
    moving = [one for one in waiting if _merely_moves(one, pace)]
    changing = [one for one in waiting if not _merely_moves(one, pace) and not _current(one, pace)]
    if order_of(spec) is UpdateOrder.STOP_FIRST:  # of a silent node nobody knows whether stopping its task loses one
        moving = [one for one in moving if one.good or one.sick]
    parallelism = spec.update.parallelism or len(slots) + pace.quiet_slots
    room = max(0, min(parallelism - _under_way(job, spec, slots, readings, judge, pace), pace.moves))
    begun = moving[:room]
    decided += [_begin(state, spec, one, _own_version(one, pace)) for one in begun]
    if pace.held or pace.paused:
        return decided
    busy = sum(one.busy for one in readings) + pace.quiet_slots - pace.quiet_passed
    free = max(0, parallelism - len(begun) - busy)
    changing = [one for one in changing if pace.begin or not one.good]
    decided += [_begin(state, spec, one, pace.wanted_version) for one in changing[:free]]
    if order_of(spec) is UpdateOrder.START_FIRST:  # a rollout that is stuck must not keep a node from being emptied
        stuck = [one for one in changing[free:] if one.leaves][: room - len(begun)]
        decided += [_begin(state, spec, one, _own_version(one, pace)) for one in stuck]
    return decided


class _Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One slot, as far as its next step depends on it."""

    number: int
    kept: Task | None = None
    """Serves until something better has arrived; None when that is there, or nothing ever was."""
    leaves: bool = False
    """The kept task's node is to be emptied."""
    concerned: bool = False
    """Some task's is."""
    good: bool = False
    sick: bool = False
    """The kept task is to be relied on; or does not do its work; or neither is known."""
    busy: bool
    """What follows the kept task is on its way, or the slot was freed for it."""
    moves: bool = False
    """... and it is the same version elsewhere."""
    done: bool
    stops: tuple[Stop, ...] = ()


def _read(state: State, slot: SlotView, judge: Judge, version: int) -> _Reading:
    old: list[Task] = []
    new: list[Task] = []
    for task in slot.wanted:
        (old if outdated(task, version, state) else new).append(task)
    arrived = any(judge.passed(task) for task in new)
    if not old:  # nearly all slots nearly always
        done = arrived or any(task.version == version for task in slot.satisfied)
        return _Reading(number=slot.number, busy=not done, done=done)
    kept = None if arrived else max(old, key=lambda task: _worth(task, state, judge), default=None)
    leaves = kept is not None and must_move(kept, state)
    relief = [task for task in old if leaves and kept and task.moves == kept.id and not must_move(task, state)]
    going = [task for task in old if task is not kept and task not in relief]
    sick = kept is not None and judge.sick(kept)
    if kept and leaves and sick and any(task.node_id for task in (*new, *relief)):
        going.append(kept)  # what follows one that does not work need not be well before
    done = arrived or any(task.version == version for task in slot.satisfied)
    return _Reading(
        number=slot.number,
        kept=kept,
        leaves=leaves,
        concerned=any(must_move(task, state) for task in old),
        good=kept is not None and judge.passed(kept),
        sick=sick,
        busy=not done and bool(new or relief or kept is None),
        moves=bool(relief) or (leaves and kept is not None and kept.version == version),
        done=done,
        stops=tuple(Stop(task=task, reason=_reason(task, version, state, arrived=arrived)) for task in going),
    )


def _worth(task: Task, state: State, judge: Judge) -> tuple[bool, bool, float]:
    """Which of a slot's old tasks is kept: one to rely on that may stay, else one that works, else the oldest."""
    return judge.passed(task) and not must_move(task, state), judge.good(task), -task.created_at_s


def _urgency(reading: _Reading) -> tuple[bool, bool, int]:
    return reading.good, not reading.leaves, reading.number


def _merely_moves(reading: _Reading, pace: Pace) -> bool:
    """Whether the slot's task leaves its node and is not to change its version on the way."""
    return reading.leaves and (pace.held or pace.paused or _current(reading, pace))


def _current(reading: _Reading, pace: Pace) -> bool:
    return reading.kept is not None and reading.kept.version == pace.wanted_version


def _under_way(
    job: Job, spec: JobSpec, slots: Sequence[SlotView], readings: Sequence[_Reading], judge: Judge, pace: Pace
) -> int:
    """Slots that count against the room for moves.

    With start-first those that move: a change of version beside them costs no replica. With stop-first every slot that
    is without a good task, but for those whose task is broken and only waits to leave.
    """
    if order_of(spec) is UpdateOrder.START_FIRST:
        return sum(one.busy and one.moves for one in readings)
    well = sum(any(judge.passed(task) for task in slot.wanted) for slot in slots)
    broken = sum(one.leaves and not one.busy and not one.done and one.sick for one in readings)
    return max(0, job.replicas - well - pace.quiet_passed - broken)


def _own_version(reading: _Reading, pace: Pace) -> int:
    """What a task that leaves is followed by: its like, unless it is broken and another version is to be relied on."""
    assert reading.kept is not None, "only slots that have a task wait"
    return reading.kept.version if reading.good or not pace.filled_version else pace.filled_version


def _begin(state: State, spec: JobSpec, reading: _Reading, version: int) -> Step:
    old = reading.kept
    assert old is not None, "only slots that have a task wait"
    if not old.node_id:
        return Stop(task=old, reason=stop_reason(old, version, state))
    because = stop_first_because(spec) or ("the old one is exclusive" if old.fence_after_s else "")
    if because:
        return Stop(
            task=old, reason=f"{stop_reason(old, version, state)}; stopped before the next one starts, since {because}"
        )
    by = old.displaced.by if old.displaced is not None and makes_room(old, state) else ""
    return Create(
        slot=reading.number,
        version=version,
        reason=stop_reason(old, version, state),
        moves=old.id if reading.leaves else "",
        displaced_by=by,
    )


def _reason(task: Task, version: int, state: State, *, arrived: bool) -> str:
    return stop_reason(task, version if arrived or not must_move(task, state) else task.version, state)


def stop_reason(task: Task, version: int, state: State) -> str:
    """Why an outdated task goes, for people."""
    if task.version != version:
        return f"version {task.version} gives way to {version}"
    if task.displaced is not None and makes_room(task, state) and not drains(task, state):
        return f"preempted by {task.displaced.by}"
    return "it moves to another node, for a better balance" if task.moves_to else "its node is being drained"


def fails(task: Task) -> bool:
    """Whether the task speaks against its version: it ended badly, or had to be restarted."""
    return ended_badly(task) or task.status.attempt > 1


def ended_badly(task: Task) -> bool:
    """Whether its last attempt has ended, and not well."""
    return task.status.state in (TaskState.FAILED, TaskState.REJECTED, TaskState.RESTARTING)
