"""Jobs whose tasks end: whose turn it is, what counts, when it is over, and that it costs what runs of it."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.api import ApplyRequest, JobsRequest, JobStatus, JobView, ScaleRequest, ScaleTarget
from common.model.job import (
    BatchPolicy,
    Dependency,
    DependencyCondition,
    DesiredState,
    JobMode,
    JobSpec,
    RestartCondition,
    RestartPolicy,
)
from common.model.node import NodeStatus
from common.model.task import Task, TaskState
from common.validation import faults
from controller.core import batch
from controller.core.apply import apply_specs, restart, scale, stop
from controller.core.decisions import Count, Create
from controller.core.plan import plan
from controller.core.turns import at_once
from controller.core.views import job_view
from controller.scheduler.node_table import build_table
from controller.spans import Spans
from controller.state import State, Write
from controller.store.keys import decode, encode, key_of
from tests.world import NODES, World, web, with_task

ON_FAILURE = RestartPolicy(condition=RestartCondition.ON_FAILURE)


def job(replicas: int, *, mode: JobMode = JobMode.BATCH, **policy: object) -> JobSpec:
    spec = with_task(web(replicas=replicas, mode=mode), restart=ON_FAILURE)
    return msgspec.structs.replace(spec, batch=BatchPolicy(**policy))  # type: ignore[arg-type]


def view(world: World) -> JobView:
    return job_view(world.state, world.job(), world.conditions, world.now_s)


def live(world: World) -> list[int]:
    return [task.slot for task in world.tasks()]


def end(world: World, slot: int, state: TaskState = TaskState.COMPLETE, node: str = "n1") -> None:
    task = world.task(slot)
    world.see(task if task.node_id else world.assign(task, node), state, message="exit 1")


def at_rest(world: World) -> None:
    while world.decide():
        pass


# --- spans


@given(st.sets(st.integers(min_value=1, max_value=60)), st.integers(min_value=0, max_value=60))
def test_spans_are_a_set_of_numbers(numbers: set[int], last: int) -> None:
    spans = Spans().with_numbers(numbers)
    assert Spans.of(str(spans)) == spans
    assert list(spans) == sorted(numbers)
    assert len(spans) == len(numbers)
    assert [number for number in range(1, 61) if number in spans] == sorted(numbers)
    assert list(spans.missing(last)) == [number for number in range(1, last + 1) if number not in numbers]
    assert list(spans.within(last)) == sorted(number for number in numbers if number <= last)


@given(st.sets(st.integers(min_value=1, max_value=60)), st.sets(st.integers(min_value=1, max_value=60)))
def test_spans_together(one: set[int], other: set[int]) -> None:
    both = Spans().with_numbers(one).with_spans_of(Spans().with_numbers(other))
    assert both == Spans().with_numbers(one | other)


# --- turns


def test_so_many_at_a_time_the_next_when_one_ends() -> None:
    world = World(job(5, parallelism=2))
    at_rest(world)
    assert live(world) == [1, 2]
    end(world, 2)
    at_rest(world)
    assert live(world) == [1, 3]
    end(world, 1)
    end(world, 3)
    at_rest(world)
    assert live(world) == [4, 5]
    assert (view(world).status, view(world).succeeded, view(world).message) == (
        JobStatus.PROGRESSING,
        3,
        "3 of 5 completed",
    )
    end(world, 4)
    end(world, 5)
    at_rest(world)
    assert view(world).status is JobStatus.COMPLETE
    assert world.job().progress.succeeded == "1-5"
    assert world.job().good_version == world.job().version


def test_without_parallelism_all_run_at_once() -> None:
    world = World(job(5))
    at_rest(world)
    assert live(world) == [1, 2, 3, 4, 5]


def test_a_slot_that_is_tried_again_keeps_its_turn() -> None:
    world = World(job(4, parallelism=2, attempts=3))
    at_rest(world)
    end(world, 1, TaskState.FAILED)
    at_rest(world)
    assert live(world) == [1, 2]
    end(world, 1, TaskState.FAILED)
    at_rest(world)
    assert live(world) == [2], "waits for its back-off, and nobody else takes its turn"
    world.now_s += 60
    at_rest(world)
    assert live(world) == [1, 2]


def test_a_slot_fails_after_its_attempts_and_the_others_go_on() -> None:
    world = World(job(3, attempts=2))
    for _ in range(2):
        at_rest(world)
        end(world, 2, TaskState.FAILED)
        world.now_s += 60
    at_rest(world)
    assert live(world) == [1, 3]
    assert view(world).status is JobStatus.PROGRESSING
    assert view(world).message == "0 of 3 completed, 1 failed; the last: web.2 failed: exit 1"
    end(world, 1)
    end(world, 3)
    at_rest(world)
    assert (view(world).status, view(world).succeeded, view(world).failed) == (JobStatus.FAILED, 2, 1)
    assert world.job().good_version == 0


def test_attempts_are_counted_anew_for_another_version_and_failures_long_ago_still_count() -> None:
    world = World(job(1, attempts=2))
    at_rest(world)
    end(world, 1, TaskState.FAILED)
    at_rest(world)
    world.see(world.assign(world.task(1), "n2"), TaskState.RUNNING)
    world.now_s += 10_000
    at_rest(world)
    end(world, 1, TaskState.FAILED)
    at_rest(world)
    assert view(world).status is JobStatus.FAILED
    world.now_s += 1
    world.write(restart(world.state, JobsRequest(namespace="shop", jobs=("web",)), world.now_s))
    at_rest(world)
    end(world, 1, TaskState.FAILED)
    at_rest(world)
    assert view(world).status is JobStatus.PROGRESSING


def test_a_task_that_is_lost_with_its_node_costs_no_attempt() -> None:
    world = World(job(1))
    at_rest(world)
    world.see(world.assign(world.task(1), "n1"), TaskState.RUNNING)
    world.node("n1", NodeStatus.DOWN)
    at_rest(world)
    (replacement,) = [task for task in world.tasks() if not task.lost_at_s]
    world.see(world.assign(replacement, "n2"), TaskState.COMPLETE)
    at_rest(world)
    assert view(world).status is JobStatus.COMPLETE
    world.node("n1", NodeStatus.READY)
    at_rest(world)
    (original,) = world.tasks()
    assert (original.desired, original.node_id) == (DesiredState.STOP, "n1")


def test_restart_condition_none_leaves_it_to_the_attempts() -> None:
    spec = with_task(job(1, attempts=2), restart=RestartPolicy(condition=RestartCondition.NONE))
    world = World(spec)
    at_rest(world)
    end(world, 1, TaskState.FAILED)
    at_rest(world)
    assert live(world) == [1]


# --- deadline


def test_what_has_not_ended_by_the_deadline_is_stopped() -> None:
    world = World(job(3, parallelism=2, deadline_s=600.0))
    at_rest(world)
    assert world.reconcile().wake_at_s == world.now_s + 600
    end(world, 1)
    world.now_s += 599
    at_rest(world)
    assert live(world) == [2, 3]
    world.see(world.assign(world.task(2), "n1"), TaskState.RUNNING)
    world.now_s += 1
    at_rest(world)
    assert [(task.slot, task.desired) for task in world.tasks()] == [(2, DesiredState.STOP)]
    assert view(world).status is JobStatus.FAILED
    assert view(world).message == "its deadline of 600 s passed: 1 of 3 completed"
    assert world.tasks()[0].reason == "its deadline of 600 s passed"


def test_what_was_through_in_time_is_complete_however_late_it_is_looked_at() -> None:
    world = World(job(1, deadline_s=600.0))
    at_rest(world)
    end(world, 1)
    world.now_s += 10_000
    at_rest(world)
    assert view(world).status is JobStatus.COMPLETE


def test_waiting_for_others_does_not_count_towards_the_deadline() -> None:
    world = World(msgspec.structs.replace(job(1, deadline_s=60.0), depends_on=(Dependency(job="none"),)))
    at_rest(world)
    world.now_s += 1_000
    at_rest(world)
    assert world.job().progress.expired_at_s == 0


def test_a_stopped_job_goes_on_where_it_was_and_an_expired_one_anew() -> None:
    world = World(job(2, parallelism=1, deadline_s=60.0))
    at_rest(world)
    end(world, 1)
    at_rest(world)
    world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
    at_rest(world)
    world.up(job(2, parallelism=1, deadline_s=60.0))
    at_rest(world)
    assert live(world) == [2]
    world.now_s += 60
    at_rest(world)
    assert view(world).status is JobStatus.FAILED
    world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
    at_rest(world)
    world.up(job(2, parallelism=1, deadline_s=60.0))
    at_rest(world)
    assert live(world) == [2]
    assert world.job().progress.started_at_s == world.now_s


# --- what changes


def test_more_replicas_open_a_job_again_and_fewer_end_it() -> None:
    world = World(job(2))
    world.settle()
    assert world.job().progress.ended_at_s
    world.write(scale(world.state, ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=4),)), 1.0))
    at_rest(world)
    assert live(world) == [3, 4]
    assert not world.job().progress.ended_at_s
    world.write(scale(world.state, ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=1),)), 1.0))
    at_rest(world)
    assert live(world) == []
    assert (view(world).status, view(world).succeeded) == (JobStatus.COMPLETE, 1)


def test_a_job_that_waits_for_its_completion_starts_when_the_last_slot_is_counted() -> None:
    after = Dependency(job="web", condition=DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY)
    world = World(job(30, parallelism=3), web(name="api", replicas=1, depends_on=(after,)))
    world.decide("api")
    assert world.tasks("api") == []
    world.settle()
    assert len(world.tasks("api")) == 1


def test_who_waits_for_a_job_that_failed_is_told_so() -> None:
    after = Dependency(job="web", condition=DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY)
    world = World(job(1), web(name="api", replicas=1, depends_on=(after,)))
    at_rest(world)
    end(world, 1, TaskState.FAILED)
    at_rest(world)
    message = job_view(world.state, world.job("api"), world.conditions, world.now_s).message
    assert message == (
        "waits for shop/web to be complete, which ended and has failed: restart it when the cause is gone"
    )


# --- on every node


def test_a_global_job_runs_once_on_each_node_that_fits() -> None:
    world = World(job(1, mode=JobMode.DAEMON_BATCH, parallelism=2))
    at_rest(world)
    assert [task.only_node for task in world.tasks()] == ["n1", "n2"]
    world.settle()
    assert (view(world).status, view(world).succeeded, view(world).desired) == (JobStatus.COMPLETE, 3, 3)
    assert live(world) == []
    at_rest(world)
    assert live(world) == []


# --- bounds


def test_ten_thousand_tasks_of_which_some_fail_end_with_the_right_counts_over_restarts() -> None:
    """1 % of the slots fail each time they run; every 40 rounds the controller is another one, with what is stored."""
    world = World(job(10_000, parallelism=250, attempts=2))
    rng = random.Random(7)
    most_tasks = most_bytes = rounds = 0
    while not world.job().progress.ended_at_s:
        rounds += 1
        world.decide()
        world.now_s += 1
        for task in world.tasks():
            if not task.node_id:
                world.assign(task, NODES[task.slot % 3])
            elif rng.random() < 0.7:
                world.see(task, TaskState.FAILED if task.slot % 100 == 0 else TaskState.COMPLETE, message="exit 1")
        most_tasks = max(most_tasks, len(world.state.tasks))
        if rounds % 40 == 0:
            stored = {key_of(record): encode(record) for record in world.state.records()}
            most_bytes = max(most_bytes, sum(map(len, stored.values())))
            world.state = State.of(decode(key, value) for key, value in stored.items())
        assert rounds < 2_000
    at_rest(world)
    assert (view(world).status, view(world).succeeded, view(world).failed) == (JobStatus.FAILED, 9_900, 100)
    assert list(Spans.of(world.job().progress.failed)) == list(range(100, 10_001, 100))
    assert most_tasks <= 250 * 2 + 100
    assert most_bytes <= 600 * 1024
    assert len(world.state.tasks) <= 40
    assert len(world.state.slots_of(world.job().id)) <= 40


def test_a_look_costs_what_runs_and_not_what_is_through() -> None:
    """Counted in tasks read: nothing of the 9,950 slots that are through is."""
    world = World(job(10_000, parallelism=50))
    done = msgspec.structs.replace(world.job().progress, version=1, started_at_s=1.0, succeeded="1-9950")
    world.state.apply(Write(msgspec.structs.replace(world.job(), progress=done)))
    creates = [decision for decision in world.decide() if isinstance(decision, Create)]
    assert [create.slot for create in creates] == list(range(9_951, 10_001))
    assert len(world.state.tasks) == 50
    end(world, 9_960)
    (count,) = world.decide()
    assert isinstance(count, Count)
    assert count.progress.succeeded == "1-9950,9960"


# --- said beforehand


def test_a_plan_says_how_it_ends() -> None:
    world = World()
    table = build_table((world.state.nodes[name], world.conditions[name]) for name in NODES)
    request = ApplyRequest(namespace="shop", specs=(job(5, parallelism=2),))
    planned = at_once(plan(world.state, world.conditions, table, request, world.now_s, world.rng))
    assert planned.steps[-1].text == "5 of 5 completed"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (msgspec.structs.replace(web(), batch=BatchPolicy(deadline_s=1.0)), "batch.deadline_s"),
        (job(1, attempts=0), "batch.attempts"),
        (job(1, attempts=101), "batch.attempts"),
        (job(1, parallelism=-1), "batch.parallelism"),
        (job(1, deadline_s=-1.0), "batch.deadline_s"),
    ],
)
def test_what_cannot_be_is_refused(spec: JobSpec, path: str) -> None:
    assert [fault.path for fault in faults(spec)] == [path]


def test_progress_of_another_version_counts_for_nothing() -> None:
    world = World(job(1))
    world.settle()
    changed = with_task(job(1), container=msgspec.structs.replace(job(1).task.container, image="web:2"))
    world.write(apply_specs(world.state, ApplyRequest(namespace="shop", specs=(changed,)), world.now_s, world.rng))
    assert batch.progress_of(world.job()).succeeded == ""
    at_rest(world)
    tasks: list[Task] = world.tasks()
    assert [task.version for task in tasks] == [2]
