"""How jobs, tasks and nodes are shown: one word each, and why."""

from __future__ import annotations

import msgspec

from common.model.api import JobsRequest, JobStatus, JobView
from common.model.device import DeviceGrant
from common.model.job import Dependency, JobMode
from common.model.node import NodeStatus
from common.model.resources import Resources
from common.model.task import Attempt, Health, Slot, TaskState
from common.model.verdict import Verdict
from controller.core.apply import remove, stop
from controller.core.views import job_view, node_detail, node_view, task_view
from controller.state import Write
from tests.world import CHECK, World, web, with_task


def view(world: World, name: str = "web", verdicts: dict[str, Verdict] | None = None) -> JobView:
    return job_view(world.state, world.job(name), world.conditions, world.now_s, verdicts)


class TestJobs:
    def test_that_run_well(self) -> None:
        world = World(web())
        world.settle()
        shown = view(world)
        assert (shown.status, shown.desired, shown.running, shown.healthy) == (JobStatus.RUNNING, 3, 3, 3)
        assert shown.message == ""

    def test_on_their_way(self) -> None:
        world = World(web())
        world.decide()
        assert (view(world).status, view(world).message) == (JobStatus.PROGRESSING, "3 of 3 replicas are on their way")

    def test_that_wait_for_others_say_for_whom(self) -> None:
        world = World(web(depends_on=(Dependency(job="api"),)))
        assert view(world).message == "waits for shop/api, which does not exist"

    def test_that_fit_nowhere_say_why(self) -> None:
        world = World(web(replicas=1))
        world.decide()
        shown = view(world, verdicts={world.task(1).id: Verdict(subject="web", verdict="no node has 99 cores")})
        assert (shown.status, shown.message) == (JobStatus.DEGRADED, "no node has 99 cores")

    def test_that_keep_failing_say_how(self) -> None:
        world = World(web(replicas=1))
        world.decide()
        task = world.assign(world.task(1), "n1")
        world.see(task, TaskState.FAILED, attempt=5, message="exit 3")
        world.decide()
        memory = world.state.slot_of(task.job_id, 1)
        attempt = Attempt(task_id=task.id, number=5, message="exited with code 3")
        world.state.apply(Write(msgspec.structs.replace(memory, attempts=(attempt,))))
        assert view(world).status is JobStatus.DEGRADED
        assert view(world).message == "web.1 failed once: exited with code 3"

    def test_whose_rollout_went_back_run_and_say_so(self) -> None:
        world = World(web())
        world.settle()
        world.up(web("web:2"))
        world.decide()
        new = next(task for task in world.tasks() if task.version == 2)
        world.see(world.assign(new, "n1"), TaskState.RESTARTING, message="exit 3")
        world.decide()
        world.settle()
        assert view(world).status is JobStatus.RUNNING
        assert "version 2 was rolled back to 1" in view(world).message

    def test_that_completed_or_failed_for_good(self) -> None:
        batch = web(mode=JobMode.BATCH, replicas=1)
        world = World(batch)
        world.settle()
        assert view(world).status is JobStatus.COMPLETE
        world = World(batch)
        world.decide()
        world.see(world.assign(world.task(1), "n1"), TaskState.FAILED, message="exit 1")
        world.decide()
        assert (view(world).status, view(world).message) == (JobStatus.FAILED, "web.1 failed: exit 1")

    def test_that_are_stopped_or_go(self) -> None:
        world = World(web())
        world.settle()
        world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
        world.decide()
        assert view(world).message == "stopped, 3 tasks are still stopping"
        world.settle()
        assert (view(world).status, view(world).desired, view(world).message) == (JobStatus.STOPPED, 0, "")
        world.write(remove(world.state, JobsRequest(namespace="shop", jobs=("web",))))
        assert view(world).message == "being removed"


class TestTasks:
    def test_of_a_silent_node_are_of_unknown_health_and_not_counted_healthy(self) -> None:
        world = World(with_task(web(), health_check=CHECK))
        world.settle()
        task = world.task(1)
        world.node(task.node_id, NodeStatus.UNREACHABLE)
        assert task_view(world.state, task, world.conditions).health is Health.UNKNOWN
        assert view(world).healthy == 2

    def test_given_up_are_lost_and_say_why(self) -> None:
        world = World(web())
        world.settle()
        task = world.task(1)
        world.node(task.node_id, NodeStatus.DOWN)
        world.decide()
        shown = task_view(world.state, world.state.tasks[task.id], world.conditions)
        assert (shown.state, shown.message) == (TaskState.LOST, "its node is down")

    def test_that_run_have_no_message(self) -> None:
        world = World(web())
        world.settle()
        assert task_view(world.state, world.task(1), world.conditions).message == ""


def test_a_node_shows_what_is_set_aside_until_its_tasks_have_ended() -> None:
    world = World(with_task(web(), reservations=Resources(cpu_millis=500)))
    world.settle()
    task = world.task(1)
    world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
    world.decide()
    shown = node_view(world.state, world.state.nodes[task.node_id], world.conditions[task.node_id])
    assert (shown.reserved.cpu_millis, shown.tasks) == (500, 0)
    world.see(world.state.tasks[task.id], TaskState.STOPPED)
    shown = node_view(world.state, world.state.nodes[task.node_id], None)
    assert shown.reserved.cpu_millis == 0


def test_a_node_that_is_inspected_shows_who_holds_its_devices_until_they_have_ended() -> None:
    world = World(web(replicas=2))
    world.decide()
    for slot, share_millis in ((1, 300), (2, 700)):
        grant = DeviceGrant(kind="gpu", id="0", share_millis=share_millis)
        world.state.apply(Write(msgspec.structs.replace(world.task(slot), node_id="n1", devices=(grant,))))
    first, second = world.task(1), world.task(2)
    node = world.state.nodes[first.node_id]
    held = node_detail(world.state, node, None).device_holders
    assert [(holder.job, holder.slot, holder.task_id, holder.grant.share_millis) for holder in held] == [
        ("shop/web", 1, first.id, 300),
        ("shop/web", 2, second.id, 700),
    ]
    assert node_view(world.state, node, None).device_holders == (), "lists of nodes stay short"
    world.see(world.state.tasks[first.id], TaskState.STOPPED)
    (left,) = node_detail(world.state, node, None).device_holders
    assert left.task_id == second.id


def test_the_memory_of_a_slot_is_shown_also_when_it_has_no_task() -> None:
    world = World(web())
    world.state.apply(Write(Slot(job_id=world.job().id, slot=1, failures=2)))
    assert "failed 2 times" in view(world).message
