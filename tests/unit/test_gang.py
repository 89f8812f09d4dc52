"""Gangs: all of one commit or none, and all of them together when one goes."""

from __future__ import annotations

import msgspec
import pytest

from common.errors import Invalid
from common.model.api import ApplyRequest, JobStatus, ScaleRequest, ScaleTarget
from common.model.job import BatchPolicy, DesiredState, JobMode, JobSpec, RestartCondition, RestartPolicy
from common.model.node import Availability, NodeStatus
from common.model.task import Task, TaskState
from common.model.verdict import Verdict
from common.validation import faults
from controller.api.why import Known, why_job
from controller.core.apply import scale
from controller.core.decisions import Create, Stop
from controller.core.gang import groups_of
from controller.core.pending import placed_at, requests_for
from controller.core.placing import place_pending
from controller.core.plan import plan
from controller.core.preemption import told
from controller.core.settings import GANG_PATIENCE_S, NOMINATION_S
from controller.core.turns import at_once
from controller.core.views import job_view
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.schedule import schedule
from controller.state import Write
from tests.builders import resources
from tests.world import NODES, World, web, with_task


def gang(replicas: int = 3, cpu: float = 1, **changes: object) -> JobSpec:
    return with_task(web(replicas=replicas, gang=True, **changes), reservations=resources(cpu=cpu))


def small(*specs: JobSpec, cpu: float = 2) -> World:
    """Three nodes of so many cores."""
    world = World()
    for name in NODES:
        node = world.state.nodes[name]
        description = msgspec.structs.replace(node.description, capacity=resources(cpu=cpu))
        world.state.apply(Write(msgspec.structs.replace(node, description=description)))
    world.up(*specs)
    return world


def table_of(world: World) -> NodeTable:
    pairs = ((one, world.conditions[one.id]) for one in world.state.nodes.values())
    return build_table(pairs, ((task, world.state.spec_of_task(task).task) for task in world.state.tasks.values()))


def running(*specs: JobSpec) -> World:
    world = World(*specs)
    world.settle()
    return world


def stopped(world: World) -> list[int]:
    return [task.slot for task in world.tasks() if task.desired is DesiredState.STOP]


def view_status(world: World) -> JobStatus:
    return job_view(world.state, world.job(), world.conditions, world.now_s).status


def let_stop(world: World) -> None:
    for task in world.tasks():
        if task.desired is DesiredState.STOP:
            world.see(task, TaskState.STOPPED)


# --- placing


def test_all_of_it_is_placed_and_committed_together() -> None:
    world = small(gang(6))
    world.decide()
    (request,) = requests_for(world.state, [world.tasks()[0].id])
    assert len(request.task_ids) == 6, "whoever asks for one asks for all"
    placements = schedule(table_of(world), (request,)).placements
    groups = groups_of(world.state, (placed_at(world.state.tasks[one.task_id], one) for one in placements))
    assert [len(group) for group in groups] == [6]


def test_none_of_it_is_placed_where_not_all_fits_and_the_room_is_left_to_others() -> None:
    world = small(gang(7), web(name="other", replicas=6))
    world.decide()
    world.decide("other")
    table = table_of(world)
    requests = requests_for(world.state, world.state.tasks)
    planned = schedule(table, sorted(requests, key=lambda request: not request.spec.gang))
    assert {world.state.tasks[one.task_id].job for one in planned.placements} == {"other"}
    (unplaced,) = planned.unplaced
    assert len(unplaced.task_ids) == 7
    assert unplaced.verdict.verdict.startswith("a gang of 7 places all its tasks or none, and 6 of them fit: 1 task of")
    assert table.load_of("n1").reserved.cpu_millis == 0


def test_while_a_member_is_missing_nothing_is_asked_for() -> None:
    world = small(gang(3))
    world.decide()
    world.state.apply(Write(msgspec.structs.replace(world.job(), replicas=4)))
    assert requests_for(world.state, world.state.tasks) == ()
    world.decide()
    assert [len(request.task_ids) for request in requests_for(world.state, world.state.tasks)] == [4]


def test_a_gang_larger_than_the_cluster_is_explained_beforehand_and_afterwards() -> None:
    world = small()
    request = ApplyRequest(namespace="shop", specs=(gang(8),))
    planned = at_once(plan(world.state, world.conditions, table_of(world), request, world.now_s, world.rng))
    (unplaced,) = planned.unplaced
    assert planned.placements == ()
    assert "a gang of 8 places all its tasks or none, and 6 of them fit" in unplaced.verdict.verdict
    world.up(gang(8))
    world.decide()
    known = Known(state=world.state, conditions=world.conditions, table=table_of(world), now_s=world.now_s)
    assert "a gang of 8 places all its tasks or none, and 6 of them fit" in why_job(known, world.job()).verdict


def test_it_displaces_nobody_and_says_so() -> None:
    world = small(with_task(web(name="other", replicas=6), reservations=resources(cpu=1)))
    world.decide("other")
    for place, task in enumerate(world.tasks("other")):
        world.assign(task, NODES[place % 3])
    world.up(gang(2, priority=90))
    world.decide()
    known = Known(state=world.state, conditions=world.conditions, table=table_of(world), now_s=world.now_s)
    texts = [reason.text for reason in why_job(known, world.job()).reasons]
    assert "it displaces nobody: room for a gang would come free task by task" in texts


# --- keeping room


def starving(replicas: int = 4) -> World:
    """Three nodes of two cores, full of small tasks that end one after the other, and a gang."""
    world = small(with_task(web(name="a", replicas=6, mode=JobMode.BATCH), reservations=resources(cpu=1)))
    world.decide("a")
    for place, task in enumerate(world.tasks("a")):
        world.assign(task, NODES[place % 3])
    world.up(gang(replicas))
    world.decide()
    return world


def one_ends_and_others_come(world: World, number: int) -> set[str]:
    """A small task ends while another job wants one, and all that wait are tried; the jobs that got a place."""
    held = [one for one in world.state.tasks.values() if one.job.startswith("a") and one.node_id and not one.ended]
    world.see(held[0], TaskState.COMPLETE)
    small_one = with_task(web(name=f"a{number}", replicas=1), reservations=resources(cpu=1))
    world.up(small_one)
    world.decide(f"a{number}")
    return tried(world)


def tried(world: World) -> set[str]:
    """All that wait are tried, as in production; the names of the jobs that got a place."""
    ids = list(world.state.tasks)
    placing = place_pending(world.state, table_of(world), ids, world.conditions, world.now_s)
    for placement in placing.plan.placements:
        world.state.apply(Write(placed_at(world.state.tasks[placement.task_id], placement)))
    for group in (*placing.withdrawn, *placing.keeping):
        for change in group:
            world.state.apply(change)
    return {world.state.tasks[one.task_id].job for one in placing.plan.placements}


def test_a_gang_that_waits_for_long_keeps_what_comes_free_until_it_is_enough() -> None:
    world = starving()
    assert one_ends_and_others_come(world, 1) == {"a1"}, "at first it waits like everybody else"
    world.now_s += GANG_PATIENCE_S
    placed = [one_ends_and_others_come(world, number) for number in range(2, 6)]
    assert placed == [set(), set(), set(), {"web"}]
    assert {task.job for task in world.state.tasks.values() if task.node_id and not task.ended} == {"a", "a1", "web"}


def test_it_keeps_room_for_half_of_the_time_only_and_not_from_those_of_higher_priority() -> None:
    world = starving()
    world.now_s += GANG_PATIENCE_S
    assert one_ends_and_others_come(world, 2) == set()
    world.up(with_task(web(name="b", replicas=1, priority=60), reservations=resources(cpu=1)))
    world.decide("b")
    assert tried(world) == {"b"}
    assert one_ends_and_others_come(world, 3) == set()
    world.now_s += NOMINATION_S
    assert tried(world) & {"a2", "a3"}
    assert not world.state.nominated


def test_one_that_is_larger_than_the_cluster_keeps_nothing() -> None:
    world = starving(replicas=7)
    world.now_s += GANG_PATIENCE_S
    assert one_ends_and_others_come(world, 2) == {"a2"}
    assert not world.state.nominated


def test_what_is_kept_is_told() -> None:
    world = starving()
    world.now_s += GANG_PATIENCE_S
    one_ends_and_others_come(world, 2)
    (task,) = world.state.nominated.values()
    verdict = told(world.state, task, None, Verdict(subject="shop/web", verdict="no room"))
    assert verdict.verdict == "what is free is kept for it since it waits for long, 1 of its tasks by now; no room"


# --- together


def test_when_a_member_fails_the_others_stop_and_all_start_again_when_they_have() -> None:
    world = running(gang())
    world.see(world.task(2), TaskState.FAILED, message="exit 1")
    decisions = world.decide()
    reasons = {decision.reason for decision in decisions if isinstance(decision, Stop)}
    assert reasons == {"the gang starts again as a whole, since web.2 has no task"}
    assert stopped(world) == [1, 3]
    assert world.decide() == ()
    let_stop(world)
    creates = [decision.slot for decision in world.decide() if isinstance(decision, Create)]
    assert creates == [1, 2, 3]


def test_a_gang_that_keeps_failing_waits_longer_each_time() -> None:
    world = running(gang())
    for _ in range(2):
        world.see(world.task(2), TaskState.FAILED, message="exit 1")
        world.decide()
        let_stop(world)
        world.decide()
        for task in world.tasks():
            world.assign(task, "n1")
    assert world.tasks() == []
    assert world.reconcile().wake_at_s == world.now_s + 1


def test_when_a_node_is_lost_the_rest_stops_and_what_comes_back_goes() -> None:
    world = running(gang())
    gone = world.task(1)
    world.node(gone.node_id, NodeStatus.DOWN)
    world.decide()
    world.decide()
    assert set(stopped(world)) == {2, 3}
    world.node(gone.node_id, NodeStatus.READY)
    world.decide()
    assert stopped(world) == [1, 2, 3]
    world.settle()
    assert len(world.tasks()) == 3


def test_a_drain_moves_all_of_it() -> None:
    world = running(gang())
    node = world.task(1).node_id
    world.availability(node, Availability.DRAINING)
    decisions = world.decide()
    assert {decision.reason for decision in decisions if isinstance(decision, Stop)} == {
        "the gang moves as a whole: the node of web.1 is being drained"
    }
    world.settle()
    assert len(world.tasks()) == 3
    assert node not in {task.node_id for task in world.tasks()}


def test_another_version_or_size_starts_when_all_of_the_old_is_gone() -> None:
    world = running(gang())
    world.up(with_task(gang(), container=msgspec.structs.replace(gang().task.container, image="web:2")))
    assert [type(decision) for decision in world.decide()] == [Stop] * 3
    world.settle()
    assert {task.version for task in world.tasks()} == {2}
    assert world.job().good_version == 2
    world.write(scale(world.state, ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=2),)), 1.0))
    world.decide()
    assert stopped(world) == [1, 2, 3]
    world.settle()
    assert [task.slot for task in world.tasks()] == [1, 2]


def test_one_that_ends_is_through_as_a_whole() -> None:
    ending = with_task(gang(mode=JobMode.BATCH), restart=RestartPolicy(condition=RestartCondition.ON_FAILURE))
    world = World(msgspec.structs.replace(ending, batch=BatchPolicy(attempts=2)))
    world.decide()
    tasks: list[Task] = [world.assign(task, "n1") for task in world.tasks()]
    world.see(tasks[0], TaskState.COMPLETE)
    world.decide()
    assert world.job().progress.succeeded == ""
    world.see(tasks[1], TaskState.FAILED, message="exit 1")
    world.decide()
    let_stop(world)
    world.decide()
    assert [task.slot for task in world.tasks()] == [1, 2, 3], "the one that was complete as well"
    world.see(world.assign(world.task(2), "n1"), TaskState.FAILED, message="exit 1")
    world.decide()
    world.decide()
    view = job_view(world.state, world.job(), world.conditions, world.now_s)
    assert (view.status, view.succeeded, view.failed) == (JobStatus.FAILED, 0, 3)
    let_stop(world)
    while world.decide():
        pass
    assert world.tasks() == []


def test_its_attempts_are_those_of_all_of_it_whichever_member_fails() -> None:
    ending = with_task(gang(mode=JobMode.BATCH), restart=RestartPolicy(condition=RestartCondition.ON_FAILURE))
    world = World(msgspec.structs.replace(ending, batch=BatchPolicy(attempts=3)))
    world.decide()
    for member in (1, 2, 3):
        for task in world.tasks():
            world.assign(task, "n1")
        assert view_status(world) is not JobStatus.FAILED
        world.see(world.task(member), TaskState.FAILED, message="exit 1")
        world.decide()
        let_stop(world)
        world.decide()
        world.now_s += 60
        world.decide()
    assert view_status(world) is JobStatus.FAILED
    assert world.tasks() == []


def test_one_that_goes_well_is_complete() -> None:
    world = running(with_task(gang(mode=JobMode.BATCH), restart=RestartPolicy(condition=RestartCondition.ON_FAILURE)))
    assert view_status(world) is JobStatus.COMPLETE
    assert world.job().progress.succeeded == "1-3"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (gang(101), "replicas"),
        (msgspec.structs.replace(gang(1), mode=JobMode.DAEMON), "gang"),
        (
            with_task(
                gang(4, mode=JobMode.BATCH, batch=BatchPolicy(parallelism=2)),
                restart=RestartPolicy(condition=RestartCondition.NONE),
            ),
            "batch.parallelism",
        ),
    ],
)
def test_what_cannot_be_is_refused(spec: JobSpec, path: str) -> None:
    assert [fault.path for fault in faults(spec)] == [path]


def test_it_cannot_be_scaled_beyond_one_commit() -> None:
    world = running(gang())
    with pytest.raises(Invalid, match="a gang has at most 100"):
        scale(world.state, ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=101),)), 1.0)
