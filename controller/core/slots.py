"""Sorts a job's tasks into the slots they belong to and says in named words how each one is. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from common.model.job import DesiredState, JobMode, JobSpec, RestartCondition
from common.model.node import Availability, NodeCondition, NodeStatus
from common.model.task import Health, Task, TaskState
from controller.core.clocks import since_s
from controller.core.settings import SETTLE_S
from controller.state import State

Conditions = Mapping[str, NodeCondition]


class SlotView(msgspec.Struct, frozen=True, kw_only=True):
    """One slot's tasks in buckets; each task is in exactly one. Newest first within a bucket."""

    number: int
    wanted: tuple[Task, ...]
    """Meant to run, not ended, their nodes not given up."""
    stopping: tuple[Task, ...]
    """Told to stop, still there as far as we know."""
    lost: tuple[Task, ...]
    """Given up because their nodes are silent; may still run there."""
    satisfied: tuple[Task, ...]
    """Ended well and need no successor."""
    failed: tuple[Task, ...]
    """Ended although they should run, and not dealt with yet."""
    ended: tuple[Task, ...]
    """History."""


def slots_of(tasks: Iterable[Task], spec_of: Mapping[int, JobSpec]) -> dict[int, SlotView]:
    """All slots that have a task, by number. `spec_of` is by version."""
    buckets: dict[int, dict[str, list[Task]]] = {}
    for task in sorted(tasks, key=lambda task: (-task.created_at_s, task.id)):
        slot = buckets.setdefault(task.slot, {})
        slot.setdefault(_bucket(task, spec_of[task.version]), []).append(task)
    return {number: slot_view(number, slot) for number, slot in sorted(buckets.items())}


def slot_view(number: int, buckets: Mapping[str, list[Task]]) -> SlotView:
    return SlotView(
        number=number,
        wanted=tuple(buckets.get("wanted", ())),
        stopping=tuple(buckets.get("stopping", ())),
        lost=tuple(buckets.get("lost", ())),
        satisfied=tuple(buckets.get("satisfied", ())),
        failed=tuple(buckets.get("failed", ())),
        ended=tuple(buckets.get("ended", ())),
    )


def line(slot: SlotView, version: int, *, of_it: bool = True) -> SlotView:
    """The slot as if only its tasks of this version were there, or only all others."""

    def among(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        return tuple(task for task in tasks if (task.version == version) is of_it)

    return SlotView(
        number=slot.number,
        wanted=among(slot.wanted),
        stopping=among(slot.stopping),
        lost=among(slot.lost),
        satisfied=among(slot.satisfied),
        failed=among(slot.failed),
        ended=among(slot.ended),
    )


def _bucket(task: Task, spec: JobSpec) -> str:
    if task.ended:
        if task.desired is DesiredState.STOP:
            return "ended"
        return "satisfied" if _needs_no_successor(task, spec) else "failed"
    if task.lost_at_s:
        return "lost"
    return "wanted" if task.desired is DesiredState.RUN else "stopping"


def _needs_no_successor(task: Task, spec: JobSpec) -> bool:
    """Whether the policy lets a task rest that ended by itself: agents report only ends that they will not restart.

    Of a job whose tasks end, `BatchPolicy.attempts` says what comes after one that failed.
    """
    if task.status.state is TaskState.COMPLETE:
        return True
    return (
        not spec.mode.ends
        and task.status.state is TaskState.FAILED
        and spec.task.restart.condition is RestartCondition.NONE
    )


def good(task: Task, spec: JobSpec, conditions: Conditions, now_s: float) -> bool:
    """Whether the task does its work: healthy, or up long enough where nothing tells its health.

    What a silent node said last is no proof of anything.
    """
    if task.status.state is not TaskState.RUNNING or is_silent(task, conditions):
        return False
    if spec.task.health_check is not None:
        return task.status.health is Health.HEALTHY
    return since_s(task.observed_at_s, now_s) >= SETTLE_S


def is_silent(task: Task, conditions: Conditions) -> bool:
    """Whether the task's node says nothing, or has not said anything yet."""
    condition = conditions.get(task.node_id)
    return condition is None or condition.status in (NodeStatus.UNREACHABLE, NodeStatus.DOWN)


def passed(task: Task, spec: JobSpec, conditions: Conditions, now_s: float) -> bool:
    """Whether a rollout may rely on the task: it has been good for `update.monitor_s`."""
    watched = since_s(task.observed_at_s, now_s) >= spec.update.monitor_s
    return watched and good(task, spec, conditions, now_s)


def settles_at_s(task: Task, spec: JobSpec) -> tuple[float, ...]:
    """When mere time would make the task good, or let it pass; empty when it takes more than time."""
    if task.status.state is not TaskState.RUNNING:
        return ()
    passes_at_s = task.observed_at_s + spec.update.monitor_s
    if spec.task.health_check is not None:
        return (passes_at_s,) if task.status.health is Health.HEALTHY else ()
    return task.observed_at_s + SETTLE_S, passes_at_s


_ON_ITS_WAY = (TaskState.PENDING, TaskState.ASSIGNED, TaskState.PREPARING, TaskState.STARTING)


def merely_nearer(before: Task, after: Task) -> bool:
    """Whether all that happened to a task is that its first attempt came nearer to running: no decision asks for that.

    Half of all that agents report while a job starts is of this kind.
    """
    return (
        before.status.state in _ON_ITS_WAY
        and after.status.state in _ON_ITS_WAY
        and after.status.attempt <= 1
        and msgspec.structs.replace(before, status=after.status, observed_at_s=after.observed_at_s) == after
    )


def sick(task: Task, spec: JobSpec, conditions: Conditions) -> bool:
    """Whether the task's node says that it does not do its work. What a silent node said last is no proof of that."""
    condition = conditions.get(task.node_id)
    if condition is None or condition.status is not NodeStatus.READY:
        return False
    if task.status.state is not TaskState.RUNNING:
        return True
    return spec.task.health_check is not None and task.status.health is not Health.HEALTHY


def must_move(task: Task, state: State) -> bool:
    """Whether the task has to leave: it is to move, its node is to be emptied, or its room is wanted.

    One that is to end by itself may do so, and one that belongs to its node has nowhere else to go.
    """
    if task.moves_to:
        return True
    if not drains(task, state) and not makes_room(task, state):
        return False
    return state.spec_of_task(task).mode is JobMode.SERVICE


def drains(task: Task, state: State) -> bool:
    """Whether the task's node is to be emptied."""
    node = state.nodes.get(task.node_id)
    return node is not None and node.availability is Availability.DRAINING


def makes_room(task: Task, state: State) -> bool:
    """Whether a task of higher priority still waits for this one's room."""
    if task.displaced is None or not task.displaced.task_id:
        return False
    waiting = state.nominated.get(task.displaced.task_id)
    if waiting is None or waiting.nomination is None or waiting.nomination.node_id != task.node_id:
        return False
    return state.priority_of(waiting) > state.priority_of(task)


def node_down(task: Task, state: State, conditions: Conditions) -> bool:
    """Whether the task's node is given up: judged down, or removed. For an exclusive task it must be silent longer."""
    if not task.node_id:
        return False
    if task.node_id not in state.nodes:
        return True
    condition = conditions.get(task.node_id)
    down = condition is not None and condition.status is NodeStatus.DOWN
    return down and condition is not None and condition.silent_s >= task.lost_after_s


def node_back(task: Task, conditions: Conditions) -> bool:
    condition = conditions.get(task.node_id)
    return condition is not None and condition.status is NodeStatus.READY
