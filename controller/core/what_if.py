"""What would become of the cluster if nodes were lost or added, jobs scaled, a file applied: imagined, never done.

The production decisions run on a copy of the state, as for a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from common.model.api import AddedNodes, JobChange, Plan, PlanStep, ScaleRequest, WhatIfRequest
from common.model.ids import Rng
from common.model.node import Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.units import cores_and_memory
from controller.core.apply import apply_specs, scale
from controller.core.attention import Attention
from controller.core.balance import looking
from controller.core.imagine import Imagination
from controller.core.pending import pending
from controller.core.plan import TablePlacer, change_steps, outcome
from controller.core.slots import Conditions
from controller.core.turns import Turns
from controller.scheduler.node_table import NodeTable
from controller.state import State

_FOR_EVER_S = 1e9
"""Silence after which also exclusive tasks are replaced."""


def what_if(
    state: State,
    conditions: Conditions,
    table: NodeTable,
    request: WhatIfRequest,
    killed: Sequence[Node],
    now_s: float,
    rng: Rng,
    attention: Attention | None = None,
) -> Turns[Plan]:
    """The steps and the end of it. `killed` are the nodes that `request.kill` names. Raises what applying would.

    As `plan` for the rest.
    """
    before, placer = state.fork(), TablePlacer(table)
    added = list(_new_nodes(before, request.add))
    imagined = Imagination(before, conditions, now_s, rng, placer, attention=attention)
    differ = {**_gone(killed), **_there(added)}
    for node in (*killed, *added):
        imagined.set_node(node)
        imagined.condition_changed(conditions.get(node.id), differ[node.id])
        placer.set_node(node, differ[node.id])
    conditions = {**conditions, **differ}
    changes = _apply(imagined, request, now_s, rng)
    rounds = yield from imagined.turns(_concerned(imagined.state, killed, bool(killed or added), changes))
    first = [*_killing(before, killed), *_adding(request.add), *change_steps(changes)]
    notes = (yield from _balance_note(imagined, conditions, placer)) if added else ()
    return (yield from outcome(before, imagined.state, rounds, placer, first=first, changes=changes, notes=notes))


def _apply(imagined: Imagination, request: WhatIfRequest, now_s: float, rng: Rng) -> tuple[JobChange, ...]:
    changes: list[JobChange] = []
    if request.scale:
        scaling = scale(imagined.state, ScaleRequest(namespace=request.namespace, targets=request.scale), now_s)
        imagined.take(scaling.groups)
        changes += scaling.changes
    if request.apply is not None:
        applying = apply_specs(imagined.state, request.apply, now_s, rng)
        imagined.take(applying.groups)
        changes += applying.changes
    return tuple(changes)


def _concerned(
    state: State, killed: Iterable[Node], nodes_differ: bool, changes: Iterable[JobChange]
) -> dict[str, None]:
    """Jobs that it may concern: also those that wait for a node today, and those that run on every one."""
    ids = [task.job_id for node in killed for task in state.tasks_of_node(node.id).values()]
    ids += [task.job_id for task in state.tasks.values() if pending(task)]
    named = {change.job for change in changes}
    for job in sorted(state.jobs.values(), key=lambda job: job.full_name):
        if job.full_name in named or (nodes_differ and state.spec_of(job).mode.per_node):
            ids.append(job.id)
    return dict.fromkeys(ids)


# --- nodes


def _gone(killed: Iterable[Node]) -> dict[str, NodeCondition]:
    return {node.id: NodeCondition(node_id=node.id, status=NodeStatus.DOWN, silent_s=_FOR_EVER_S) for node in killed}


def _there(added: Iterable[Node]) -> dict[str, NodeCondition]:
    return {
        node.id: NodeCondition(node_id=node.id, status=NodeStatus.READY, runtimes=node.description.runtimes)
        for node in added
    }


def _new_nodes(state: State, kinds: Iterable[AddedNodes]) -> Iterable[Node]:
    """Empty nodes that are like those there are in all that those have in common."""
    names = (name for number in range(1, 1_000_000) if (name := f"new-{number}") not in _names(state))
    runtimes = sorted({runtime.name for node in state.nodes.values() for runtime in node.description.runtimes})
    attributes = _in_common([node.description.attributes for node in state.nodes.values()])
    for kind in kinds:
        for _, name in zip(range(kind.count), names, strict=False):
            description = NodeDescription(
                id=name,
                name=name,
                address="",
                attributes=attributes,
                capacity=kind.capacity,
                runtimes=tuple(RuntimeStatus(name=runtime) for runtime in runtimes or ("docker", "process")),
            )
            yield Node(id=name, description=description)


def _names(state: State) -> set[str]:
    return {node.name for node in state.nodes.values()}


def _in_common(attributes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    if not attributes:
        return {}
    first, *others = attributes
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


# --- words


def _killing(state: State, killed: Iterable[Node]) -> Iterable[PlanStep]:
    for node in killed:
        tasks = sum(not task.ended and not task.lost_at_s for task in state.tasks_of_node(node.id).values())
        what = "1 task" if tasks == 1 else f"{tasks} tasks"
        yield PlanStep(action="kill", subject=f"node {node.name}", text=f"is lost, with {what} on it")


def _adding(kinds: Iterable[AddedNodes]) -> Iterable[PlanStep]:
    for kind in kinds:
        capacity = cores_and_memory(kind.capacity.cpu_millis, kind.capacity.memory_bytes)
        subject = "node" if kind.count == 1 else f"{kind.count} nodes"
        yield PlanStep(action="add", subject=subject, text=f"with {capacity}" + ("" if kind.count == 1 else " each"))


def _balance_note(imagined: Imagination, conditions: Conditions, placer: TablePlacer) -> Turns[tuple[str, ...]]:
    found = yield from looking(imagined.state, conditions, placer.table, imagined.now_s)
    if not found.moves:
        return ()
    what = "1 task" if len(found.moves) == 1 else f"{len(found.moves)} tasks"
    return (f"`podium rebalance` would then move {what}",)
