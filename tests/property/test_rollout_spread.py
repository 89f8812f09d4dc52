"""A rollout leaves a job as evenly spread as placing it anew would: what is about to leave counts for less."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.api import ApplyRequest
from common.model.job import JobSpec, Placement, UpdateOrder, UpdatePolicy
from common.model.node import NodeCondition, NodeStatus
from common.model.resources import Resources
from controller.core.apply import apply_specs
from controller.core.imagine import Imagination
from controller.core.plan import TablePlacer
from controller.scheduler.node_table import NodeTable
from controller.state import State
from tests import builders
from tests.world import web, with_task

RACK = "node.labels.rack"


def rolled_out(state: State, rng: random.Random, *specs: JobSpec) -> State:
    """What comes of applying these, by the production decisions, once everything is at rest."""
    applied = state.fork()
    for group in apply_specs(applied, ApplyRequest(namespace="shop", specs=specs), 900.0, rng).groups:
        for change in group:
            applied.apply(change)
    conditions = {name: NodeCondition(node_id=name, status=NodeStatus.READY) for name in state.nodes}
    table = NodeTable()
    for node in state.nodes.values():
        table.set_node(node, conditions[node.id])
    for task in state.tasks.values():
        table.follow_task(None, task, state.spec_of_task(task).task)
    imagined = Imagination(applied, conditions, 900.0, rng, TablePlacer(table))
    imagined.run(list(applied.jobs))
    return imagined.state


def per_node(state: State, job: str = "web") -> dict[str, int]:
    live = [task for task in state.tasks.values() if not task.ended and task.job == job]
    assert {task.version for task in live} == {state.job_named("shop", job).version}  # type: ignore[union-attr]
    counts = Counter(task.node_id for task in live)
    return {node_id: counts[node_id] for node_id in state.nodes}


def uneven(counts: dict[str, int]) -> int:
    return max(counts.values()) - min(counts.values())


def cluster(nodes: int, uses: list[int], rng: random.Random) -> State:
    """Nodes that are loaded differently, so that load, where it decides, prefers some of them."""
    labelled = [builders.node(f"n{number}", cpu=16, labels={"rack": "ab"[number % 2]}) for number in range(nodes)]
    others = [
        with_task(web(replicas=1, name=f"other-{number}"), reservations=Resources(cpu_millis=cpu * 100))
        for number, cpu in enumerate(uses)
    ]
    return rolled_out(State.of(labelled), rng, *others)


def test_three_replicas_on_three_nodes_are_one_on_each_after_every_rollout() -> None:
    for parallelism in (0, 1, 2, 3):
        for order in UpdateOrder:
            rng = random.Random(1)
            state = cluster(3, [20, 5], rng)
            for number in range(4):
                update = UpdatePolicy(parallelism=parallelism, order=order, monitor_s=1.0)
                spec = web(image=f"web:{number}", replicas=3)
                state = rolled_out(state, rng, msgspec.structs.replace(spec, update=update))
                assert per_node(state) == {"id-n0": 1, "id-n1": 1, "id-n2": 1}, (parallelism, order, number)


@settings(max_examples=40, deadline=None)
@given(
    nodes=st.integers(2, 5),
    replicas=st.integers(1, 8),
    parallelism=st.integers(0, 4),
    order=st.sampled_from(UpdateOrder),
    uses=st.lists(st.integers(0, 30), max_size=4),
    racks=st.booleans(),
)
def test_a_rollout_ends_as_even_as_it_began(
    nodes: int, replicas: int, parallelism: int, order: UpdateOrder, uses: list[int], racks: bool
) -> None:
    rng = random.Random(1)
    state = cluster(nodes, uses, rng)
    placement = Placement(spread=(RACK,)) if racks else Placement()
    for number in range(2):
        spec = with_task(web(image=f"web:{number}", replicas=replicas), placement=placement)
        update = UpdatePolicy(parallelism=parallelism, order=order, monitor_s=1.0)
        state = rolled_out(state, rng, msgspec.structs.replace(spec, update=update))
        counts = per_node(state)
        if racks:
            halves = Counter({"a": 0, "b": 0})
            for node_id, count in counts.items():
                halves[state.nodes[node_id].description.labels["rack"]] += count
            assert uneven(dict(halves)) <= 1, counts
            sides = [
                {k: v for k, v in counts.items() if state.nodes[k].description.labels["rack"] == rack} for rack in "ab"
            ]
            assert all(uneven(side) <= 1 for side in sides), counts
        else:
            assert uneven(counts) <= 1, counts
