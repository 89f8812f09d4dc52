"""A task that is to move for a better balance: its successor first, on that node or nowhere, and given up in time."""

from __future__ import annotations

import msgspec
import pytest

from common.model.job import Port as PublishedPort
from common.model.job import PublishMode, UpdatePolicy
from common.model.node import Availability, NodeStatus
from common.model.task import Task, TaskState
from controller.core.decisions import Create, Remain, Stop
from controller.core.pending import requests_for
from controller.core.settings import WISH_LASTS_S, WISH_WITHOUT_ROOM_S, WISHED_MOVES_AT_ONCE
from controller.state import Write
from tests.world import World, kinds, web, with_task


@pytest.fixture
def world() -> World:
    """Three replicas, one per node."""
    made = World(web())
    made.settle()
    return made


def wish(world: World, slot: int, node: str) -> Task:
    task = world.task(slot)
    world.state.apply(Write(msgspec.structs.replace(task, moves_to=node)))
    return world.state.tasks[task.id]


def other_node(world: World, task: Task) -> str:
    return next(name for name in world.state.nodes if name != task.node_id)


def test_the_successor_comes_first_and_goes_where_it_was_meant_to(world: World) -> None:
    old = wish(world, 1, other_node(world, world.task(1)))
    (create,) = world.decide()
    assert isinstance(create, Create)
    assert create.moves == old.id
    (successor,) = [task for task in world.tasks() if not task.node_id]
    (request,) = requests_for(world.state, [successor.id])
    assert request.only == old.moves_to
    world.see(world.assign(successor, old.moves_to), TaskState.RUNNING)
    world.now_s += 60
    (stop,) = world.decide()
    assert isinstance(stop, Stop)
    assert (stop.task.id, stop.reason) == (old.id, "it moves to another node, for a better balance")


def test_it_ends_and_nothing_is_left_to_wish(world: World) -> None:
    old = wish(world, 1, other_node(world, world.task(1)))
    world.decide()
    (successor,) = [task for task in world.tasks() if not task.node_id]
    world.see(world.assign(successor, old.moves_to), TaskState.RUNNING)
    world.settle()
    assert [task.node_id for task in world.tasks() if task.slot == 1] == [old.moves_to]
    assert not any(task.moves_to for task in world.tasks())


@pytest.mark.parametrize("trouble", ["down", "cordoned", "gone", "own node drained"])
def test_a_target_that_takes_nothing_any_more_ends_the_wish(world: World, trouble: str) -> None:
    task = wish(world, 1, other_node(world, world.task(1)))
    match trouble:
        case "down":
            world.node(task.moves_to, NodeStatus.UNREACHABLE)
        case "cordoned":
            world.availability(task.moves_to, Availability.CORDONED)
        case "gone":
            del world.conditions[task.moves_to]
        case _:
            world.availability(task.node_id, Availability.DRAINING)
    assert isinstance(world.decide()[0], Remain)
    assert world.state.tasks[task.id].moves_to == ""


def test_a_successor_without_room_is_given_up_and_the_task_stays(world: World) -> None:
    task = wish(world, 1, other_node(world, world.task(1)))
    world.decide()
    assert world.reconcile().wake_at_s <= world.now_s + WISH_WITHOUT_ROOM_S
    world.now_s += WISH_WITHOUT_ROOM_S
    assert kinds(world.decide()) == [Remain, Stop]
    assert [left.id for left in world.tasks() if left.slot == 1] == [task.id]
    assert world.decide() == ()


def test_a_successor_that_does_not_come_up_is_given_up_in_the_end(world: World) -> None:
    task = wish(world, 1, other_node(world, world.task(1)))
    world.decide()
    (successor,) = [one for one in world.tasks() if not one.node_id]
    world.see(world.assign(successor, task.moves_to), TaskState.PREPARING)
    world.now_s += WISH_LASTS_S
    assert kinds(world.decide()) == [Remain, Stop]
    assert world.state.tasks[task.id].reason.startswith("stays: its successor on node")


def test_a_successor_that_fails_is_not_tried_again(world: World) -> None:
    task = wish(world, 1, other_node(world, world.task(1)))
    world.decide()
    (successor,) = [one for one in world.tasks() if not one.node_id]
    world.see(world.assign(successor, task.moves_to), TaskState.FAILED)
    world.decide()
    world.settle()
    assert [left.id for left in world.tasks() if left.slot == 1] == [task.id]


def test_a_new_version_needs_no_move_as_well(world: World) -> None:
    wish(world, 1, other_node(world, world.task(1)))
    world.up(web("web:2"))
    assert isinstance(world.decide()[0], Remain)


def test_what_would_have_to_be_stopped_first_is_not_moved() -> None:
    port = PublishedPort(container_port=80, published_port=8080, mode=PublishMode.HOST)
    world = World(with_task(web(), ports=(port,)))
    world.settle()
    task = wish(world, 1, other_node(world, world.task(1)))
    (remain,) = world.decide()
    assert isinstance(remain, Remain)
    assert "it binds port 8080 of its node" in remain.reason
    assert world.state.tasks[task.id].desired.value == "run"


def test_only_a_few_move_at_once() -> None:
    world = World(web(replicas=12, update=UpdatePolicy(parallelism=0)))
    world.settle()
    for slot in range(1, 13):
        wish(world, slot, other_node(world, world.task(slot)))
    assert kinds(world.decide()) == [Create] * WISHED_MOVES_AT_ONCE
    assert world.decide() == ()


def test_a_node_that_dies_on_the_way_frees_its_successor_from_the_target(world: World) -> None:
    task = wish(world, 1, other_node(world, world.task(1)))
    world.decide()
    (successor,) = [one for one in world.tasks() if not one.node_id]
    world.node(task.node_id, NodeStatus.DOWN)
    world.decide()
    (request,) = requests_for(world.state, [successor.id])
    assert request.only == ""
