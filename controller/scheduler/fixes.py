"""What would make a task fit. Proposes single changes and keeps those the scheduler itself then places everything with.

Never carries a change out, never proposes one it has not tried on a copy of the table.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from common.constraints import ALIASES
from common.model.device import WHOLE_MILLIS, Device, DeviceRequest
from common.model.job import ConstraintOperator, Placement, TaskSpec
from common.model.node import Availability, Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from common.model.verdict import Fix
from common.policy import lines_of, refused, widened
from controller.scheduler.filters import feasible, room
from controller.scheduler.node_table import IMAGE_RUNTIMES, PROCESS_RUNTIMES, RESOURCES, NodeTable
from controller.scheduler.relief import Movables, moved, relief
from controller.scheduler.schedule import place
from controller.scheduler.values import Request
from controller.scheduler.verdicts import amount

MAX_FIXES = 6
"""Shown; more is no help. Proposals come cheapest first."""
_NODES_TRIED = 8
"""Nodes that are tried one by one (uncordon, bring back): a person will not read further."""
_POLICIES_TRIED = 2
"""Nodes whose policy could give more away: those that lack least. The others' operators would write the same."""
_NODES_ADDED = 1_000
"""More than that is not advice."""
_STEPS = {"cpu_millis": 10, "memory_bytes": 1024 * 1024}
"""A lowered reservation is a multiple of this: a number one would write in a file."""


_NAMING = (ConstraintOperator.EQUAL, ConstraintOperator.IN, ConstraintOperator.AT_LEAST, ConstraintOperator.AT_MOST)
"""Operators that hold for what they name."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A fix, and the world as it would be with it."""

    fix: Fix
    table: NodeTable
    request: Request


def verified_fixes(
    table: NodeTable, request: Request, movables: Movables = lambda _: (), name: Callable[[str], str] = str
) -> tuple[Proposal, ...]:
    """Fixes after each of which every task of the request is placed; cheapest kind first, at most `MAX_FIXES`.

    `name` says what a command calls a task, by its id.
    """
    found: list[Proposal] = []
    for proposal in _proposals(table, request, movables, name):
        if len(place(proposal.table.copy(), proposal.request)) == len(request.task_ids):
            found.append(proposal)
            if len(found) == MAX_FIXES:
                break
    return tuple(found)


def _proposals(
    table: NodeTable, request: Request, movables: Movables, name: Callable[[str], str]
) -> Iterator[Proposal]:
    yield from _uncordoned(table, request)
    yield from _moved(table, request, movables, name)
    yield from _returned(table, request)
    yield from _allowed(table, request)
    yield from _lowered_reservation(table, request)
    yield from _raised_maximum(table, request)
    yield from _relaxed_constraint(table, request)
    yield from _relaxed_affinity(table, request)
    yield from _any_model(table, request)
    yield from _added_nodes(table, request)


def _uncordoned(table: NodeTable, request: Request) -> Iterator[Proposal]:
    """Also for draining nodes: uncordoning ends a drain."""
    away = [(node, condition) for node, condition in table.nodes() if node.availability is not Availability.ACTIVE]
    for node, condition in away[:_NODES_TRIED]:
        changed = table.copy()
        changed.set_node(msgspec.structs.replace(node, availability=Availability.ACTIVE), condition)
        text = f"uncordon node {node.name}, which is {node.availability.value}"
        yield Proposal(fix=Fix(text=text, command=f"podium uncordon {node.name}"), table=changed, request=request)


def _moved(table: NodeTable, request: Request, movables: Movables, name: Callable[[str], str]) -> Iterator[Proposal]:
    moves = relief(table, request, movables)
    if not moves:
        return
    by_node: dict[str, list[str]] = {}
    for movable, node_id in moves:
        by_node.setdefault(_name_of(table, node_id), []).append(name(movable.task_id))
    what = "1 task" if len(moves) == 1 else f"{len(moves)} tasks"
    where = ", ".join(
        f"{name(movable.task_id)} from node {_name_of(table, movable.node_id)} to node {_name_of(table, node_id)}"
        for movable, node_id in moves
    )
    command = " && ".join(f"podium move {' '.join(tasks)} --to {node}" for node, tasks in by_node.items())
    fix = Fix(text=f"move {what}: {where}", command=command)
    yield Proposal(fix=fix, table=moved(table, moves), request=request)


def _name_of(table: NodeTable, node_id: str) -> str:
    row = table.row_of(node_id)
    return node_id if row is None else table.node(row).name


def _returned(table: NodeTable, request: Request) -> Iterator[Proposal]:
    away = [(node, condition) for node, condition in table.nodes() if condition.status is not NodeStatus.READY]
    for node, condition in away[:_NODES_TRIED]:
        changed = table.copy()
        changed.set_node(node, msgspec.structs.replace(condition, status=NodeStatus.READY))
        text = f"bring node {node.name} back, which is {condition.status.value}"
        yield Proposal(fix=Fix(text=text), table=changed, request=request)


def _allowed(table: NodeTable, request: Request) -> Iterator[Proposal]:
    """A node whose policy gives away what it does not yet."""
    container = request.spec.task.container
    lacking = [(pair, refused(pair[0].description.policy, container)) for pair in table.nodes()]
    nearest = sorted(((pair, asks) for pair, asks in lacking if asks), key=lambda one: (len(one[1]), one[0][0].name))
    for (node, condition), asks in nearest[:_POLICIES_TRIED]:
        policy = widened(node.description.policy, asks)
        changed = table.copy()
        described = msgspec.structs.replace(node.description, policy=policy)
        changed.set_node(msgspec.structs.replace(node, description=described), condition)
        text = f"allow it on node {node.name}: write `{lines_of(asks)}` into the file of its podium agent --policy"
        yield Proposal(fix=Fix(text=text), table=changed, request=request)


def _lowered_reservation(table: NodeTable, request: Request) -> Iterator[Proposal]:
    """One resource lowered as little as need be; both only when neither alone helps."""
    single = [proposal for name in RESOURCES for proposal in _lowered(table, request, (name,))]
    yield from single or _lowered(table, request, RESOURCES)


def _lowered(table: NodeTable, request: Request, names: tuple[str, ...]) -> Iterator[Proposal]:
    before = request.spec.task.reservations
    if not all(getattr(before, name) for name in names):
        return
    after = msgspec.structs.replace(before, **dict.fromkeys(names, 0))
    for name in names:
        after = msgspec.structs.replace(after, **{name: _highest(table, request, after, name)})
    if all(getattr(after, name) for name in names):
        text = " and ".join(_lowering(name, getattr(before, name), getattr(after, name)) for name in names)
        changed = _with_task(request, msgspec.structs.replace(request.spec.task, reservations=after))
        yield Proposal(fix=Fix(text=text), table=table, request=changed)


def _highest(table: NodeTable, request: Request, others: Resources, name: str) -> int:
    """The highest amount of one resource below today's, in whole steps, with which all tasks fit; 0 for none."""
    step = _STEPS[name]

    def fits(steps: int) -> bool:
        reservations = msgspec.structs.replace(others, **{name: steps * step})
        trial = _with_task(request, msgspec.structs.replace(request.spec.task, reservations=reservations))
        return _capacity(table, trial) >= len(request.task_ids)

    now: int = getattr(request.spec.task.reservations, name)
    highest: int = step * _last_true(fits, (now - 1) // step)
    return highest


def _lowering(name: str, before: int, after: int) -> str:
    return f"reserve {amount(name, after)} instead of {amount(name, before)} (deploy.resources.reservations)"


def _raised_maximum(table: NodeTable, request: Request) -> Iterator[Proposal]:
    placement = request.spec.task.placement
    limit = placement.max_replicas_per_node
    if not limit:
        return

    def raised(by: int) -> Request:
        return _with_placement(request, msgspec.structs.replace(placement, max_replicas_per_node=limit + by))

    most = len(request.task_ids)
    refused = _last_true(lambda by: _capacity(table, raised(by)) < most, most)
    if refused < most:
        text = f"raise max_replicas_per_node from {limit} to {limit + refused + 1}"
        yield Proposal(fix=Fix(text=text), table=table, request=raised(refused + 1))


def _relaxed_constraint(table: NodeTable, request: Request) -> Iterator[Proposal]:
    placement = request.spec.task.placement
    for dropped in placement.constraints:
        kept = tuple(constraint for constraint in placement.constraints if constraint != dropped)
        changed = _with_placement(request, msgspec.structs.replace(placement, constraints=kept))
        yield Proposal(fix=Fix(text=f"drop the constraint {dropped}"), table=table, request=changed)


def _relaxed_affinity(table: NodeTable, request: Request) -> Iterator[Proposal]:
    placement = request.spec.task.placement
    for dropped in placement.affinities:
        if dropped.required:
            kept = tuple(affinity for affinity in placement.affinities if affinity != dropped)
            changed = _with_placement(request, msgspec.structs.replace(placement, affinities=kept))
            what = "anti_affinity" if dropped.apart else "affinity"
            text = f"drop the {what} that tasks must be {dropped}, or make it a wish (required: false)"
            yield Proposal(fix=Fix(text=text), table=table, request=changed)


def _any_model(table: NodeTable, request: Request) -> Iterator[Proposal]:
    for part in request.spec.task.devices:
        if part.models:
            relaxed = tuple(
                msgspec.structs.replace(other, models=()) if other is part else other
                for other in request.spec.task.devices
            )
            changed = _with_task(request, msgspec.structs.replace(request.spec.task, devices=relaxed))
            text = f"accept any model of {part.kind}, not only {' or '.join(part.models)}"
            yield Proposal(fix=Fix(text=text), table=table, request=changed)


def _added_nodes(table: NodeTable, request: Request) -> Iterator[Proposal]:
    """Nodes that hold exactly the tasks, none larger than the largest there is when one task fits in that."""
    tasks = len(request.task_ids)
    count = math.ceil(tasks / min(tasks, _tasks_per_new_node(table, request)))
    if count > _NODES_ADDED:
        return
    need, each = request.spec.task.reservations, math.ceil(tasks / count)
    capacity = Resources(cpu_millis=need.cpu_millis * each, memory_bytes=need.memory_bytes * each)
    devices = tuple(_new_device_count(part, each) for part in request.spec.task.devices)
    changed = table.copy()
    for number in range(count):
        changed.set_node(*_new_node(f"+{number}", capacity, devices, request))
    fix = Fix(
        text=_adding(count, capacity, devices, request),
        command=_agent_command(capacity, devices, request) if count == 1 else "",
    )
    yield Proposal(fix=fix, table=changed, request=request)


def _new_device_count(part: DeviceRequest, tasks: int) -> tuple[DeviceRequest, int]:
    """Units that hold so many tasks: shares do not straddle units."""
    if part.share_millis < WHOLE_MILLIS:
        return part, math.ceil(tasks / (WHOLE_MILLIS // part.share_millis))
    return part, tasks * part.count


def _tasks_per_new_node(table: NodeTable, request: Request) -> int:
    need = request.spec.task.reservations
    largest = table.capacity[:, table.known].max(axis=1, initial=0).tolist()
    sizes = [have // each for have, each in zip(largest, (need.cpu_millis, need.memory_bytes), strict=True) if each]
    limit = request.spec.task.placement.max_replicas_per_node
    bounds: list[int] = [*sizes, *([limit] if limit else []), len(request.task_ids)]
    return max(1, min(bounds))


def _new_node(
    node_id: str, capacity: Resources, devices: Sequence[tuple[DeviceRequest, int]], request: Request
) -> tuple[Node, NodeCondition]:
    """A ready, empty node of this size that meets the constraints as far as a new node can."""
    wanted = _wanted_values(request)
    runtimes = (RuntimeStatus(name=_runtime(request)),)
    description = NodeDescription(
        id=node_id,
        name=wanted.get("node.name", node_id),
        address="",
        labels=_under(wanted, "node.labels."),
        attributes=_under(wanted, "node.platform.") | _under(wanted, "node.attributes."),
        capacity=capacity,
        runtimes=runtimes,
        devices=tuple(
            Device(kind=part.kind, id=str(unit), model=part.models[0] if part.models else "")
            for part, units in devices
            for unit in range(units)
        ),
    )
    condition = NodeCondition(node_id=node_id, status=NodeStatus.READY, runtimes=runtimes)
    return Node(id=node_id, description=description), condition


def _agent_command(capacity: Resources, devices: Sequence[tuple[DeviceRequest, int]], request: Request) -> str:
    """How the new machine's agent is started; empty where a constraint asks for what no option gives."""
    wanted = _wanted_values(request)
    labels = _under(wanted, "node.labels.")
    if len(wanted) > len(labels) + ("node.name" in wanted):
        return ""
    parts = ["podium agent --controller HOST:PORT"]
    if "node.name" in wanted:
        parts.append(f"--name {shlex.quote(wanted['node.name'])}")
    if capacity.cpu_millis:
        parts.append(f"--cpus {capacity.cpu_millis / 1000:g}")
    if capacity.memory_bytes:
        parts.append(f"--memory {math.ceil(capacity.memory_bytes / _STEPS['memory_bytes'])}M")
    if labels:
        parts.append(f"--labels {shlex.quote(','.join(f'{key}={value}' for key, value in labels.items()))}")
    for part, units in devices:
        model = f"model={part.models[0]}," if part.models else ""
        parts.append(f"--device {shlex.quote(f'{part.kind}:{model}count={units}')}")
    return " ".join(parts)


def _adding(count: int, capacity: Resources, devices: Sequence[tuple[DeviceRequest, int]], request: Request) -> str:
    sizes = [amount(name, value) for name in RESOURCES if (value := getattr(capacity, name))]
    sizes += [f"{units} {part.kind} {' or '.join(part.models)}".rstrip() for part, units in devices]
    features = [f"{attribute} {value}" for attribute, value in _wanted_values(request).items()]
    what = "a node" if count == 1 else f"{count} nodes, each"
    return f"add {what} with {', '.join([*sizes, f'the {_runtime(request)} runtime', *features])}"


def _wanted_values(request: Request) -> dict[str, str]:
    """Values with which a node would meet the constraints, by attribute, as far as they name any."""
    return {
        ALIASES.get(constraint.attribute, constraint.attribute): value
        for constraint in request.spec.task.placement.constraints
        if (value := constraint.values[0] if constraint.operator.lists else constraint.value)
        and constraint.operator in _NAMING
    }


def _under(values: dict[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _runtime(request: Request) -> str:
    return (IMAGE_RUNTIMES if request.spec.task.container.image else PROCESS_RUNTIMES)[0]


def _capacity(table: NodeTable, request: Request) -> int:
    """How many tasks of the request fit, at most as many as it has."""
    rows = np.flatnonzero(feasible(table, request))
    return int(np.minimum(room(table, request, rows), len(request.task_ids)).sum())


def _last_true(holds: Callable[[int], bool], limit: int) -> int:
    """The greatest number from 1 to `limit` for which `holds`, where it holds up to some number only; 0 for none."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _with_task(request: Request, task: TaskSpec) -> Request:
    return msgspec.structs.replace(request, spec=msgspec.structs.replace(request.spec, task=task))


def _with_placement(request: Request, placement: Placement) -> Request:
    return _with_task(request, msgspec.structs.replace(request.spec.task, placement=placement))
