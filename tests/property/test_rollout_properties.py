"""Whatever happens to a rollout in whatever order, no decision of ours takes a replica away, and it ends."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Conflict, NotFound
from common.model.api import JobsRequest, RollbackRequest, ScaleRequest, ScaleTarget
from common.model.job import DesiredState, FailureAction, JobSpec, UpdatePolicy
from common.model.node import NodeStatus
from common.model.rollout import BlueGreen, Canary, CanaryStep, Promotion, RolloutPhase
from common.model.task import Health, Task, TaskState
from controller.core import rollout_machine as machine
from controller.core.apply import scale
from controller.core.decisions import Decision, RollBack
from controller.core.imagine import Imagination
from controller.core.slots import good
from controller.core.steer import pause, promote, resume, rollback
from controller.state import State
from tests.world import CHECK, NODES, InTurn, World, web, with_task

REPLICAS = 3

promotions = st.sampled_from(Promotion)
canaries = st.builds(
    lambda sizes, promotion, bake_s: Canary(
        steps=tuple(CanaryStep(replicas=size, weight=10 * size, bake_s=bake_s) for size in sorted(sizes)),
        promote=promotion,
    ),
    st.lists(st.integers(min_value=1, max_value=REPLICAS), min_size=1, max_size=3),
    promotions,
    st.sampled_from([0.0, 30.0]),
)
blue_greens = st.builds(BlueGreen, bake_s=st.sampled_from([0.0, 30.0]), promote=promotions)
policies = st.builds(
    lambda strategy, parallelism, delay_s, monitor_s, action, ratio: UpdatePolicy(
        parallelism=parallelism,
        delay_s=delay_s,
        monitor_s=monitor_s,
        failure_action=action,
        max_failure_ratio=ratio,
        canary=strategy if isinstance(strategy, Canary) else None,
        blue_green=strategy if isinstance(strategy, BlueGreen) else None,
    ),
    st.one_of(st.none(), canaries, blue_greens),
    st.integers(min_value=0, max_value=2),
    st.sampled_from([0.0, 7.0]),
    st.sampled_from([0.0, 3.0]),
    st.sampled_from(FailureAction),
    st.sampled_from([0.0, 0.5]),
)
happening = st.tuples(
    st.sampled_from(
        [
            *("act", "act", "act", "act", "decide", "decide", "wait", "leader", "crash", "fail", "sicken", "silent"),
            *("down", "back", "update", "rollback", "pause", "resume", "promote", "scale"),
        ]
    ),
    st.integers(min_value=0, max_value=5),
)


def spec(image: str, policy: UpdatePolicy) -> JobSpec:
    return with_task(web(image, REPLICAS, update=policy), health_check=CHECK)


def started(policy: UpdatePolicy) -> World:
    world = World(spec("web:1", UpdatePolicy(monitor_s=0.0)))
    world.settle()
    world.up(spec("web:2", policy))
    return world


def happen(world: World, kind: str, number: int, policy: UpdatePolicy) -> None:
    placed = [task for task in world.tasks() if task.node_id]
    match kind:
        case "update":
            world.up(spec(f"web:{number + 1}", policy))
        case "rollback" | "pause" | "resume" | "promote":
            steer(world, kind, number)
        case "scale":
            targets = (ScaleTarget(job="web", replicas=1 + number),)
            world.write(scale(world.state, ScaleRequest(namespace="shop", targets=targets), world.now_s))
        case "leader":
            world.state = State.of(list(world.state.records()))
            world.rng = random.Random(world.rng.getrandbits(64))
        case "crash" if placed:
            task = placed[number % len(placed)]
            world.see(task, TaskState.RESTARTING, attempt=max(1, task.status.attempt), message="exit 3")
        case "fail" if placed:
            world.see(placed[number % len(placed)], TaskState.FAILED, attempt=9, message="exit 1")
        case "sicken" if placed:
            sicken(world, placed[number % len(placed)])
        case "silent" | "down" | "back":
            status = {"silent": NodeStatus.UNREACHABLE, "down": NodeStatus.DOWN, "back": NodeStatus.READY}[kind]
            world.node(NODES[number % len(NODES)], status)
        case "act":
            act(world, number)
        case "wait":
            world.now_s += 10.0 * number
        case _:
            decide(world)
    world.now_s += number / 4


def sicken(world: World, task: Task) -> None:
    if task.status.state is TaskState.RUNNING:
        world.see(task, TaskState.RUNNING, attempt=task.status.attempt, health=Health.UNHEALTHY)


def steer(world: World, kind: str, number: int) -> None:
    """A command, which may be refused; then it changed nothing."""
    jobs = JobsRequest(namespace="shop", jobs=("web",))
    try:
        match kind:
            case "rollback":
                request = RollbackRequest(namespace="shop", job="web", version=number // 2)
                world.write(rollback(world.state, request, world.now_s))
            case "pause":
                world.write(pause(world.state, jobs))
            case "resume":
                world.write(resume(world.state, jobs, world.now_s))
            case _:
                world.write(promote(world.state, jobs, world.now_s))
    except (Conflict, NotFound):
        pass


def act(world: World, number: int) -> None:
    """One pending task is placed, or one agent does one thing."""
    for task in world.tasks():
        if not task.node_id:
            world.assign(task, NODES[number % len(NODES)])
            return
        if task.desired is DesiredState.STOP:
            world.see(task, TaskState.STOPPED)
            return
        if task.status.state is not TaskState.RUNNING or task.status.health is not Health.HEALTHY:
            attempt = task.status.attempt + (task.status.state is TaskState.RESTARTING)
            health = Health.HEALTHY if number % 4 else Health.STARTING
            world.see(task, TaskState.RUNNING, attempt=max(1, attempt), health=health)
            return


def wanted(world: World) -> list[Task]:
    return [task for task in world.tasks() if task.desired is DesiredState.RUN and not task.lost_at_s]


def well(world: World) -> set[int]:
    """Slots of the job that have a task which does its work."""
    return {
        task.slot
        for task in wanted(world)
        if task.slot <= world.job().replicas
        and good(task, world.state.spec_of_task(task), world.conditions, world.now_s)
    }


def decide(world: World) -> tuple[Decision, ...]:
    before, rollout = well(world), world.job().rollout
    decisions = world.decide()
    assert well(world) >= before, decisions
    check_steps(rollout and rollout.phase, world)
    return decisions


def check_steps(before: RolloutPhase | None, world: World) -> None:
    """What is stored follows the table: what has ended stays so, and a paused rollout stands."""
    rollout = world.job().rollout
    assert rollout is not None
    assert rollout.version == world.job().version
    if before in machine.ENDED:
        assert rollout.phase is before, "what has ended stays as it is"
    assert all(past.phase in machine.ENDED for past in world.job().past_rollouts)


def calm(world: World) -> None:
    """Faults stop; somebody resumes what was paused and promotes what waits."""
    for node in NODES:
        world.node(node, NodeStatus.READY)
    for task in world.tasks():
        if task.status.state is TaskState.RESTARTING or task.status.health is Health.UNHEALTHY:
            world.see(task, TaskState.RUNNING, attempt=task.status.attempt + 1, health=Health.HEALTHY)
    for _ in range(20):
        for command in ("resume", "promote"):
            steer(world, command, 0)
        imagined = Imagination(world.state, world.conditions, world.now_s, world.rng, InTurn(), promotes=True)
        imagined.run(list(world.state.jobs))
        world.state, world.now_s = imagined.state, imagined.now_s
        if machine.over(world.job().rollout):
            return


@settings(max_examples=120, deadline=None)
@given(policies, st.lists(happening, max_size=60))
def test_no_decision_takes_a_replica_away_and_every_rollout_ends(
    policy: UpdatePolicy, events: list[tuple[str, int]]
) -> None:
    world = started(policy)
    for kind, number in events:
        happen(world, kind, number, policy)
    calm(world)
    job = world.job()
    assert job.rollout is not None
    assert job.rollout.phase is RolloutPhase.DONE, job
    assert job.good_version == job.version
    assert [task.slot for task in wanted(world)] == list(range(1, job.replicas + 1))
    assert {task.version for task in wanted(world)} == {job.version}
    assert world.decide() == (), "what is through needs nothing more"


@settings(max_examples=40, deadline=None)
@given(policies)
def test_undisturbed_every_replica_stays_well_all_the_time(policy: UpdatePolicy) -> None:
    world = started(policy)
    imagined = Imagination(world.state, world.conditions, world.now_s, world.rng, InTurn(), promotes=True)
    rounds = imagined.run([world.job().id])
    assert min(entry.healthy for entry in rounds) == REPLICAS
    (job,) = imagined.state.jobs.values()
    assert job.good_version == 2


@settings(max_examples=40, deadline=None)
@given(policies, st.lists(st.integers(min_value=0, max_value=5), max_size=30))
def test_a_version_that_always_crashes_is_left_and_every_old_task_is_still_the_same(
    policy: UpdatePolicy, numbers: list[int]
) -> None:
    """It crashes as soon as it starts, so nothing of the old version ever has a reason to go."""
    world = started(policy)
    before = {task.id for task in world.tasks() if task.version == 1}
    rolled_back = False
    for number in (*numbers, *range(40)):
        for task in world.tasks():
            if task.version == 2 and task.desired is DesiredState.RUN:
                world.see(task if task.node_id else world.assign(task, "n1"), TaskState.RESTARTING, message="exit 3")
            elif task.desired is DesiredState.STOP:
                world.see(task, TaskState.STOPPED)
        rolled_back |= any(isinstance(decision, RollBack) for decision in decide(world))
        world.now_s += 5.0 * (number % 6)
    left = {task.id for task in wanted(world) if task.version == 1}
    assert left == before
    if policy.failure_action is FailureAction.ROLLBACK and not policy.max_failure_ratio:
        assert rolled_back
        assert world.job().version == 1
