"""What would be if: the answer on states of which we know it."""

from __future__ import annotations

import random

import msgspec
import pytest

from common.errors import NotFound
from common.model.api import AddedNodes, ApplyRequest, Plan, ScaleTarget, WhatIfRequest
from common.model.job import JobSpec
from common.model.node import Node
from common.model.resources import Resources
from controller.core.apply import apply_specs
from controller.core.imagine import Imagination
from controller.core.plan import TablePlacer
from controller.core.turns import at_once
from controller.core.what_if import what_if
from controller.scheduler.node_table import NodeTable, build_table
from controller.state import State
from tests import builders
from tests.builders import GIB
from tests.world import web, with_task

NODES = [builders.node(name, cpu=4) for name in ("n1", "n2", "n3")]
CONDITIONS = {node.id: builders.condition(node) for node in NODES}
NEED = Resources(cpu_millis=1_000)


def table_of(state: State) -> NodeTable:
    nodes = ((node, CONDITIONS[node.id]) for node in NODES)
    return build_table(nodes, ((task, state.spec_of_task(task).task) for task in state.tasks.values()))


def running(*specs: JobSpec, nodes: list[Node] = NODES) -> State:
    """Every task of these jobs runs well, as far as it fits."""
    state = State.of(nodes)
    applying = apply_specs(state, ApplyRequest(namespace="shop", specs=specs), 900.0, random.Random(1))
    imagined = Imagination(state, CONDITIONS, 900.0, random.Random(1), TablePlacer(table_of(state)))
    imagined.take(applying.groups)
    imagined.run(list(imagined.state.jobs))
    return imagined.state


def asked(state: State, *, kill: tuple[str, ...] = (), **what: object) -> Plan:
    killed = [node for node in state.nodes.values() if node.name in kill]
    request = msgspec.structs.replace(WhatIfRequest(namespace="shop", kill=kill), **what)
    return at_once(what_if(state, CONDITIONS, table_of(state), request, killed, 1_000.0, random.Random(2)))


def test_the_tasks_of_a_node_that_is_killed_start_elsewhere() -> None:
    state = running(with_task(web(), reservations=NEED))
    found = asked(state, kill=("n1",))
    assert [(step.action, step.subject) for step in found.steps[:1]] == [("kill", "node n1")]
    assert found.steps[0].text == "is lost, with 1 task on it"
    assert (found.before, sum(found.after.values()), found.after["n1"]) == ({"n1": 1, "n2": 1, "n3": 1}, 3, 0)
    (placement,) = found.placements
    assert placement.node in ("n2", "n3")
    assert found.unplaced == ()


def test_what_would_have_no_place_is_said_with_the_reason() -> None:
    state = running(with_task(web(replicas=6), reservations=Resources(cpu_millis=2_000)))
    found = asked(state, kill=("n2",))
    (unplaced,) = found.unplaced
    assert (unplaced.job, len(unplaced.slots)) == ("shop/web", 2)
    assert "cores" in unplaced.verdict.verdict


def test_what_waits_today_would_run_on_nodes_that_are_added() -> None:
    state = running(with_task(web(replicas=8), reservations=Resources(cpu_millis=2_000)))
    added = AddedNodes(count=2, capacity=Resources(cpu_millis=2_000, memory_bytes=GIB))
    found = asked(state, add=(added,))
    assert found.steps[0].text == "with 2 cores and 1 GiB of memory each"
    assert {placement.node for placement in found.placements} == {"new-1", "new-2"}
    assert found.unplaced == ()
    assert (found.after["new-1"], found.after["new-2"]) == (1, 1)


def test_that_a_rebalancing_would_follow_is_said() -> None:
    state = running(with_task(web(replicas=6), reservations=NEED))
    found = asked(state, add=(AddedNodes(capacity=Resources(cpu_millis=4_000, memory_bytes=GIB)),))
    assert found.notes == ("`podium rebalance` would then move 1 task",)


def test_scaling_and_a_file_come_after_the_nodes() -> None:
    state = running(with_task(web(), reservations=NEED))
    other = msgspec.structs.replace(web(), name="api", replicas=1)
    found = asked(
        state,
        kill=("n3",),
        scale=(ScaleTarget(job="web", replicas=4),),
        apply=ApplyRequest(namespace="shop", specs=(other,)),
    )
    assert [step.action for step in found.steps[:3]] == ["kill", "scale", "create"]
    assert sum(found.after.values()) == 5


def test_asking_changes_nothing() -> None:
    state = running(web())
    before = list(state.records())
    asked(state, kill=("n1",), add=(AddedNodes(capacity=NEED),), scale=(ScaleTarget(job="web", replicas=9),))
    assert list(state.records()) == before


def test_a_job_that_there_is_not_is_refused() -> None:
    with pytest.raises(NotFound):
        asked(running(web()), scale=(ScaleTarget(job="wbe", replicas=1),))
