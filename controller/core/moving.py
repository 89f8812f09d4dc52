"""Wishes that a running task's slot should move to another node, for a better balance or because an operator says so.

A wish stands in the task itself (`moves_to`), so the next leader goes on with it; the rollout carries it out as a
surge-move. Here is said where the successor may go, and when a wish is given up: it is never worth a replica, nor does
it ever keep trying, so that nothing can be moved to and fro.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.model.job import DesiredState, Job, JobMode, JobSpec
from common.model.node import Availability, NodeStatus
from common.model.task import Task, TaskState
from common.rollout_rules import stop_first_because
from controller.core.clocks import since_s
from controller.core.settings import WISH_LASTS_S, WISH_WITHOUT_ROOM_S
from controller.core.slots import Conditions, SlotView
from controller.state import State


def target_of(task: Task, state: State) -> str:
    """Id of the only node on which a pending task may be placed, since it relieves one that is to move there; or ""."""
    relieved = state.tasks.get(task.moves)
    if relieved is None or relieved.ended or relieved.lost_at_s or relieved.desired is DesiredState.STOP:
        return ""
    return relieved.moves_to


def wishes(slots: Iterable[SlotView]) -> Iterator[tuple[SlotView, Task]]:
    """Tasks that are to move, with their slots."""
    return ((slot, task) for slot in slots for task in slot.wanted if task.moves_to)


def successor(slot: SlotView, task: Task) -> Task | None:
    """What is to take over from a task that moves."""
    return next((other for other in slot.wanted if other.moves == task.id), None)


def given_up_because(state: State, job: Job, slot: SlotView, task: Task, conditions: Conditions, now_s: float) -> str:
    """Why a task stays where it is although it was to move; empty while it is to move still."""
    node, condition = state.nodes.get(task.moves_to), conditions.get(task.moves_to)
    if node is None or condition is None or condition.status is not NodeStatus.READY:
        return "the node it was to move to is not ready"
    if node.availability is not Availability.ACTIVE:
        return f"node {node.name}, to which it was to move, is {node.availability.value}"
    here = state.nodes.get(task.node_id)
    if here is not None and here.availability is Availability.DRAINING:
        return "its node is being drained"
    if cannot := unmovable_because(job, state.spec_of_task(task), task):
        return cannot
    if state.slot_of(job.id, task.slot).failures:
        return "its successor failed"
    return _overdue(slot, task, node.name, now_s)


def unmovable_because(job: Job, spec: JobSpec, task: Task) -> str:
    """Why a task must not be moved for mere balance; empty when it may. `spec` is of the task's version."""
    if spec.mode is not JobMode.SERVICE:
        return f"a {spec.mode.value} task is not moved"
    if spec.gang:
        return "a gang is not moved"
    if task.version != job.version or job.paused:
        return "its job is changing"
    because = stop_first_because(spec) or ("it is exclusive" if task.fence_after_s else "")
    return f"{because}, so moving it would mean to stop it first" if because else ""


def _overdue(slot: SlotView, task: Task, target: str, now_s: float) -> str:
    follower = successor(slot, task)
    if follower is None:
        return ""
    waited_s = since_s(follower.created_at_s, now_s)
    if not follower.node_id and waited_s >= WISH_WITHOUT_ROOM_S:
        return f"node {target} has no room for it any more"
    if waited_s >= WISH_LASTS_S and follower.status.state is not TaskState.RUNNING:
        return f"its successor on node {target} did not run within {WISH_LASTS_S:g} s"
    return ""


def overdue_at_s(slot: SlotView, task: Task) -> tuple[float, ...]:
    """When mere time would make a wish overdue."""
    follower = successor(slot, task)
    if follower is None:
        return ()
    return follower.created_at_s + WISH_WITHOUT_ROOM_S, follower.created_at_s + WISH_LASTS_S
