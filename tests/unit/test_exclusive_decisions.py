"""Exclusive jobs, the controller's half: when a slot gets its next task, and what that task carries."""

from __future__ import annotations

import msgspec
import pytest

from common.errors import Invalid
from common.model.api import ApplyRequest
from common.model.job import Container, DesiredState, JobSpec, UpdateOrder
from common.model.node import Availability, NodeCondition, NodeStatus
from common.model.task import Task, TaskState
from controller.api.requests import check_exclusive
from controller.core.decisions import Create, Lose, Stop
from controller.core.exclusive import ExclusiveTimers
from controller.core.liveness import LivenessTimers
from controller.core.rollout import order_of
from controller.dispatcher.assignments import AssignmentSet
from controller.settings import ControllerSettings, Timers
from controller.state import Erase, Write
from tests.world import World, kinds, web, with_task

LOST_S = ExclusiveTimers().lost_s


def exclusive(image: str = "web:1", replicas: int = 1, grace_s: float = 10.0) -> JobSpec:
    return with_task(web(image, replicas), exclusive=True, container=Container(image=image, stop_grace_s=grace_s))


def silent(world: World, node: str, silent_s: float) -> None:
    world.conditions[node] = NodeCondition(node_id=node, status=NodeStatus.DOWN, silent_s=silent_s)


def settled(*specs: JobSpec) -> tuple[World, Task]:
    world = World(*specs)
    world.settle()
    (task,) = world.tasks()
    return world, task


def test_a_silent_node_keeps_its_exclusive_task_until_its_agent_must_have_stopped_it() -> None:
    world, task = settled(exclusive())
    for silent_s in (0.0, LOST_S - 0.1):
        silent(world, task.node_id, silent_s)
        assert world.decide() == ()
    silent(world, task.node_id, LOST_S)
    assert kinds(world.decide()) == [Lose]
    assert kinds(world.decide()) == [Create]


def test_the_loss_is_written_down_before_the_next_task_is_made() -> None:
    """A new leader that finds the next task finds the loss too, and need not wait again."""
    world, task = settled(exclusive())
    silent(world, task.node_id, LOST_S)
    assert Create not in kinds(world.decide())
    assert world.state.tasks[task.id].lost_at_s == world.now_s


def test_a_new_leader_takes_a_loss_it_finds_for_true() -> None:
    world, task = settled(exclusive())
    silent(world, task.node_id, LOST_S)
    world.decide()
    world.node(task.node_id, NodeStatus.DISCONNECTED)  # as a term begins
    assert kinds(world.decide()) == [Create]


def test_an_ordinary_task_of_a_down_node_is_replaced_at_once() -> None:
    world, task = settled(web(replicas=1))
    silent(world, task.node_id, 0.0)
    assert kinds(world.decide()) == [Lose, Create]


def test_a_node_that_the_operator_removed_frees_its_slots() -> None:
    world, task = settled(exclusive())
    world.state.apply(Erase(world.state.nodes[task.node_id]))
    del world.conditions[task.node_id]
    assert kinds(world.decide()) == [Lose, Create]


def test_an_original_that_returns_before_it_was_given_up_is_kept() -> None:
    world, task = settled(exclusive())
    silent(world, task.node_id, LOST_S - 1)
    assert world.decide() == ()
    world.node(task.node_id, NodeStatus.READY)
    assert world.decide() == ()
    assert world.tasks() == [task]


def test_one_that_returns_after_it_was_given_up_never_runs_again() -> None:
    world, task = settled(exclusive())
    silent(world, task.node_id, LOST_S)
    world.decide()
    world.node(task.node_id, NodeStatus.READY)
    told = AssignmentSet(world.state, task.node_id, lambda _task_id: False).complete()
    assert [one.desired for one in told.assignments] == [DesiredState.STOP]
    decisions = world.decide()
    assert kinds(decisions) == [Stop], "and its slot waits until it has said that it ended"
    assert world.decide() == ()
    world.see(world.state.tasks[task.id], TaskState.STOPPED)
    assert kinds(world.decide()) == [Create]


def test_a_task_its_own_agent_stopped_is_replaced_without_a_mark_against_the_node() -> None:
    world, task = settled(exclusive())
    world.see(task, TaskState.STOPPED, message="stopped by its own agent")
    assert kinds(world.decide()) == [Stop, Create]
    memory = world.state.slot_of(world.job().id, 1)
    assert (memory.failures, memory.failed_nodes) == (0, ())


@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
def test_an_update_stops_the_old_task_before_the_next_is_made(before: bool, after: bool) -> None:
    def spec(image: str, *, alone: bool) -> JobSpec:
        return exclusive(image) if alone else web(image, replicas=1)

    world, task = settled(spec("web:1", alone=before))
    world.up(spec("web:2", alone=after))
    decisions = world.decide()
    assert kinds(decisions) == [Stop]
    assert isinstance(decisions[0], Stop)
    assert "exclusive" in decisions[0].reason
    assert world.decide() == ()
    world.see(world.state.tasks[task.id], TaskState.STOPPED)
    assert kinds(world.decide()) == [Create]


def test_a_drain_stops_it_before_the_next_is_made() -> None:
    world, task = settled(exclusive())
    node = world.state.nodes[task.node_id]
    world.state.apply(Write(msgspec.structs.replace(node, availability=Availability.DRAINING)))
    assert kinds(world.decide()) == [Stop]
    assert world.decide() == ()
    assert order_of(exclusive()) is UpdateOrder.STOP_FIRST


def test_a_lost_task_that_was_not_exclusive_keeps_an_exclusive_one_from_its_slot() -> None:
    """Nobody stops it on the silent node, however long that is silent."""
    world, task = settled(web(replicas=1))
    world.up(exclusive("web:2"))
    silent(world, task.node_id, 10 * LOST_S)
    assert Create not in kinds(world.decide())
    assert world.decide() == ()
    world.state.apply(Erase(world.state.nodes[task.node_id]))
    assert Create in kinds(world.decide())


def test_a_removed_job_is_remembered_while_a_task_of_it_may_run() -> None:
    """So that the same job, made anew, does not run beside it."""
    world, task = settled(exclusive())
    job = world.job()
    world.state.apply(Write(msgspec.structs.replace(job, removed=True, desired=DesiredState.STOP)))
    silent(world, task.node_id, LOST_S - 1)
    for _ in range(3):
        world.decide()
    assert job.id in world.state.jobs
    silent(world, task.node_id, LOST_S)
    while job.id in world.state.jobs:
        assert world.decide()


def test_tokens_rise_with_every_task_over_jobs_made_anew_and_restores() -> None:
    tokens = []
    for revision, generation in ((5, 0), (6, 0), (900, 0), (3, 1)):
        world = World(exclusive())
        world.state.revision, world.state.generation = revision, generation
        world.decide()
        tokens.append(world.task(1).fencing_token)
    assert tokens == sorted(set(tokens))
    assert tokens[0] == 6
    assert World(web()).decide()
    ordinary = World(web(replicas=1))
    ordinary.decide()
    assert ordinary.task(1).fencing_token == 0


def test_both_deadlines_are_the_tasks_own() -> None:
    world = World(exclusive(grace_s=30.0))
    world.decide()
    task = world.task(1)
    assert (task.fence_after_s, task.lost_after_s) == (15.0, 50.0), "longer where the stop takes longer"


def test_stretched_heartbeats_stretch_both_deadlines() -> None:
    timers = Timers(liveness=LivenessTimers(period_s=1.0)).stretched_exclusive(10_000)
    assert (timers.self_s, timers.lost_s) == (40.0, 65.0)
    assert timers.grace_limit_s == ExclusiveTimers().grace_limit_s


def test_a_job_that_takes_too_long_to_stop_is_refused_by_field() -> None:
    timers = ExclusiveTimers()
    check_exclusive(ApplyRequest(namespace="shop", specs=(exclusive(grace_s=20.0), web("other"))), timers)
    with pytest.raises(Invalid) as refused:
        check_exclusive(ApplyRequest(namespace="shop", specs=(exclusive(grace_s=20.5),)), timers)
    (fault,) = refused.value.faults
    assert fault.path == "services.web.task.container.stop_grace_s"
    assert "at most 20 s" in fault.text


@pytest.mark.parametrize("wrong", [{"lost_s": 29.0}, {"self_s": 0.0}, {"margin_s": 0.0}])
def test_a_controller_with_timers_that_overlap_does_not_start(wrong: dict[str, float]) -> None:
    ControllerSettings(store="memory:").check()
    settings = ControllerSettings(store="memory:", timers=Timers(exclusive=ExclusiveTimers(**wrong)))
    with pytest.raises(Invalid) as refused:
        settings.check()
    assert refused.value.faults[0].path == f"timers.exclusive.{next(iter(wrong))}"


def test_an_update_comes_to_its_end() -> None:
    world, _ = settled(exclusive())
    world.up(exclusive("web:2"))
    world.settle()
    assert [one.version for one in world.tasks()] == [2]
