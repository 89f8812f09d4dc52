"""Emptying a node: what moves, at which version, in which order, and how many at once."""

from __future__ import annotations

import msgspec
import pytest

from common.model.job import Dependency, DesiredState, JobMode, JobSpec, Port, PublishMode, UpdateOrder, UpdatePolicy
from common.model.node import Availability, NodeStatus
from common.model.task import Health, Task, TaskState
from controller.core.decisions import Create, Stop
from controller.core.imagine import Imagination
from controller.core.reconcile import reconcile
from controller.core.settings import MOVE_COUNTS_S, MOVES_AT_ONCE
from controller.state import Write
from tests.world import AT_ONCE, CHECK, InTurn, World, acts, kinds, web, with_task

DRAINING = Availability.DRAINING
CHECKED = with_task(web(update=AT_ONCE), health_check=CHECK)
ON_HOST = with_task(web(), ports=(Port(container_port=80, published_port=8080, mode=PublishMode.HOST),))


def settled(*specs: JobSpec) -> World:
    world = World(*specs)
    world.settle()
    return world


def relief_of(world: World, slot: int) -> Task:
    (task,) = [task for task in world.tasks() if task.slot == slot and task.moves]
    return task


def test_the_new_is_good_before_the_old_is_stopped() -> None:
    world = settled(CHECKED)
    old = world.task(1)
    world.availability(old.node_id, DRAINING)
    (created,) = world.decide()
    assert isinstance(created, Create)
    assert created.moves == old.id
    new = world.assign(relief_of(world, 1), "n3")
    world.see(new, TaskState.RUNNING, health=Health.STARTING)
    assert world.decide() == ()
    world.see(world.state.tasks[new.id], TaskState.RUNNING, health=Health.HEALTHY)
    (stopped,) = world.decide()
    assert isinstance(stopped, Stop)
    assert (stopped.task.id, stopped.reason) == (old.id, "its node is being drained")


def test_what_does_not_work_makes_way_as_soon_as_its_successor_has_a_node() -> None:
    world = settled(CHECKED)
    old = world.task(1)
    world.availability(old.node_id, DRAINING)
    world.decide()
    world.see(old, TaskState.RUNNING, health=Health.UNHEALTHY)
    assert world.decide() == (), "nothing took its place yet"
    world.assign(relief_of(world, 1), "n3")
    assert kinds(world.decide()) == [Stop]


def test_of_a_silent_node_nothing_is_stopped_before_its_successor_is_good() -> None:
    world = settled(CHECKED)
    world.availability(world.task(1).node_id, DRAINING)
    world.node(world.task(1).node_id, NodeStatus.UNREACHABLE)
    assert kinds(world.decide()) == [Create]
    world.assign(relief_of(world, 1), "n3")
    assert world.decide() == ()


def test_a_held_rollout_holds_no_move_up_and_the_task_keeps_its_version() -> None:
    world = settled(CHECKED)
    needy = msgspec.structs.replace(
        with_task(web("web:2", update=AT_ONCE), health_check=CHECK), depends_on=(Dependency(job="db"),)
    )
    world.up(needy)
    assert acts(world.decide()) == ()
    world.availability(world.task(1).node_id, DRAINING)
    (created,) = world.decide()
    assert isinstance(created, Create)
    assert created.version == 1
    world.settle()
    assert {task.version for task in world.tasks()} == {1}
    assert len(world.tasks()) == 3


def test_what_leaves_is_followed_by_its_like_while_no_version_was_ever_good_and_the_next_one_is_held() -> None:
    """A drain simulated while nothing had settled ended every term: there is no version 0."""
    world = World(CHECKED)
    world.decide()
    for task in world.tasks():
        world.assign(task, f"n{task.slot}")
    needy = msgspec.structs.replace(
        with_task(web("web:2", update=AT_ONCE), health_check=CHECK), depends_on=(Dependency(job="db"),)
    )
    world.up(needy)
    old = world.task(1)
    world.availability(old.node_id, DRAINING)
    (created,) = [decision for decision in world.decide() if isinstance(decision, Create)]
    assert (created.version, created.moves) == (1, old.id)


@pytest.mark.parametrize(("health", "version"), [(Health.HEALTHY, 2), (Health.UNHEALTHY, 1)])
def test_while_paused_a_good_task_moves_as_it_is_and_a_bad_one_goes_back(health: Health, version: int) -> None:
    world = settled(CHECKED)
    world.up(with_task(web("web:2", update=AT_ONCE), health_check=CHECK))
    world.decide()
    (new,) = [task for task in world.tasks() if task.version == 2]
    new = world.assign(new, "n3")
    world.see(new, TaskState.RUNNING, health=Health.HEALTHY)
    world.decide()  # slot 1 has changed, slot 2 has begun to
    world.state.apply(Write(msgspec.structs.replace(world.job(), paused="somebody looks")))
    for task in world.tasks():
        if not task.node_id:
            world.see(world.assign(task, "n1"), TaskState.RUNNING, health=Health.STARTING)
    assert world.decide() == (), "a paused rollout stands still"
    world.see(world.state.tasks[new.id], TaskState.RUNNING, health=health)
    for old in [task for task in world.tasks() if task.slot == new.slot and task.version == 1]:
        world.see(old, TaskState.STOPPED)
    world.availability("n3", DRAINING)
    created = [decision for decision in world.decide() if isinstance(decision, Create) and decision.slot == new.slot]
    assert [decision.version for decision in created] == [version]


def test_a_batch_task_may_finish() -> None:
    world = World(web(mode=JobMode.BATCH, replicas=1))
    world.decide()
    task = world.assign(world.task(1), "n1")
    world.see(task, TaskState.RUNNING)
    world.availability("n1", DRAINING)
    assert world.decide() == ()
    world.see(world.state.tasks[task.id], TaskState.COMPLETE)
    world.decide()
    assert all(task.desired is DesiredState.RUN for task in world.tasks(live=False))


@pytest.mark.parametrize("spec", [ON_HOST, web(update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))])
def test_stop_first_frees_one_slot_at_a_time_and_says_why(spec: JobSpec) -> None:
    world = settled(spec)
    for name in ("n1", "n2", "n3"):
        world.availability(name, DRAINING)
    (stopped,) = world.decide()
    assert isinstance(stopped, Stop)
    assert "its node is being drained; stopped before the next one starts, since it" in stopped.reason
    assert world.decide() == ()
    world.see(world.state.tasks[stopped.task.id], TaskState.STOPPED)
    assert kinds(world.decide()) == [Create]
    assert world.decide() == (), "the next slot waits until this one is good"


def test_uncordoning_keeps_the_original_and_drops_what_is_not_good_yet() -> None:
    world = settled(CHECKED)
    old = world.task(1)
    world.availability(old.node_id, DRAINING)
    world.decide()
    new = world.assign(relief_of(world, 1), "n3")
    world.see(new, TaskState.RUNNING, health=Health.STARTING)
    world.availability(old.node_id, Availability.ACTIVE)
    (stopped,) = world.decide()
    assert isinstance(stopped, Stop)
    assert stopped.task.id == new.id


def test_an_original_that_comes_back_while_its_node_is_emptied_leaves_its_successor_alone() -> None:
    world = settled(CHECKED)
    old = world.task(1)
    world.availability(old.node_id, DRAINING)
    world.decide()
    new = world.assign(relief_of(world, 1), "n3")
    world.node(old.node_id, NodeStatus.DOWN)
    world.decide()
    world.node(old.node_id, NodeStatus.READY)
    world.decide()
    assert not world.state.tasks[old.id].lost_at_s
    assert world.state.tasks[new.id].desired is DesiredState.RUN


def test_in_the_whole_cluster_only_so_many_are_on_their_way() -> None:
    jobs = MOVES_AT_ONCE + 5
    specs = [msgspec.structs.replace(web(replicas=1), name=f"web{number}") for number in range(jobs)]
    world = settled(*specs)
    for name in ("n1", "n2", "n3"):
        world.availability(name, DRAINING)
    setting_out = 0
    wakes = []
    for spec in specs:
        job = world.job(spec.name)
        found = reconcile(world.state, job, world.conditions, world.now_s, world.rng, setting_out=setting_out)
        setting_out += len(found.decisions)
        wakes += [found.wake_at_s - world.now_s] if not found.decisions else []
    assert setting_out == MOVES_AT_ONCE
    assert wakes == [1.0] * 5
    for spec in specs:
        world.decide(spec.name)
    assert len(world.state.arriving) == MOVES_AT_ONCE
    world.now_s += MOVE_COUNTS_S
    assert kinds(world.decide(specs[-1].name)) == [Create], "those that found no place hold nobody up for long"


def test_what_sets_out_is_forgotten_once_it_runs() -> None:
    world = settled(CHECKED)
    world.availability(world.task(1).node_id, DRAINING)
    imagined = Imagination(world.state, world.conditions, world.now_s, world.rng, InTurn())
    world.decide()
    assert len(world.state.arriving) == 1
    world.see(world.assign(relief_of(world, 1), "n3"), TaskState.RUNNING)
    assert world.state.arriving == {}
    assert imagined.state.arriving == {}
