"""What it takes to remove a node from the cluster: its record, its tasks, and its right to come back."""

from __future__ import annotations

from collections.abc import Iterable

from common.errors import Conflict
from common.model.node import Node
from common.model.task import Task
from common.model.trust import Kind
from controller.core.joining import expelled
from controller.state import Erase, Group, State

REASON = "its node was removed"


def removed(state: State, nodes: Iterable[Node], now_s: float, *, force: bool) -> tuple[Group, ...]:
    """The changes. Raises `Conflict` for a node that still runs something, unless that may be lost.

    What is lost is replaced as after any death of a node, but for exclusive tasks: whether they still run is what only
    their node, or the time they are given, can tell.
    """
    found = tuple(nodes)
    faults = [fault for node in found if (fault := _fault(state, node, force=force))]
    if faults:
        raise Conflict("; ".join(faults))
    return tuple(group for node in found for group in _groups(state, node, now_s))


def _groups(state: State, node: Node, now_s: float) -> Iterable[Group]:
    enrolment = state.enrolments.get(f"{Kind.AGENT.value}-{node.id}")
    if enrolment is not None:
        yield expelled(enrolment, REASON, now_s)  # first: it must not report on what is being forgotten
    for task in state.tasks_of_node(node.id).values():
        yield (Erase(task),)
    yield (Erase(node),)


def _fault(state: State, node: Node, *, force: bool) -> str:
    live = [task for task in state.tasks_of_node(node.id).values() if not task.ended and not task.lost_at_s]
    exclusive = sum(_may_run(task) for task in state.tasks_of_node(node.id).values())
    if exclusive:
        return f"{node.name} may still run {exclusive} exclusive tasks: drain it, or wait until they are lost"
    if live and not force:
        return (
            f"{node.name} has {len(live)} tasks: `podium drain {node.name}` first, or --force to replace them at once"
        )
    return ""


def _may_run(task: Task) -> bool:
    return bool(task.fence_after_s) and not task.ended and not task.lost_at_s
