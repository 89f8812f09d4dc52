"""Whatever happens in whatever order, once it stops the job is as it should be, and nothing is done twice."""

from __future__ import annotations

import random
import sys

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.model.api import JobsRequest, ScaleRequest, ScaleTarget
from common.model.job import DesiredState, UpdateOrder, UpdatePolicy
from common.model.node import Availability, NodeStatus
from common.model.rollout import RolloutPhase
from common.model.task import Health, Task, TaskState
from controller.core.apply import restart, scale, stop
from controller.core.attention import Attention
from controller.core.imagine import Imagination
from controller.core.reconcile import reconcile
from tests.world import CHECK, NODES, InTurn, World, web, with_task

happening = st.tuples(
    st.sampled_from(
        ["scale", "update", "restart", "stop", "down", "back", "silent", "fail", "sicken", "act", "decide"]
    ),
    st.integers(min_value=0, max_value=5),
)


def happen(world: World, kind: str, number: int) -> None:
    node = NODES[number % len(NODES)]
    running = [task for task in world.tasks() if task.node_id and not task.ended]
    match kind:
        case "scale":
            targets = (ScaleTarget(job="web", replicas=number),)
            world.write(scale(world.state, ScaleRequest(namespace="shop", targets=targets), world.now_s))
        case "update":
            world.up(with_task(web(f"web:{number}"), health_check=CHECK if number % 2 else None))
        case "restart":
            world.write(restart(world.state, JobsRequest(namespace="shop", jobs=("web",)), world.now_s))
        case "stop":
            world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
        case "down":
            world.node(node, NodeStatus.DOWN)
        case "back":
            world.node(node, NodeStatus.READY)
        case "silent":
            world.node(node, NodeStatus.UNREACHABLE)
        case "fail" if running:
            world.see(running[number % len(running)], TaskState.FAILED, attempt=9, message="exit 1")
        case "sicken" if running:
            world.see(running[number % len(running)], TaskState.RUNNING, health=Health.UNHEALTHY)
        case "act":
            act(world, number)
        case _:
            world.decide()
    world.now_s += number / 2


def act(world: World, number: int) -> None:
    """One pending task is placed, or one agent does one thing."""
    for task in world.tasks():
        if not task.node_id:
            world.assign(task, NODES[number % len(NODES)])
            return
        if task.desired is DesiredState.STOP:
            world.see(task, TaskState.STOPPED)
            return
        if task.status.state is not TaskState.RUNNING:
            world.see(task, TaskState.RUNNING, health=Health.HEALTHY if number else Health.STARTING)
            return


def wanted(world: World) -> list[Task]:
    return [task for task in world.tasks() if task.desired is DesiredState.RUN and not task.lost_at_s]


def calm(world: World) -> None:
    """Faults stop: every node is there and every agent does what it is told."""
    for node in NODES:
        world.node(node, NodeStatus.READY)
    world.now_s += 1_000
    world.settle()


@settings(max_examples=150, deadline=None)
@example([("fail", 0), ("update", 1), ("fail", 0), ("fail", 0), ("act", 0), ("sicken", 0)])
@given(st.lists(happening, max_size=40))
def test_when_calm_returns_every_slot_has_exactly_one_task_of_the_wanted_version(events: list[tuple[str, int]]) -> None:
    world = World(web())
    for kind, number in events:
        happen(world, kind, number)
    calm(world)
    job = world.job()
    expected = job.replicas if job.desired is DesiredState.RUN else 0
    assert [task.slot for task in wanted(world)] == list(range(1, expected + 1))
    given_up = job.rollout is not None and job.rollout.phase is RolloutPhase.FAILED  # calm came after its deadline
    assert given_up or {task.version for task in wanted(world)} <= {job.version}
    assert len(world.tasks()) == expected, "something that should have stopped still runs"


@settings(max_examples=150, deadline=None)
@given(st.lists(happening, max_size=40))
def test_no_slot_ever_has_two_wanted_tasks_of_one_version_once_decided(events: list[tuple[str, int]]) -> None:
    world = World(web())
    for kind, number in events:
        happen(world, kind, number)
    world.decide()
    world.decide()
    live = [(task.slot, task.version) for task in wanted(world)]
    assert len(live) == len(set(live))


@settings(max_examples=100, deadline=None)
@given(st.lists(happening, max_size=30), st.integers())
def test_the_same_inputs_and_seed_give_the_same_decisions(events: list[tuple[str, int]], seed: int) -> None:
    world = World(web())
    for kind, number in events:
        happen(world, kind, number)
    passes = [reconcile(world.state, world.job(), world.conditions, world.now_s, random.Random(seed)) for _ in range(2)]
    assert passes[0] == passes[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=1, max_value=5), st.booleans())
def test_a_start_first_rollout_never_goes_below_the_wanted_number(replicas: int, checked: bool) -> None:
    world = World(with_task(web(replicas=replicas), health_check=CHECK if checked else None))
    world.settle()
    world.up(with_task(web("web:2", replicas=replicas), health_check=CHECK if checked else None))
    imagined = Imagination(world.state, world.conditions, world.now_s, world.rng, InTurn())
    rounds = imagined.run([world.job().id])
    assert rounds
    assert min(entry.healthy for entry in rounds) == replicas


def test_a_value_is_never_changed_in_place() -> None:
    world = World(web())
    before = msgspec.json.encode(list(world.state.records()))
    world.reconcile()
    assert msgspec.json.encode(list(world.state.records())) == before


class Incremental:
    """The same passes as a world's own, but with what was learned before."""

    def __init__(self, world: World, room: int = sys.maxsize) -> None:
        self.world = world
        self.room = room
        self.attention = Attention()
        self._followed = 0

    def follow(self) -> None:
        world = self.world
        for applied in world.applied[self._followed :]:
            self.attention.follow(applied, world.state, world.conditions)
        self._followed = len(world.applied)

    def check(self) -> None:
        """One pass each way on the state as it is; not applied."""
        self.follow()
        world, job = self.world, self.world.job()
        scopes = self.attention.scope(job.id), None
        found, expected = (
            reconcile(world.state, job, world.conditions, world.now_s, random.Random(7), scope=scope, room=self.room)
            for scope in scopes
        )
        self.attention.saw(job.id, found.seen)
        assert (found.decisions, found.groups) == (expected.decisions, expected.groups)
        assert found.decisions or found.wake_at_s == expected.wake_at_s

    def happen(self, kind: str, number: int) -> None:
        node = NODES[number % len(NODES)]
        match kind:
            case "drain":
                self.world.availability(node, Availability.DRAINING)
            case "undrain":
                self.world.availability(node, Availability.ACTIVE)
            case _:
                happen(self.world, kind, number)
        if kind in ("down", "back", "silent"):
            self.attention.condition_changed(None, self.world.conditions[node], self.world.state)


anything = st.one_of(happening, st.tuples(st.sampled_from(["drain", "undrain"]), st.integers(0, 5)))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(anything, max_size=40),
    st.integers(min_value=0, max_value=3),
    st.sampled_from(UpdateOrder),
    st.sampled_from([1, 2, sys.maxsize]),
)
def test_a_pass_over_what_changed_decides_what_one_over_everything_would(
    events: list[tuple[str, int]], parallelism: int, order: UpdateOrder, room: int
) -> None:
    world = World(web(update=UpdatePolicy(parallelism=parallelism, order=order)))
    world.settle()
    incremental = Incremental(world, room)
    for kind, number in events:
        incremental.check()
        incremental.happen(kind, number)
        incremental.check()
        if number % 2:
            world.decide()
    for _ in range(6):  # and on until it has come to rest
        world.decide()
        act(world, 1)
        incremental.check()
        world.now_s += 1.0


def test_slots_at_rest_are_not_looked_at_again() -> None:
    world = World(web(replicas=3))
    world.settle()
    incremental = Incremental(world)
    incremental.check()
    scope = incremental.attention.scope(world.job().id)
    assert scope is not None
    assert scope.slots == ()
    world.see(world.task(2), TaskState.FAILED, message="exit 1")
    incremental.follow()
    scope = incremental.attention.scope(world.job().id)
    assert scope is not None
    assert scope.slots == (2,)
