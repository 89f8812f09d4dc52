"""What `plan` says, on a state of which we know what `up` would do."""

from __future__ import annotations

import random

import msgspec
import pytest

from common.model.api import ApplyRequest, Plan
from common.model.job import JobMode, JobSpec
from common.model.node import NodeStatus
from common.model.resources import Resources
from controller.core.apply import apply_specs
from controller.core.imagine import Imagination
from controller.core.plan import TablePlacer, plan
from controller.scheduler.node_table import NodeTable
from controller.state import State
from tests import builders
from tests.world import web, with_task

NODES = [builders.node(name, cpu=4) for name in ("n1", "n2", "n3")]
CONDITIONS = {node.id: builders.condition(node, NodeStatus.READY) for node in NODES}


@pytest.fixture
def running() -> State:
    """The three replicas of web:1 run, one per node."""
    state = State.of(NODES)
    placer = TablePlacer(table_of(state))
    applying = apply_specs(state, ApplyRequest(namespace="shop", specs=(web(),)), 900.0, random.Random(1))
    for group in applying.groups:
        for change in group:
            state.apply(change)
    imagined = Imagination(state, CONDITIONS, 900.0, random.Random(1), placer)
    imagined.run(list(state.jobs))
    return imagined.state


def table_of(state: State) -> NodeTable:
    table = NodeTable()
    for node in NODES:
        table.set_node(node, CONDITIONS[node.id])
    for task in state.tasks.values():
        table.follow_task(None, task, state.spec_of_task(task).task)
    return table


def planned(state: State, *specs: JobSpec, remove_orphans: bool = False) -> Plan:
    request = ApplyRequest(namespace="shop", specs=specs, remove_orphans=remove_orphans)
    return plan(state, CONDITIONS, table_of(state), request, 1_000.0, random.Random(2))


def steps(found: Plan) -> list[tuple[str, str]]:
    return [(step.action, step.subject) for step in found.steps]


def test_a_new_job_is_started_and_spread() -> None:
    found = planned(State.of(NODES), web())
    assert steps(found)[0] == ("create", "shop/web")
    assert steps(found)[1:4] == [("start", f"shop/web.{slot}") for slot in (1, 2, 3)]
    assert {placement.node for placement in found.placements} == {"n1", "n2", "n3"}
    assert found.before == {"n1": 0, "n2": 0, "n3": 0}
    assert found.after == {"n1": 1, "n2": 1, "n3": 1}


def test_planning_changes_nothing() -> None:
    state = State.of(NODES)
    planned(state, web())
    assert list(state.records()) == list(NODES)


def test_what_fits_nowhere_is_named_with_its_verdict() -> None:
    found = planned(State.of(NODES), with_task(web(replicas=4), reservations=Resources(cpu_millis=3_000)))
    (unplaced,) = found.unplaced
    assert unplaced.slots == (4,)
    assert unplaced.verdict.subject == "shop/web"
    assert any(reason.resource == "cpu_millis" for reason in unplaced.verdict.reasons)


def test_a_changed_image_rolls_new_before_old_and_never_below_the_wanted_number(running: State) -> None:
    found = planned(running, web("web:2"))
    assert steps(found)[0] == ("update", "shop/web")
    assert "task.container.image: web:1 -> web:2" in found.steps[0].text
    moves = [action for action, _ in steps(found)[1:]]
    assert moves == ["rollout", "start", "stop", "start", "stop", "start", "stop", "done"]
    assert min(step.healthy_at_least for step in found.steps[1:]) == 3
    assert len(found.stops) == 3


def test_the_same_file_again_needs_no_step(running: State) -> None:
    found = planned(running, web())
    assert found.steps == ()
    assert [change.action for change in found.changes] == ["unchanged"]


def test_orphans_are_removed_only_when_asked(running: State) -> None:
    other = msgspec.structs.replace(web(), name="other", mode=JobMode.BATCH)
    assert ("remove", "shop/web") not in steps(planned(running, other))
    assert ("remove", "shop/web") in steps(planned(running, other, remove_orphans=True))
