"""What a reconciliation decides, case by case: one state in, the decisions out."""

from __future__ import annotations

import msgspec
import pytest

from common.model.api import JobsRequest, RollbackRequest, ScaleRequest, ScaleTarget
from common.model.job import (
    Container,
    Dependency,
    DependencyCondition,
    DesiredState,
    FailureAction,
    JobMode,
    JobSpec,
    Port,
    PublishMode,
    TaskSpec,
    UpdateOrder,
    UpdatePolicy,
)
from common.model.node import Availability, Node, NodeCondition, NodeStatus
from common.model.rollout import RolloutPhase
from common.model.task import Attempt, Health, Slot, TaskState
from controller.core import batch
from controller.core.apply import remove, restart, scale, stop
from controller.core.decisions import (
    Count,
    Create,
    Fail,
    Forget,
    Forgive,
    Lose,
    Pause,
    Recover,
    RollBack,
    Settle,
    Stop,
)
from controller.core.steer import rollback
from controller.state import Write
from tests.world import AT_ONCE, CHECK, NODES, World, acts, kinds, rollout_of, web, with_task


def test_empty_slots_are_filled_and_a_second_pass_decides_nothing() -> None:
    world = World(web())
    assert [decision.slot for decision in world.decide() if isinstance(decision, Create)] == [1, 2, 3]
    assert world.decide() == ()


def test_scaling_down_stops_the_highest_slots() -> None:
    world = World(web(replicas=5))
    world.settle()
    world.write(scale(world.state, ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=2),)), 0.0))
    stopped = {decision.task.slot for decision in world.decide() if isinstance(decision, Stop)}
    assert stopped == {3, 4, 5}


def test_a_pending_task_that_is_not_wanted_disappears_at_once() -> None:
    world = World(web(replicas=1))
    world.decide()
    world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
    world.decide()
    assert world.tasks(live=False) == []


class TestFailure:
    def test_the_first_failed_task_is_replaced_at_once_and_its_node_remembered(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        failed = world.task(1)
        world.see(failed, TaskState.FAILED, attempt=5, message="exit 1")
        assert kinds(world.decide()) == [Fail, Create]
        assert world.state.slot_of(world.job().id, 1).failed_nodes == (failed.node_id,)

    def test_later_replacements_wait_longer_and_the_pass_says_until_when(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        waits_s = []
        for _ in range(4):
            world.see(world.task(1), TaskState.FAILED, attempt=5)
            failed_at_s = world.now_s
            while Create not in kinds(world.decide()):
                world.now_s = max(world.now_s, min(world.reconcile().wake_at_s, failed_at_s + 60))
            waits_s.append(world.now_s - failed_at_s)
            world.settle()
        assert waits_s == [0.0, 1.0, 2.0, 4.0]

    def test_a_slot_that_runs_well_long_enough_is_forgiven(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        world.see(world.task(1), TaskState.FAILED, attempt=5)
        world.decide()
        world.settle()
        assert world.decide() == ()
        world.now_s = world.reconcile().wake_at_s
        assert kinds(world.decide()) == [Forgive]

    def test_a_new_version_is_not_held_back_by_what_failed_before_it(self) -> None:
        world = World(web(replicas=1))
        for _ in range(6):
            world.settle()
            world.see(world.task(1), TaskState.FAILED, attempt=5)
            world.decide()
            world.now_s += 60
        assert world.state.slot_of(world.job().id, 1).failures == 6
        world.up(web("web:2", replicas=1))
        world.decide()
        assert world.state.slot_of(world.job().id, 1).failures == 0
        assert world.state.slot_of(world.job().id, 1).failed_nodes == ()
        assert [task.version for task in world.tasks()] == [2]

    def test_a_new_version_of_a_run_begins_although_it_came_under_a_leader_whose_clock_was_behind(self) -> None:
        """Found by the simulation: its failures seemed to be later, and such a slot would never have run again."""
        run = msgspec.structs.replace(web(replicas=1), mode=JobMode.BATCH)
        world = World(run)
        for _ in range(3):
            world.settle()
            if live := world.tasks():
                world.see(live[0], TaskState.FAILED, attempt=5)
            world.decide()
            world.now_s += 60
        slot = world.state.slot_of(world.job().id, 1)
        world.state.apply(Write(msgspec.structs.replace(slot, failures=3, failed_at_s=world.now_s)))
        world.now_s -= 86_400
        container = msgspec.structs.replace(run.task.container, image="web:2")
        world.up(msgspec.structs.replace(run, task=msgspec.structs.replace(run.task, container=container)))
        world.now_s += 86_460
        world.decide()
        assert [task.version for task in world.tasks()] == [2]

    def test_a_service_task_that_completed_rests(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        world.see(world.task(1), TaskState.COMPLETE)
        assert world.decide() == ()


class TestNodes:
    def test_tasks_of_a_down_node_are_lost_and_replaced_in_one_pass(self) -> None:
        world = World(web())
        world.settle()
        lost = world.task(1)
        world.node(lost.node_id, NodeStatus.DOWN)
        assert kinds(world.decide()) == [Lose, Create]
        assert world.state.tasks[lost.id].state is TaskState.LOST

    @pytest.mark.parametrize("status", [NodeStatus.DISCONNECTED, NodeStatus.UNREACHABLE])
    def test_a_silent_node_that_is_not_down_loses_nothing(self, status: NodeStatus) -> None:
        world = World(web())
        world.settle()
        world.node("n1", status)
        assert world.decide() == ()

    def test_a_node_nobody_judged_yet_loses_nothing(self) -> None:
        world = World(web())
        world.settle()
        world.conditions.clear()
        assert world.decide() == ()

    def test_the_original_is_kept_when_it_returns_before_its_replacement_is_good(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        original = world.task(1)
        world.node(original.node_id, NodeStatus.DOWN)
        world.decide()
        world.node(original.node_id, NodeStatus.READY)
        assert Recover in kinds(world.decide())
        world.decide()
        assert [task.id for task in world.tasks()] == [original.id]
        assert world.decide() == ()

    def test_the_original_is_stopped_when_its_replacement_is_already_good(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        original = world.task(1)
        world.node(original.node_id, NodeStatus.DOWN)
        world.decide()
        (replacement,) = [task for task in world.tasks() if task.id != original.id]
        world.see(world.assign(replacement, "n3"), TaskState.RUNNING)
        world.now_s += 10
        world.node(original.node_id, NodeStatus.READY)
        (stopped,) = [decision for decision in world.decide() if isinstance(decision, Stop)]
        assert stopped.task.id == original.id

    def test_an_original_that_a_rollback_finds_again_is_all_that_its_slot_gets(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        original = world.task(1)
        world.node(original.node_id, NodeStatus.DOWN)
        world.decide()
        world.up(web("web:2", replicas=1))
        world.decide()
        world.decide()
        (newer,) = [task for task in world.tasks() if task.id != original.id]
        world.assign(newer, "n3")
        world.write(rollback(world.state, RollbackRequest(namespace="shop", job="web", version=1), world.now_s))
        world.node(original.node_id, NodeStatus.READY)
        assert kinds(world.decide()) == [Recover, Stop]
        assert [task.id for task in world.tasks() if task.desired is DesiredState.RUN] == [original.id]

    def test_a_lost_task_of_a_stopped_job_is_not_revived(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        original = world.task(1)
        world.node(original.node_id, NodeStatus.DOWN)
        world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
        world.decide()
        world.node(original.node_id, NodeStatus.READY)
        assert kinds(world.decide()) == [Stop]

    def test_of_two_tasks_of_a_slot_that_return_one_stays(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        first = world.task(1)
        world.node(first.node_id, NodeStatus.DOWN)
        world.decide()
        second = world.assign(next(task for task in world.tasks() if not task.node_id), "n3")
        world.see(second, TaskState.RUNNING)
        world.node("n3", NodeStatus.DOWN)
        world.decide()
        world.conditions = {name: NodeCondition(node_id=name, status=NodeStatus.READY) for name in NODES}
        returned = [decision for decision in world.decide() if isinstance(decision, Recover | Stop)]
        assert [(type(one), one.task.id) for one in returned if one.task.id in (first.id, second.id)] == [
            (Recover, first.id),
            (Stop, second.id),
        ]
        assert world.decide() == ()

    def test_draining_moves_tasks_new_before_old(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        old = world.task(1)
        node = world.state.nodes[old.node_id]
        world.state.apply(Write(msgspec.structs.replace(node, availability=Availability.DRAINING)))
        assert kinds(world.decide()) == [Create]


class TestRollout:
    def test_slots_change_one_by_one_and_old_tasks_stay_until_the_new_are_good(self) -> None:
        world = World(with_task(web(update=AT_ONCE), health_check=CHECK))
        world.settle()
        world.up(with_task(web("web:2", update=AT_ONCE), health_check=CHECK))
        (created,) = world.decide()
        assert isinstance(created, Create)
        new = next(task for task in world.tasks() if task.version == 2)
        new = world.assign(new, "n1")
        world.see(new, TaskState.RUNNING, health=Health.STARTING)
        assert world.decide() == ()
        world.see(world.state.tasks[new.id], TaskState.RUNNING, health=Health.HEALTHY)
        stopped, begun = acts(world.decide())
        assert isinstance(stopped, Stop)
        assert stopped.task.slot == new.slot
        assert stopped.task.version == 1
        assert isinstance(begun, Create)
        assert begun.slot != new.slot

    def test_it_ends_with_every_slot_on_the_new_version_and_says_so_once(self) -> None:
        world = World(web())
        world.settle()
        world.up(web("web:2"))
        world.settle()
        assert {task.version for task in world.tasks()} == {2}
        assert world.job().good_version == 2

    def test_without_a_health_check_a_task_passes_when_it_was_up_for_as_long_as_it_is_monitored(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        world.up(web("web:2", replicas=1, update=UpdatePolicy(monitor_s=20.0)))
        world.decide()
        new = world.assign(next(task for task in world.tasks() if task.version == 2), "n1")
        world.see(new, TaskState.RUNNING)
        world.now_s += 19.9
        assert world.decide() == ()
        assert world.reconcile().wake_at_s == pytest.approx(world.now_s + 0.1)
        world.now_s += 0.2
        assert kinds(acts(world.decide())) == [Stop]
        world.settle()
        assert world.job().good_version == 2

    def test_a_version_that_crashes_while_it_is_monitored_is_rolled_back(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        world.up(web("web:2", replicas=1))
        world.decide()
        new = world.assign(next(task for task in world.tasks() if task.version == 2), "n1")
        world.see(new, TaskState.RUNNING)
        world.now_s += 4
        assert world.decide() == ()
        world.see(world.state.tasks[new.id], TaskState.RESTARTING, message="exited with code 1")
        (back,) = world.decide()
        assert isinstance(back, RollBack)
        assert back.version == 1

    def test_parallelism_bounds_how_many_slots_change(self) -> None:
        world = World(web(replicas=6))
        world.settle()
        world.up(web("web:2", replicas=6, update=UpdatePolicy(parallelism=4)))
        assert kinds(world.decide()) == [Create] * 4
        assert world.decide() == ()

    @pytest.mark.parametrize(
        "spec",
        [
            web("web:2", update=UpdatePolicy(order=UpdateOrder.STOP_FIRST)),
            with_task(web("web:2"), ports=(Port(container_port=80, published_port=80, mode=PublishMode.HOST),)),
        ],
    )
    def test_stop_first_frees_the_slot_before_it_fills_it(self, spec: JobSpec) -> None:
        world = World(web())
        world.settle()
        world.up(spec)
        assert kinds(world.decide()) == [Stop]
        assert world.decide() == ()
        stopping = next(task for task in world.tasks() if task.stop_requested_at_s)
        world.see(stopping, TaskState.STOPPED)
        (created,) = world.decide()
        assert isinstance(created, Create)
        assert created.slot == stopping.slot

    def test_a_failing_version_is_rolled_back_with_its_reason_and_last_words(self) -> None:
        world = World(web())
        world.settle()
        before = {task.id for task in world.tasks()}
        world.up(web("web:2"))
        world.decide()
        new = next(task for task in world.tasks() if task.version == 2)
        attempt = Attempt(task_id=new.id, number=1, log_tail=("starting", "no such table: users"))
        world.state.apply(Write(Slot(job_id=new.job_id, slot=new.slot, attempts=(attempt,))))
        world.see(world.assign(new, "n1"), TaskState.RESTARTING, message="exit 3")
        (rolled_back,) = [decision for decision in world.decide() if isinstance(decision, RollBack)]
        assert "exit 3" in rolled_back.reason
        assert "no such table: users" in rolled_back.reason
        world.settle()
        assert {task.id for task in world.tasks()} == before
        assert "version 2 was rolled back to 1" in world.job().note

    def test_a_failing_version_pauses_where_the_spec_says_so(self) -> None:
        world = World(web())
        world.settle()
        world.up(web("web:2", update=UpdatePolicy(failure_action=FailureAction.PAUSE)))
        world.decide()
        new = next(task for task in world.tasks() if task.version == 2)
        world.see(world.assign(new, "n1"), TaskState.REJECTED, message="no such image")
        assert Pause in kinds(world.decide())
        assert Create not in kinds(world.decide())

    def test_the_first_version_is_never_rolled_back(self) -> None:
        world = World(web(replicas=1))
        world.decide()
        world.see(world.assign(world.task(1), "n1"), TaskState.FAILED, message="exit 1")
        assert kinds(world.decide()) == [Fail, Create]

    def test_a_third_version_replaces_the_first_and_drops_the_second(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        world.up(web("web:2", replicas=1))
        world.decide()
        world.up(web("web:3", replicas=1))
        world.decide()
        assert sorted(task.version for task in world.tasks()) == [1, 3]

    def test_a_restart_replaces_every_task_with_the_same_spec(self) -> None:
        world = World(web())
        world.settle()
        before = {task.id for task in world.tasks()}
        world.write(
            restart(world.state, JobsRequest(namespace="shop", jobs=("web",), idempotency_key="k"), world.now_s)
        )
        world.settle()
        assert before.isdisjoint(task.id for task in world.tasks())
        assert world.state.spec_of(world.job()) == web()


class TestBatch:
    JOB = JobSpec(
        namespace="shop", name="web", mode=JobMode.BATCH, replicas=2, task=TaskSpec(container=Container(image="m:1"))
    )

    def test_completed_slots_stay_completed(self) -> None:
        world = World(self.JOB)
        world.settle()
        assert [task.status.state for task in world.tasks(live=False)] == [TaskState.COMPLETE] * 2
        assert world.decide() == ()

    def test_a_failed_slot_stays_failed(self) -> None:
        world = World(self.JOB)
        world.decide()
        for task in world.tasks():
            world.see(world.assign(task, "n1"), TaskState.FAILED)
        assert kinds(world.decide()) == [Fail, Fail, Count]
        assert world.decide() == ()

    def test_a_changed_spec_runs_although_the_last_one_was_refused_everywhere(self) -> None:
        world = World(self.JOB)
        for _ in range(3):
            world.decide()
            world.now_s += 60
            world.decide()
            for task in world.tasks():
                world.see(world.assign(task, "n1"), TaskState.REJECTED)
        world.decide()
        world.now_s += 60
        assert Create not in kinds(world.decide())
        world.up(msgspec.structs.replace(self.JOB, task=TaskSpec(container=Container(image="m:2"))))
        assert kinds(world.decide()).count(Create) == 2

    def test_two_tasks_of_a_slot_that_completed_count_once(self) -> None:
        world = World(msgspec.structs.replace(self.JOB, replicas=1))
        world.settle()
        (first,) = world.tasks(live=False)
        other = msgspec.structs.replace(first, id="other", created_at_s=first.created_at_s + 1)
        world.state.apply(Write(other))
        assert world.decide() == ()
        assert batch.progress_of(world.job()).succeeded == "1"

    def test_a_changed_spec_runs_it_again(self) -> None:
        world = World(self.JOB)
        world.settle()
        world.up(msgspec.structs.replace(self.JOB, task=TaskSpec(container=Container(image="m:2"))))
        world.settle()
        done = [task for task in world.tasks(live=False) if task.version == 2]
        assert [task.status.state for task in done] == [TaskState.COMPLETE] * 2


class TestDependencies:
    def migrate(self) -> JobSpec:
        return JobSpec(
            namespace="shop", name="migrate", mode=JobMode.BATCH, task=TaskSpec(container=Container(image="m:1"))
        )

    def test_a_job_waits_for_what_it_depends_on(self) -> None:
        after = Dependency(job="migrate", condition=DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY)
        world = World(self.migrate(), web(depends_on=(after,)))
        assert acts(world.decide("web")) == ()
        assert rollout_of(world).phase is RolloutPhase.WAITING
        world.decide("migrate")
        assert world.decide("web") == ()
        world.see(world.assign(world.task(1, "migrate"), "n1"), TaskState.COMPLETE)
        assert kinds(acts(world.decide("web"))) == [Create] * 3
        assert rollout_of(world).phase is RolloutPhase.MOVING

    def test_while_it_waits_each_slot_keeps_only_the_better_of_two_tasks(self) -> None:
        api = msgspec.structs.replace(web("api:1"), name="api")
        world = World(api, web(replicas=2, depends_on=(Dependency(job="api"),)))
        world.settle()
        world.up(web("web:2", replicas=2, depends_on=(Dependency(job="api"),)))
        world.decide()  # one slot has both versions
        world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("api",))))
        world.up(web("web:3", replicas=2, depends_on=(Dependency(job="api"),)))
        (stopped,) = acts(world.decide())
        assert isinstance(stopped, Stop)
        assert stopped.task.version == 2
        world.settle()
        assert [(task.slot, task.version) for task in world.tasks()] == [(1, 1), (2, 1)]

    def test_a_job_that_runs_is_not_held_back_by_a_dependency_that_stopped(self) -> None:
        api = msgspec.structs.replace(web(), name="api")
        world = World(api, web(depends_on=(Dependency(job="api"),)))
        world.settle()
        world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("api",))))
        world.settle()
        world.see(world.task(2), TaskState.FAILED)
        assert Create in kinds(world.decide())


class TestForgetting:
    def test_a_removed_job_leaves_nothing(self) -> None:
        world = World(web())
        world.settle()
        world.write(remove(world.state, JobsRequest(namespace="shop", jobs=("web",))))
        world.settle()
        assert [record for record in world.state.records() if not isinstance(record, Node)] == []

    def test_a_removed_job_does_not_wait_for_a_node_that_is_down(self) -> None:
        world = World(web(replicas=1))
        world.settle()
        world.node(world.task(1).node_id, NodeStatus.DOWN)
        world.write(remove(world.state, JobsRequest(namespace="shop", jobs=("web",))))
        world.settle()
        assert world.state.job_named("shop", "web") is None

    def test_history_is_bounded(self) -> None:
        world = World(web(replicas=2))
        for version in range(2, 20):
            world.settle()
            world.up(web(f"web:{version}", replicas=2))
        world.settle()
        assert len(world.tasks(live=False)) <= 2 + 2 * 2
        assert len(world.state.versions_of(world.job().id)) <= 5 + 2
        assert Forget not in kinds(world.decide())
        assert Settle not in kinds(world.decide())
