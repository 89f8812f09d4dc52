"""Jobs with a slot for each node: which nodes fit, which slot is whose, and what there is no room for side by side.

A slot belongs to one node for as long as that fits, and its tasks run there or nowhere. A node fits when it meets the
constraints and could take the task if it had nothing else. Of a node that is down the slot rests, since the node may
come back with its task; on one that is being emptied it stays until everything else has left, so that the last task to
go is still logged and measured. A cordon does not concern it: nobody chose that node for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

import msgspec

from common.model.device import WHOLE_MILLIS, DeviceRequest
from common.model.job import Constraint, Job, JobSpec, TaskSpec
from common.model.node import Availability, Node, NodeStatus
from common.model.task import Task
from controller.core.slots import Conditions
from controller.scheduler.attributes import attribute_value, comparable, value_meets
from controller.scheduler.node_table import IMAGE_RUNTIMES, PROCESS_RUNTIMES, RESOURCES, holds_reservation
from controller.scheduler.verdicts import amount
from controller.state import State


class Homes(msgspec.Struct, frozen=True, kw_only=True):
    """Node ids by slot, in the order of the slots."""

    wanted: dict[int, str]
    """Whose slots should have a task."""
    resting: dict[int, str]
    """Whose slots stay as they are: the node is down, or is being emptied and something else still runs there."""


def homes(state: State, job: Job, spec: JobSpec, conditions: Conditions) -> Homes:
    """Every node that fits with its slot: the one it has, or the lowest that is free."""
    known = _known(state, job)
    free = _free(state, job)
    wanted: dict[int, str] = {}
    resting: dict[int, str] = {}
    for node in sorted(state.nodes.values(), key=lambda node: (known.get(node.id, 0) == 0, node.name, node.id)):
        if unfit_because(node, spec.task):
            continue
        number = known.get(node.id, 0)
        if _rests(state, job, node, conditions):
            if number:
                resting[number] = node.id
        elif node.availability is not Availability.DRAINING:
            wanted[number or next(free)] = node.id
    return Homes(wanted=dict(sorted(wanted.items())), resting=resting)


def _known(state: State, job: Job) -> dict[str, int]:
    """The slot of each node that has one; of a slot without a mark, from before the job was of this kind, the node
    that its task is on."""
    found: dict[str, int] = {}
    for number, slot in sorted(state.slots_of(job.id).items()):
        if slot.only_node:
            found.setdefault(slot.only_node, number)
    taken = set(found.values())
    tasks = sorted(state.tasks_of_job(job.id).values(), key=lambda task: (task.ended, task.slot, task.id))
    for task in tasks:
        home = task.only_node or task.node_id
        if home and home not in found and task.slot not in taken:
            found[home] = task.slot
            taken.add(task.slot)
    return found


def _free(state: State, job: Job) -> Iterator[int]:
    used = {*state.slots_of(job.id), *(task.slot for task in state.tasks_of_job(job.id).values())}
    return (number for number in count(1) if number not in used)


def _rests(state: State, job: Job, node: Node, conditions: Conditions) -> bool:
    condition = conditions.get(node.id)
    if condition is not None and condition.status is NodeStatus.DOWN:
        return True
    if node.availability is not Availability.DRAINING:
        return False
    live = [task for task in state.tasks_of_node(node.id).values() if not task.ended and not task.lost_at_s]
    mine = any(task.job_id == job.id for task in live)
    return mine and (state.spec_of(job).mode.ends or any(not _of_each_node(state, task) for task in live))


def _of_each_node(state: State, task: Task) -> bool:
    return state.spec_of_task(task).mode.per_node


def left_because(state: State, job: Job, node_id: str) -> str:
    """Why a slot is given up, for people."""
    node = state.nodes.get(node_id)
    if node is None:
        return "its node was removed" if node_id else "its job has a task on each node now"
    if unfit := unfit_because(node, state.spec_of(job).task):
        return f"node {node.name} does not fit any more: {unfit}"
    return "its node is being drained, and nothing else is left there"


# --- which nodes fit


def unfit_because(node: Node, spec: TaskSpec) -> str:
    """Why a node could not take the task even if it had nothing else; empty when it could."""
    return next(_unfit(node, spec), "")


def _unfit(node: Node, spec: TaskSpec) -> Iterator[str]:
    for constraint in spec.placement.constraints:
        if not _holds(node, constraint):
            have = attribute_value(node, constraint.attribute)
            yield f"needs {constraint}, and has {have or 'no such value'}"
    able = IMAGE_RUNTIMES if spec.container.image else PROCESS_RUNTIMES
    if not any(runtime.name in able for runtime in node.description.runtimes):
        yield f"needs the {able[0]} runtime, and has {_names(node) or 'none'}"
    for name in RESOURCES:
        need, there = getattr(spec.reservations, name), getattr(node.description.capacity, name)
        if need > there:
            yield f"needs {amount(name, need)}, and has {amount(name, there)} in all"
    for request in spec.devices:
        units = sum(_offers(request, device.kind, device.model) for device in node.description.devices)
        if units < request.count:
            yield f"needs {request.count} {request.kind}, and has {units} that will do"


def _holds(node: Node, constraint: Constraint) -> bool:
    """The same as the scheduler's filter says."""
    have = attribute_value(node, constraint.attribute)
    if have is None:
        return constraint.operator.negates
    return value_meets(constraint, comparable(constraint.attribute, have))


def _offers(request: DeviceRequest, kind: str, model: str) -> bool:
    return kind == request.kind and (not request.models or model in request.models)


def _names(node: Node) -> str:
    return ", ".join(runtime.name for runtime in node.description.runtimes)


# --- two tasks of a slot on one node


def no_room_beside(state: State, node_id: str, spec: TaskSpec) -> str:
    """Why the node cannot take a task of this spec beside what it has; empty when it can."""
    node = state.nodes.get(node_id)
    if node is None:
        return ""
    if spec.devices and any(request.share_millis == WHOLE_MILLIS for request in spec.devices):
        return "it holds devices of its node"
    held = _held(state, node_id)
    for place, name in enumerate(RESOURCES):
        need = getattr(spec.reservations, name)
        there = getattr(node.description.capacity, name) - held[place]
        if need and need > there:
            return f"node {node.name} has only {amount(name, max(0, there))} left for a second one"
    return ""


def _held(state: State, node_id: str) -> list[int]:
    tasks: Iterable[Task] = state.tasks_of_node(node_id).values()
    specs = [state.spec_of_task(task).task.reservations for task in tasks if holds_reservation(task)]
    return [sum(getattr(reserved, name) for reserved in specs) for name in RESOURCES]
