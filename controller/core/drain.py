"""What the operator does with a node (cordon, uncordon, drain), and what is left on one that is being emptied, and why.

Only the node's availability is changed here: that is stored, and every leader reconciles by it. Moving tasks is the
rollout's business (`controller.core.rollout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from common.model.api import DrainedNode, LeftTask, NodeChange
from common.model.job import DesiredState, UpdateOrder
from common.model.node import Availability, Node, NodeCondition, NodeStatus
from common.model.task import Health, Task, TaskState
from common.model.verdict import Verdict
from common.rollout_rules import stop_first_because
from controller.core.rollout import order_of
from controller.core.slots import Conditions
from controller.state import Group, State, Write


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    groups: tuple[Group, ...]
    changes: tuple[NodeChange, ...]


_WORDS = {
    Availability.ACTIVE: ("uncordon", "takes new tasks again"),
    Availability.CORDONED: ("cordon", "takes no new tasks; those it has stay"),
    Availability.DRAINING: ("drain", "takes no new tasks and hands over those it has"),
}
_ALREADY = {
    Availability.ACTIVE: "takes new tasks already",
    Availability.CORDONED: "is cordoned already",
    Availability.DRAINING: "is being drained already",
}


def set_availability(nodes: Iterable[Node], wanted: Availability) -> Setting:
    """The changes that give these nodes the availability. One that has it is unchanged, and that is no fault.

    A node that is being drained is not merely cordoned again: that would end the drain unsaid.
    """
    changes: list[NodeChange] = []
    groups: list[Group] = []
    for node in nodes:
        now = node.availability
        if now is wanted or (now is Availability.DRAINING and wanted is Availability.CORDONED):
            changes.append(NodeChange(node=node.name, node_id=node.id, action="unchanged", text=_ALREADY[now]))
            continue
        action, text = _WORDS[wanted]
        if now is Availability.DRAINING:
            text += "; tasks it still has stay, their successors that are not healthy yet are dropped"
        changes.append(NodeChange(node=node.name, node_id=node.id, action=action, text=text))
        groups.append((Write(msgspec.structs.replace(node, availability=wanted)),))
    return Setting(groups=tuple(groups), changes=tuple(changes))


def drained(
    state: State, node: Node, conditions: Mapping[str, NodeCondition], verdicts: Mapping[str, Verdict]
) -> DrainedNode:
    """How far the emptying of a node has come: each task that is still there, with what it waits for."""
    tasks = [task for task in state.tasks_of_node(node.id).values() if not task.ended and not task.lost_at_s]
    tasks.sort(key=lambda task: (task.job_name, task.slot, task.created_at_s))
    waits = {task.id: _waits_for(state, task, conditions, verdicts) for task in tasks}
    stuck = {task.job_id: task for task in tasks if waits[task.id].stuck}
    return DrainedNode(
        node=node.name,
        node_id=node.id,
        availability=node.availability,
        left=tuple(_left(task, waits[task.id], stuck.get(task.job_id)) for task in tasks),
    )


class _Wait(msgspec.Struct, frozen=True, kw_only=True):
    """What a task's leaving waits for."""

    text: str
    stuck: bool = False
    """Waiting alone will not help."""
    turn: bool = False
    """Others of its job go first."""


def _left(task: Task, wait: _Wait, first: Task | None) -> LeftTask:
    """`first` is one of the same job that is stuck: whoever waits for a turn is so too."""
    if wait.turn and first is not None:
        text = f"{wait.text}, after {first.job_name}.{first.slot}"
        return LeftTask(job=task.job_name, slot=task.slot, task_id=task.id, stuck=True, text=text)
    return LeftTask(job=task.job_name, slot=task.slot, task_id=task.id, stuck=wait.stuck, text=wait.text)


def _waits_for(state: State, task: Task, conditions: Conditions, verdicts: Mapping[str, Verdict]) -> _Wait:
    if task.desired is DesiredState.STOP:
        return _Wait(text="is stopping: connections in flight end first")
    spec = state.spec_of_task(task)
    if spec.mode.ends:
        return _Wait(text="runs to completion and is not moved")
    if spec.gang:
        return _Wait(text="is of a gang, which stops and starts as a whole")
    if spec.mode.per_node:
        return _Wait(text="belongs to the node: stops when everything else has left it")
    for successor in _successors(state, task):
        if not successor.node_id:
            verdict = verdicts.get(successor.id)
            return _Wait(text=verdict.verdict if verdict else "its successor waits for a node", stuck=bool(verdict))
        return _Wait(text=f"its successor on {_node_name(state, successor)} is {_well(successor, conditions)}")
    if order_of(spec) is UpdateOrder.START_FIRST:
        return _Wait(text="waits for its turn", turn=True)
    condition = conditions.get(task.node_id)
    if condition is not None and condition.status is not NodeStatus.READY:
        return _Wait(text=f"the node is {condition.status.value}, and it must not be stopped unseen")
    because = stop_first_because(spec)
    return _Wait(text=f"waits for its turn: stopped before its successor starts, since {because}", turn=True)


def _successors(state: State, task: Task) -> Iterator[Task]:
    """Tasks of the slot that are on their way, the one that is meant to relieve this one first."""
    others = [
        other
        for other in state.tasks_of_job(task.job_id).values()
        if other.slot == task.slot
        and other.id != task.id
        and other.desired is DesiredState.RUN
        and not other.ended
        and not other.lost_at_s
        and other.node_id != task.node_id
    ]
    return iter(sorted(others, key=lambda other: (other.moves != task.id, -other.created_at_s)))


def _well(task: Task, conditions: Conditions) -> str:
    condition = conditions.get(task.node_id)
    if condition is not None and condition.status in (NodeStatus.UNREACHABLE, NodeStatus.DOWN):
        return f"on a node that is {condition.status.value}"
    if task.status.state is not TaskState.RUNNING:
        said = f": {task.status.message}" if task.status.message else ""
        return f"{task.state.value}{said}"
    words = {Health.STARTING: "in its health check", Health.UNHEALTHY: "unhealthy"}
    return words.get(task.status.health, "running and watched")


def _node_name(state: State, task: Task) -> str:
    node = state.nodes.get(task.node_id)
    return node.name if node else task.node_id
