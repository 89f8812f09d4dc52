"""What `plan` says, on a state of which we know what `up` would do."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from common.model.api import ApplyRequest, Plan, PlannedPlacement
from common.model.job import JobMode, JobSpec
from common.model.node import NodeStatus
from common.model.resources import Resources
from common.model.task import TaskState
from controller.core.apply import apply_specs
from controller.core.imagine import Imagination
from controller.core.placing import Placing
from controller.core.plan import TablePlacer, plan
from controller.core.slots import Conditions
from controller.core.turns import at_once
from controller.scheduler.node_table import NodeTable
from controller.state import State
from tests import builders
from tests.world import web, with_task

NODES = [builders.node(name, cpu=4) for name in ("n1", "n2", "n3")]
CONDITIONS = {node.id: builders.condition(node, NodeStatus.READY) for node in NODES}


@pytest.fixture
def running() -> State:
    """The three replicas of web:1 run, one per node."""
    return after_up(State.of(NODES), web())


def after_up(state: State, *specs: JobSpec, placer: TablePlacer | None = None) -> State:
    applied, rng = state.fork(), random.Random(1 + len(state.tasks))
    request = ApplyRequest(namespace="shop", specs=specs)
    for group in apply_specs(state, request, 900.0, rng).groups:
        for change in group:
            applied.apply(change)
    books = placer or TablePlacer(table_of(applied))
    imagined = Imagination(applied, CONDITIONS, 900.0, rng, books)
    imagined.run(list(applied.jobs))
    return imagined.state


def table_of(state: State) -> NodeTable:
    table = NodeTable()
    for node in state.nodes.values():
        table.set_node(node, CONDITIONS[node.id])
    for task in state.tasks.values():
        table.follow_task(None, task, state.spec_of_task(task).task)
    return table


def planned(state: State, *specs: JobSpec, remove_orphans: bool = False) -> Plan:
    request = ApplyRequest(namespace="shop", specs=specs, remove_orphans=remove_orphans)
    return at_once(plan(state, CONDITIONS, table_of(state), request, 1_000.0, random.Random(2)))


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


def test_what_comes_free_goes_to_what_waits_before_it_goes_to_what_is_created_in_answer() -> None:
    """Slot 2 waits for the port while slot 1 stops; slot 1 gets its successor only when that has been seen."""

    before = web(replicas=1, task=builders.task_spec(image="app:1", host_ports=[8080]))
    after = web(replicas=2, task=builders.task_spec(image="app:2", host_ports=[8080]))
    found = planned(after_up(State.of(NODES[:1]), before), after)
    assert found.placements == (PlannedPlacement(job="shop/web", slot=2, node="n1"),)


class WatchedPlacer(TablePlacer):
    """Keeps, for each pass, the names and versions asked for, and those that run by then."""

    def __init__(self, table: NodeTable) -> None:
        super().__init__(table)
        self.passes: list[tuple[set[tuple[str, int]], set[tuple[str, int]]]] = []

    def place(self, state: State, task_ids: Sequence[str], conditions: Conditions, now_s: float) -> Placing:
        asked = {(state.tasks[id_].job_name, state.tasks[id_].version) for id_ in task_ids}
        up = {(t.job_name, t.version) for t in state.tasks.values() if t.status.state is TaskState.RUNNING}
        self.passes.append((asked, up))
        return super().place(state, task_ids, conditions, now_s)


def test_the_controller_answers_its_own_changes_before_any_agent_acts() -> None:
    """A version of which nothing ran is cleared away first, then the next one is created: no agent acts in between."""

    def api(cpu_millis: int) -> JobSpec:
        spec = msgspec.structs.replace(web(), name="api")
        return with_task(spec, reservations=Resources(cpu_millis=cpu_millis))

    state = after_up(State.of(NODES), web(), api(9_000))
    placer = WatchedPlacer(table_of(state))
    after_up(state, web(image="app:2"), api(100), placer=placer)
    up = next(up for asked, up in placer.passes if ("shop/api", 2) in asked)
    assert ("shop/web", 2) not in up
