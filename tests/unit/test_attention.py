"""Which slots a pass may leave out, and what makes it look at them again."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from common.model.job import DesiredState
from common.model.node import Availability, NodeStatus
from common.model.task import Slot, Task, TaskState
from controller.core.attention import Attention
from controller.core.quiet import pass_at_s, passed, quiet_since_s
from controller.core.reconcile import reconcile
from controller.core.slots import slots_of
from controller.state import Write
from tests.world import CHECK, World, web, with_task


def settled(**changes: object) -> World:
    world = World(with_task(web(replicas=1), **changes))
    world.settle()
    return world


def quiet(world: World) -> tuple[float | None] | None:
    """Of slot 1, as it is now."""
    job = world.job()
    specs = {number: version.spec for number, version in world.state.versions_of(job.id).items()}
    views = slots_of(world.state.tasks_in_slot(job.id, 1), specs)
    return quiet_since_s(world.state, job, views[1], world.conditions)


def test_a_slot_whose_task_does_its_work_is_quiet_since_that_began() -> None:
    world = settled()
    assert quiet(world) == (world.task(1).observed_at_s,)


def test_a_healthy_task_may_be_relied_on_at_once_and_one_that_is_not_yet_never_by_mere_time() -> None:
    world = settled(health_check=CHECK)
    since = quiet(world)
    assert since is not None
    assert passed({1: since[0]}, world.state.spec_of(world.job()), world.now_s) == 1
    world.node(world.task(1).node_id, NodeStatus.UNREACHABLE)
    assert quiet(world) == (None,)
    assert passed({1: None}, world.state.spec_of(world.job()), world.now_s + 1e6) == 0


def test_tasks_count_when_they_have_run_for_as_long_as_a_rollout_watches() -> None:
    spec = web()
    watched_s = spec.update.monitor_s
    assert passed({1: 100.0, 2: 101.0}, spec, 100.5 + watched_s) == 1
    assert pass_at_s({1: 100.0, 2: 101.0, 3: None}, spec, 100.5 + watched_s) == (101.0 + watched_s,)


def crashed(world: World, task: Task) -> None:
    world.see(task, TaskState.RUNNING, attempt=2)


def remembers_failures(world: World, task: Task) -> None:
    world.apply(Write(Slot(job_id=task.job_id, slot=1, failures=1)))


def failed_before(world: World, task: Task) -> None:
    earlier = msgspec.structs.replace(task, id="earlier", desired=DesiredState.STOP, created_at_s=0.0)
    status = msgspec.structs.replace(task.status, state=TaskState.FAILED)
    world.apply(Write(msgspec.structs.replace(earlier, status=status)))


def drained(world: World, task: Task) -> None:
    world.availability(task.node_id, Availability.DRAINING)


def down(world: World, task: Task) -> None:
    world.node(task.node_id, NodeStatus.DOWN)


def stopping(world: World, task: Task) -> None:
    world.apply(Write(msgspec.structs.replace(task, desired=DesiredState.STOP)))


def to_move(world: World, task: Task) -> None:
    world.apply(Write(msgspec.structs.replace(task, moves_to="n3")))


def updated(world: World, _task: Task) -> None:
    world.up(web("web:2", replicas=1))


def scaled_away(world: World, _task: Task) -> None:
    world.apply(Write(msgspec.structs.replace(world.job(), replicas=0)))


@pytest.mark.parametrize(
    "change", [crashed, remembers_failures, failed_before, drained, down, stopping, to_move, updated, scaled_away]
)
def test_a_slot_that_may_need_a_decision_is_not_quiet(change: Callable[[World, Task], None]) -> None:
    world = settled()
    change(world, world.task(1))
    assert quiet(world) is None


@pytest.mark.parametrize("change", [crashed, remembers_failures, failed_before, drained])
def test_what_happens_to_a_quiet_slot_is_looked_at(change: Callable[[World, Task], None]) -> None:
    world, attention = settled(), Attention()
    job_id = world.job().id
    attention.saw(job_id, world.reconcile().seen)
    scope = attention.scope(job_id)
    assert scope is not None
    assert scope.slots == ()
    change(world, world.task(1))
    (applied,) = world.applied[-1:]
    assert attention.follow(applied, world.state, world.conditions)
    scope = attention.scope(job_id)
    assert scope is not None
    assert scope.slots == (1,)


def test_a_task_that_comes_nearer_to_running_on_a_good_node_asks_for_nothing() -> None:
    world, attention = World(web(replicas=1)), Attention()
    world.decide()
    job_id = world.job().id
    attention.saw(job_id, world.reconcile().seen)
    for act in (lambda: world.assign(world.task(1), "n1"), lambda: world.see(world.task(1), TaskState.STARTING)):
        act()
        assert not attention.follow(world.applied[-1], world.state, world.conditions)
    world.see(world.task(1), TaskState.RUNNING)
    assert attention.follow(world.applied[-1], world.state, world.conditions)


@pytest.mark.parametrize("status", [NodeStatus.DOWN, NodeStatus.UNREACHABLE])
def test_a_task_that_was_placed_on_a_node_which_fell_silent_meanwhile_is_looked_at(status: NodeStatus) -> None:
    world, attention = World(web(replicas=1)), Attention()
    world.decide()
    attention.saw(world.job().id, world.reconcile().seen)
    world.node("n1", status)
    world.assign(world.task(1), "n1")
    assert attention.follow(world.applied[-1], world.state, world.conditions)


def test_a_task_of_its_own_slot_that_begins_to_run_needs_no_look_and_is_counted() -> None:
    world, attention = World(web(replicas=1)), Attention()
    job_id = world.job().id
    attention.saw(job_id, world.reconcile().seen)
    assert looked_at(attention, job_id) == (1,)
    world.decide()
    for applied in world.applied:
        if isinstance(applied.after, Task):
            assert attention.follow(applied, world.state, world.conditions)
    assert looked_at(attention, job_id) == ()
    world.assign(world.task(1), "n1")
    world.see(world.task(1), TaskState.RUNNING)
    assert attention.follow(world.applied[-1], world.state, world.conditions)
    scope = attention.scope(job_id)
    assert scope is not None
    assert (scope.slots, scope.quiet) == ((), {1: world.task(1).observed_at_s})


def test_a_pass_that_had_no_room_left_has_not_lost_what_it_saw() -> None:
    world, attention = World(web(replicas=4)), Attention()
    world.decide()
    world.apply(Write(msgspec.structs.replace(world.job(), replicas=8)))
    found = reconcile(world.state, world.job(), world.conditions, world.now_s, world.rng, room=2)
    attention.saw(world.job().id, found.seen)
    assert len(found.groups) == 2
    scope = attention.scope(world.job().id)
    assert scope is not None
    assert (scope.slots, tuple(scope.quiet)) == ((5, 6, 7, 8), (1, 2, 3, 4))


def looked_at(attention: Attention, job_id: str) -> tuple[int, ...]:
    scope = attention.scope(job_id)
    assert scope is not None
    return scope.slots
