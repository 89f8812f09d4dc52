"""Emptying nodes: whatever happens in whatever order, no replica is lost by our doing, and it comes to its end."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.job import DesiredState, JobSpec, UpdateOrder, UpdatePolicy
from common.model.node import Availability, NodeStatus
from common.model.task import Health, Task, TaskState
from controller.core.imagine import Imagination
from controller.core.slots import good
from controller.state import State, Write
from tests.world import CHECK, NODES, InTurn, World, active, web, with_task

EVENTS = (
    *("drain", "uncordon", "act", "act", "act", "act", "decide", "decide", "sicken", "fail"),
    *("silent", "down", "back", "leader", "update", "pause", "wait"),
)
happening = st.tuples(st.sampled_from(EVENTS), st.integers(min_value=0, max_value=7))
jobs = st.tuples(st.integers(1, 5), st.integers(0, 3), st.booleans())
"""Replicas, parallelism, and whether there is a health check."""


def started(replicas: int, parallelism: int, checked: bool) -> World:
    world = World(spec(replicas, parallelism, checked))
    world.settle()
    return world


def spec(replicas: int, parallelism: int, checked: bool, image: str = "web:1") -> JobSpec:
    base = web(image, replicas, update=UpdatePolicy(parallelism=parallelism))
    return with_task(base, health_check=CHECK if checked else None)


def happen(world: World, kind: str, number: int, job: tuple[int, int, bool]) -> None:
    node = NODES[number % len(NODES)]
    placed = [task for task in world.tasks() if task.node_id]
    match kind:
        case "drain":
            world.availability(node, Availability.DRAINING)
        case "uncordon":
            world.availability(node, Availability.ACTIVE)
        case "silent":
            world.node(node, NodeStatus.UNREACHABLE)
        case "down":
            world.node(node, NodeStatus.DOWN)
        case "back":
            world.node(node, NodeStatus.READY)
        case "sicken" if placed:
            world.see(placed[number % len(placed)], TaskState.RUNNING, health=Health.UNHEALTHY)
        case "fail" if placed:
            world.see(placed[number % len(placed)], TaskState.FAILED, attempt=9, message="exit 1")
        case "update":
            world.up(spec(*job, image=f"web:{number}"))
        case "pause":
            world.state.apply(
                Write(msgspec.structs.replace(world.job(), paused="somebody looks" if number % 2 else ""))
            )
        case "leader":
            world.state = State.of(list(world.state.records()))
            world.rng = random.Random(world.rng.getrandbits(64))
        case "act":
            act(world, number)
        case _:
            decide(world)
    world.now_s += number if kind == "wait" else number / 4


def act(world: World, number: int) -> None:
    """One pending task is placed where there is a place, or one agent does one thing."""
    for task in world.tasks():
        if not task.node_id:
            if places := active(world.state):
                world.assign(task, places[number % len(places)])
                return
        elif task.desired is DesiredState.STOP:
            world.see(task, TaskState.STOPPED)
            return
        elif task.status.state is not TaskState.RUNNING or task.status.health is not Health.HEALTHY:
            world.see(task, TaskState.RUNNING, health=Health.HEALTHY if number % 4 else Health.STARTING)
            return


def well(world: World) -> set[int]:
    """Slots that have a task which does its work."""
    return {
        task.slot for task in wanted(world) if good(task, world.state.spec_of_task(task), world.conditions, world.now_s)
    }


def wanted(world: World) -> list[Task]:
    return [task for task in world.tasks() if task.desired is DesiredState.RUN and not task.lost_at_s]


def decide(world: World) -> None:
    before = well(world)
    decisions = world.decide()
    assert well(world) >= before, decisions


@settings(max_examples=300, deadline=None)
@given(jobs, st.lists(happening, max_size=60))
def test_no_decision_of_ours_takes_a_replica_away_and_draining_ends(
    job: tuple[int, int, bool], events: list[tuple[str, int]]
) -> None:
    world = started(*job)
    for kind, number in events:
        happen(world, kind, number, job)
    if not active(world.state):
        world.availability(NODES[0], Availability.ACTIVE)
    for node in NODES:
        world.node(node, NodeStatus.READY)
    for task in world.tasks():
        if task.node_id and task.status.health is Health.UNHEALTHY:
            world.see(task, TaskState.RUNNING, health=Health.HEALTHY)
    world.now_s += 1_000
    imagined = Imagination(world.state, world.conditions, world.now_s, world.rng, InTurn())
    rounds = imagined.run(list(world.state.jobs))
    world.state, world.now_s = imagined.state, imagined.now_s
    if not world.job().paused:  # which may leave a slot with a task of each version
        assert [task.slot for task in wanted(world)] == list(range(1, job[0] + 1))
    assert {task.node_id for task in wanted(world)} <= set(active(world.state)), [r.decisions for r in rounds[-3:]]


@settings(max_examples=100, deadline=None)
@given(jobs, st.sets(st.sampled_from(NODES), min_size=1, max_size=2))
def test_undisturbed_every_replica_stays_well_all_the_time(job: tuple[int, int, bool], names: set[str]) -> None:
    world = started(*job)
    for name in names:
        world.availability(name, Availability.DRAINING)
    imagined = Imagination(world.state, world.conditions, world.now_s, world.rng, InTurn())
    rounds = imagined.run(list(world.state.jobs))
    assert all(entry.healthy == job[0] for entry in rounds)
    at_once = job[1] or job[0]
    for entry in rounds:
        assert sum(bool(getattr(decision, "moves", "")) for decision in entry.decisions) <= at_once


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.sets(st.sampled_from(NODES), min_size=1, max_size=2))
def test_stopped_first_no_more_than_parallelism_are_missing_at_once(
    replicas: int, parallelism: int, names: set[str]
) -> None:
    update = UpdatePolicy(parallelism=parallelism, order=UpdateOrder.STOP_FIRST)
    world = World(with_task(web(replicas=replicas, update=update), health_check=CHECK))
    world.settle()
    for name in sorted(names):
        world.availability(name, Availability.DRAINING)
    imagined = Imagination(world.state, world.conditions, world.now_s, world.rng, InTurn())
    rounds = imagined.run(list(world.state.jobs))
    assert all(entry.healthy >= replicas - parallelism for entry in rounds)
    world.state = imagined.state
    assert {task.node_id for task in wanted(world)} <= set(active(world.state))
    assert len(wanted(world)) == replicas
