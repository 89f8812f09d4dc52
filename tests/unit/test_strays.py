"""Tasks that a restored state does not know: kept, named, and stopped only when somebody says so."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.core import assignment_diff
from common.model.epoch import Epoch
from common.model.job import Container, DesiredState, TaskSpec
from common.model.node import Node, Stray
from common.model.session import Assignment, Assignments, Register
from common.model.task import TaskReport, TaskState, TaskStatus
from controller.core.events import events_of
from controller.core.strays import strays_of, without
from controller.dispatcher.assignments import AssignmentSet
from controller.dispatcher.registration import registration_changes
from controller.state import Applied, State, Write
from tests import builders

NOW_S = 1_000.0


def report(
    task_id: str, state: TaskState = TaskState.RUNNING, *, job: str = "shop/web", exclusive: bool = False
) -> TaskReport:
    status = TaskStatus(attempt=1, state=state, sequence=3, runtime_id=f"pid-{task_id}")
    return TaskReport(task_id=task_id, status=status, job=job, slot=2, exclusive=exclusive)


def stray(task_id: str, found_at_s: float = NOW_S) -> Stray:
    return Stray(task_id=task_id, job="shop/web", slot=2, runtime_id=f"pid-{task_id}", found_at_s=found_at_s)


def found(state: State, *reports: TaskReport, node: Node | None = None, older: bool = True) -> tuple[Stray, ...]:
    return strays_of(state, node, reports, older_generation=older, now_s=NOW_S)


def test_what_an_agent_of_an_older_generation_runs_and_nobody_knows_is_a_stray() -> None:
    assert found(State(), report("t1"), report("t2", TaskState.RESTARTING)) == (stray("t1"), stray("t2"))


def test_an_agent_that_has_heard_of_the_restore_has_no_new_strays() -> None:
    assert found(State(), report("t1"), older=False) == ()


def test_a_task_the_state_knows_is_none_whatever_is_wanted_of_it() -> None:
    job, version = builders.job()
    task = builders.task(job, node_id="id-n1")
    state = State.of([job, version, replace(task, desired=DesiredState.STOP)])
    assert found(state, report(task.id)) == ()


@pytest.mark.parametrize("state", [TaskState.COMPLETE, TaskState.FAILED, TaskState.STOPPED, TaskState.REJECTED])
def test_what_has_ended_is_none(state: TaskState) -> None:
    assert found(State(), report("t1", state)) == ()


def test_strays_stay_until_the_agent_has_them_no_more() -> None:
    node = replace(builders.node(), strays=(stray("t1", 1.0), stray("t2", 1.0)))
    assert found(State(), report("t2"), report("t3"), node=node, older=False) == (stray("t2", 1.0),)
    assert found(State(), report("t2"), report("t3"), node=node, older=True) == (stray("t2", 1.0), stray("t3"))


def test_an_exclusive_task_is_kept_only_where_its_job_cannot_start_another() -> None:
    assert found(State(), report("t1", exclusive=True)) == (stray("t1"),)
    job, version = builders.job(builders.job_spec("shop/web"))
    assert found(State.of([job, version]), report("t1", exclusive=True)) == ()


def register(node: Node, *inventory: TaskReport, generation: int) -> Register:
    return Register(node=node.description, inventory=inventory, highest_epoch=Epoch(generation=generation, term=9))


def registered(state: State, *inventory: TaskReport, generation: int) -> State:
    after = state.fork()
    for group in registration_changes(state, register(builders.node(), *inventory, generation=generation), NOW_S):
        for change in group:
            after.apply(change)
    return after


def test_strays_are_written_with_the_node_before_it_learns_of_the_generation() -> None:
    state = State()
    state.generation = 1
    first = registered(state, report("t1"), generation=0)
    assert first.nodes["id-n1"].strays == (stray("t1"),)
    again = registered(first, report("t1"), report("t2"), generation=1)  # the agent has started again since
    assert again.nodes["id-n1"].strays == (stray("t1"),)
    assert registered(again, generation=1).nodes["id-n1"].strays == ()


def test_without_a_restore_there_are_none() -> None:
    assert registered(State(), report("t1"), generation=0).nodes["id-n1"].strays == ()


def assignment(task_id: str) -> Assignment:
    spec = TaskSpec(container=Container(image="app:1"))
    return Assignment(
        task_id=task_id, namespace="shop", job="web", slot=1, version=1, desired=DesiredState.RUN, task=spec
    )


def test_a_complete_set_leaves_strays_alone_and_removes_them_when_they_are_none_any_more() -> None:
    node = replace(builders.node(), strays=(stray("t1"), stray("t2")))
    state = State.of([node])
    orders = AssignmentSet(state, node.id, lambda _task_id: False)
    known = {"t1": assignment("t1"), "t2": assignment("t2"), "leftover": assignment("leftover")}
    complete = orders.complete()
    assert complete.kept == ("t1", "t2")
    assert assignment_diff.decide(known, complete) == (assignment_diff.Forget("leftover"),)

    state.apply(Write(replace(node, strays=without(node, {"t1"}))))
    (change,) = orders.changed(["t1", "t2"], limit=10)
    assert change.removed == ("t1",)
    assert assignment_diff.decide(known, change) == (assignment_diff.Forget("t1"),)
    assert orders.changed(["t1", "t2"], limit=10) == ()


def test_a_set_without_the_word_forgets_what_it_does_not_name() -> None:
    orders = Assignments(complete=True, sequence=1)
    assert assignment_diff.decide({"t1": assignment("t1")}, orders) == (assignment_diff.Forget("t1"),)


def test_people_are_told() -> None:
    node = builders.node()
    kept = replace(node, strays=tuple(stray(f"t{number}") for number in range(7)))
    told = events_of(Applied(before=node, after=kept), State.of([kept]))
    assert told is not None
    assert told.kind == "node.strays"
    assert "shop/web.2, " in told.message
    assert "and 2 more; they are kept running" in told.message
    assert "podium store strays" in told.message
    gone = events_of(Applied(before=kept, after=replace(kept, strays=kept.strays[:3])), State.of([node]))
    assert gone is not None
    assert "4 of its strays are gone or to stop, 3 are kept" in gone.message
