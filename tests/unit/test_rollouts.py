"""Rollouts by example: their states, the strategies, what fails them, and what an engineer may do to them."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from common.errors import Conflict, NotFound
from common.model.api import JobsRequest, JobStatus, RollbackRequest
from common.model.endpoint import Endpoint
from common.model.job import DesiredState, FailureAction, JobMode, JobSpec, Port, UpdatePolicy
from common.model.rollout import BlueGreen, Canary, CanaryStep, Promotion, Rollout, RolloutPhase, RolloutStrategy
from common.model.task import Attempt, Health, PortBinding, Slot, Task, TaskState, TaskStatus
from controller.core import rollout_machine as machine
from controller.core.apply import stop
from controller.core.decisions import Create, Pause, RollBack, StandStill, Stop
from controller.core.endpoints import services_of
from controller.core.observe import observe
from controller.core.settings import ROLLOUTS_KEPT, SLIPS_ALLOWED, TAKEOVER_GRACE_S
from controller.core.steer import pause, promote, resume, rollback
from controller.core.views import job_view
from controller.state import Write
from tests.world import CHECK, NODES, World, acts, kinds, rollout_of, web, with_task

ONE = JobsRequest(namespace="shop", jobs=("web",), idempotency_key="k")


def spec(image: str = "web:1", **policy: object) -> JobSpec:
    """Three replicas with a health check behind a published port; who is healthy is relied on."""
    update = UpdatePolicy(**({"monitor_s": 0.0} | policy))  # type: ignore[arg-type]
    return with_task(web(image, update=update), health_check=CHECK, ports=(Port(container_port=80, published_port=80),))


def changing(*, rolled_back_by: UpdatePolicy | None = None, **policy: object) -> World:
    """Version 1 is well in every slot, and version 2 was just asked for."""
    world = World(spec())
    world.settle()
    world.up(msgspec.structs.replace(spec("web:2", **policy), rollback=rolled_back_by))
    return world


def new_tasks(world: World, version: int = 2) -> list[Task]:
    return [task for task in world.tasks() if task.version == version and task.desired is DesiredState.RUN]


def healthy(world: World, *tasks: Task, health: Health = Health.HEALTHY) -> None:
    """They run on a node, and answer there."""
    for task in tasks:
        placed = task if task.node_id else world.assign(task, NODES[task.slot % len(NODES)])
        ports = (
            PortBinding(container_port=80, host_address="10.0.0.1", host_port=20_000 + 10 * task.version + task.slot),
        )
        status = TaskStatus(
            attempt=1, state=TaskState.RUNNING, sequence=placed.status.sequence + 1, health=health, ports=ports
        )
        world.state.apply(Write(observe(placed, status, world.now_s)))


def crash(world: World, task: Task, message: str = "exited with code 3") -> None:
    world.see(task if task.node_id else world.assign(task, "n1"), TaskState.RESTARTING, message=message)


def endpoints(world: World) -> tuple[Endpoint, ...]:
    (service,) = services_of(world.state, world.conditions)
    return service.endpoints


def stopped(world: World) -> list[tuple[int, int]]:
    return [(task.slot, task.version) for task in world.tasks() if task.desired is DesiredState.STOP]


def last_event(world: World) -> RolloutPhase:
    return rollout_of(world).phase


class TestMachine:
    def test_what_has_ended_has_no_way_out_and_everything_else_can_end(self) -> None:
        reached = {
            source: {after for (of, _), after in machine.TRANSITIONS.items() if of is source} for source in RolloutPhase
        }
        assert all(not reached[phase] for phase in machine.ENDED)
        for phase in set(RolloutPhase) - machine.ENDED:
            assert reached[phase] >= {RolloutPhase.ROLLED_BACK, RolloutPhase.SUPERSEDED}, phase

    def test_an_event_that_cannot_happen_is_a_fault_of_ours(self) -> None:
        for phase, event in itertools.product(RolloutPhase, machine.Event):
            if (phase, event) not in machine.TRANSITIONS:
                with pytest.raises(KeyError):
                    machine.after(Rollout(version=2, phase=phase), event, 1.0)

    def test_only_the_next_step_begins_anew(self) -> None:
        before = Rollout(version=2, phase=RolloutPhase.BAKING, step=1, most=2, healthy="1-2", slips=3, started_at_s=5.0)
        after = machine.after(before, machine.Event.NEXT, 9.0)
        assert (after.step, after.most, after.healthy, after.slips, after.since_s, after.started_at_s) == (
            2,
            0,
            "",
            0,
            9.0,
            5.0,
        )

    def test_a_date_of_a_wrong_clock_is_taken_for_now(self) -> None:
        known = machine.stages(RolloutStrategy.CANARY, spec(canary=Canary()), 3)
        before = Rollout(version=2, phase=RolloutPhase.BAKING, since_s=1e9, advanced_at_s=1e9)
        after = machine.moved(before, known, machine.Seen(well=(1,)), 1_000.0)
        assert (after.phase, after.since_s) == (RolloutPhase.BAKING, 1_000.0)

    def test_a_job_stored_before_rollouts_were_has_one_all_the_same(self) -> None:
        world = changing()
        world.state.apply(Write(msgspec.structs.replace(world.job(), rollout=None)))
        world.settle()
        assert rollout_of(world).phase is RolloutPhase.DONE
        assert world.job().good_version == 2

    def test_history_is_kept_and_bounded(self) -> None:
        world = World(spec())
        for number in range(ROLLOUTS_KEPT + 3):
            world.settle()
            world.up(spec(f"web:{number + 2}"))
        phases = [past.phase for past in world.job().past_rollouts]
        assert phases == [RolloutPhase.DONE] * (ROLLOUTS_KEPT - 1)
        world.up(spec("web:99"))
        superseded = world.job().past_rollouts[0]
        assert (superseded.phase, bool(superseded.ended_at_s)) == (RolloutPhase.SUPERSEDED, True)


class TestCanary:
    STEPS = Canary(
        steps=(CanaryStep(replicas=1, weight=5, bake_s=60.0), CanaryStep(replicas=2, weight=30, bake_s=10.0))
    )

    def test_few_run_beside_all_old_ones_until_they_were_well_for_long_enough(self) -> None:
        world = changing(canary=self.STEPS)
        (created,) = world.decide()
        assert isinstance(created, Create)
        assert created.slot == 1
        healthy(world, *new_tasks(world))
        world.decide()
        assert rollout_of(world).phase is RolloutPhase.BAKING
        world.now_s += 59.0
        assert world.decide() == ()
        assert world.reconcile().wake_at_s == pytest.approx(world.now_s + 1.0)
        world.now_s += 1.0
        world.decide()
        assert (rollout_of(world).step, stopped(world)) == (1, [])
        world.decide()
        assert [task.slot for task in new_tasks(world)] == [1, 2]

    def test_only_the_last_step_takes_old_ones_away_slot_by_slot(self) -> None:
        world = changing(canary=Canary(steps=(CanaryStep(bake_s=0.0),)))
        world.decide()
        healthy(world, *new_tasks(world))
        while rollout_of(world).step == 0:
            assert stopped(world) == []
            world.decide()
        world.decide()
        assert stopped(world) == [(1, 1)]
        assert [task.slot for task in new_tasks(world)] == [1, 2]

    def test_what_is_no_longer_well_is_watched_anew(self) -> None:
        world = changing(canary=self.STEPS)
        world.decide()
        healthy(world, *new_tasks(world))
        world.decide()
        world.now_s += 50.0
        healthy(world, *new_tasks(world), health=Health.STARTING)
        world.decide()
        assert (rollout_of(world).phase, rollout_of(world).slips) == (RolloutPhase.MOVING, 1)
        healthy(world, *new_tasks(world))
        world.decide()
        world.now_s += 59.0
        assert world.decide() == ()

    def test_what_falls_back_again_and_again_is_given_up(self) -> None:
        world = changing(canary=self.STEPS)
        world.decide()
        for _ in range(SLIPS_ALLOWED + 1):
            for health in (Health.HEALTHY, Health.STARTING):
                healthy(world, *new_tasks(world), health=health)
                world.decide()
        (back,) = [decision for decision in world.decide() if isinstance(decision, RollBack)]
        assert "fell back" in back.reason

    @pytest.mark.parametrize(("step", "share"), [(0, 5), (1, 30)])
    def test_the_canaries_get_their_share_of_the_traffic(self, step: int, share: int) -> None:
        world = changing(canary=self.STEPS)
        healthy(world, *world.tasks())
        state = msgspec.structs.replace(rollout_of(world), step=step)
        world.state.apply(Write(msgspec.structs.replace(world.job(), rollout=state)))
        world.decide()
        healthy(world, *new_tasks(world))
        slots = {task.id: task.version for task in world.tasks()}
        weights = {
            version: sum(e.weight for e in endpoints(world) if slots[e.task_id] == version) for version in (1, 2)
        }
        assert 100 * weights[2] / (weights[1] + weights[2]) == pytest.approx(share, abs=1.0)

    def test_one_that_crashes_costs_nothing_but_itself(self) -> None:
        world = changing(canary=self.STEPS)
        before = {task.id for task in world.tasks()}
        world.decide()
        crash(world, *new_tasks(world))
        assert RollBack in kinds(world.decide())
        world.settle()
        assert {task.id for task in world.tasks()} == before
        assert world.job().past_rollouts[0].phase is RolloutPhase.ROLLED_BACK
        assert (rollout_of(world).back, rollout_of(world).phase) == (True, RolloutPhase.DONE)

    def test_an_old_task_that_is_lost_meanwhile_is_followed_by_its_like(self) -> None:
        world = changing(canary=self.STEPS)
        world.decide()
        healthy(world, *new_tasks(world))
        (old,) = [task for task in world.tasks() if task.slot == 1 and task.version == 1]
        world.see(old, TaskState.FAILED, attempt=9)
        (created,) = [decision for decision in world.decide() if isinstance(decision, Create)]
        assert (created.slot, created.version) == (1, 1)

    def test_a_first_version_is_simply_started(self) -> None:
        world = World(spec(canary=self.STEPS))
        assert rollout_of(world).strategy is RolloutStrategy.ROLLING
        assert kinds(world.decide()) == [Create] * 3

    def test_its_version_is_shown_as_progressing_with_the_step(self) -> None:
        world = changing(canary=Canary(steps=(CanaryStep(bake_s=0.0),), promote=Promotion.MANUAL))
        world.decide()
        healthy(world, *new_tasks(world))
        world.decide()
        world.decide()
        view = job_view(world.state, world.job(), world.conditions, world.now_s)
        assert view.status is JobStatus.PROGRESSING
        where = "step 1 of 2: 1 replica of version 2 beside version 1, traffic by their number"
        assert view.rollout == f"{where}; waits for podium promote shop/web"


class TestBlueGreen:
    def test_all_run_beside_all_without_traffic_then_it_switches_at_once_and_the_old_are_kept(self) -> None:
        world = changing(blue_green=BlueGreen(bake_s=30.0))
        healthy(world, *world.tasks())
        assert kinds(world.decide()) == [Create] * 3
        healthy(world, *new_tasks(world))
        assert {world.state.tasks[one.task_id].version for one in endpoints(world)} == {1}
        while rollout_of(world).step == 0:
            world.decide()
        assert {world.state.tasks[one.task_id].version for one in endpoints(world)} == {2}
        assert len(endpoints(world)) == 3
        world.decide()
        world.now_s += 29.0
        assert (acts(world.decide()), stopped(world)) == ((), [])
        world.now_s += 1.0
        world.decide()
        assert kinds(acts(world.decide())) == [Stop] * 3

    def test_until_the_old_ones_are_stopped_the_way_back_needs_no_start(self) -> None:
        world = changing(blue_green=BlueGreen(bake_s=30.0))
        healthy(world, *world.tasks())
        world.decide()
        healthy(world, *new_tasks(world))
        while rollout_of(world).step == 0:
            world.decide()
        crash(world, new_tasks(world)[0])
        assert RollBack in kinds(world.decide())
        assert {world.state.tasks[one.task_id].version for one in endpoints(world)} >= {1}
        assert Create not in kinds(world.decide())
        assert {world.state.tasks[one.task_id].version for one in endpoints(world)} == {1}

    def test_traffic_goes_to_who_is_left_when_those_who_should_get_it_are_all_gone(self) -> None:
        world = changing(blue_green=BlueGreen())
        healthy(world, *world.tasks())
        world.decide()
        healthy(world, *new_tasks(world))
        for task in world.tasks():
            if task.version == 1:
                world.see(task, TaskState.RESTARTING)
        assert {world.state.tasks[one.task_id].version for one in endpoints(world)} == {2}


class TestPace:
    def test_the_next_slot_waits_for_the_delay_after_the_last_one(self) -> None:
        world = changing(delay_s=20.0)
        world.decide()
        healthy(world, *new_tasks(world))
        assert kinds(acts(world.decide())) == [Stop]
        world.now_s += 19.0
        assert world.decide() == ()
        world.now_s += 1.0
        assert kinds(world.decide()) == [Create]

    def test_a_health_check_that_lies_for_a_while_is_found_out_by_monitor(self) -> None:
        world = changing(monitor_s=30.0)
        before = {task.id for task in world.tasks()}
        world.decide()
        healthy(world, *new_tasks(world))
        world.now_s += 10.0
        assert acts(world.decide()) == ()
        (new,) = new_tasks(world)
        healthy(world, new, health=Health.UNHEALTHY)
        world.decide()
        crash(world, world.state.tasks[new.id], "unhealthy after 3 failed health checks")
        (back,) = [decision for decision in world.decide() if isinstance(decision, RollBack)]
        assert "unhealthy after 3" in back.reason
        world.settle()
        assert {task.id for task in world.tasks()} == before


class TestFailing:
    @pytest.mark.parametrize(
        ("action", "kind"),
        [(FailureAction.ROLLBACK, RollBack), (FailureAction.PAUSE, Pause), (FailureAction.CONTINUE, StandStill)],
    )
    def test_one_that_comes_no_further_fails_at_its_deadline_and_says_what_it_waited_for(
        self, action: FailureAction, kind: type[RollBack | Pause | StandStill]
    ) -> None:
        world = changing(progress_deadline_s=100.0, failure_action=action)
        world.decide()
        healthy(world, *new_tasks(world), health=Health.STARTING)
        world.now_s += 99.0
        assert world.decide() == ()
        assert world.reconcile().wake_at_s == pytest.approx(world.now_s + 1.0)
        world.now_s += 1.0
        (failing,) = world.decide()
        assert isinstance(failing, kind)
        assert "came no further for 100 s: 0 of 3 replicas were well; web.1 running" in failing.reason

    def test_each_slot_that_is_through_gives_it_its_time_anew(self) -> None:
        world = changing(progress_deadline_s=100.0)
        world.decide()
        for _ in range(2):
            world.now_s += 90.0
            healthy(world, *new_tasks(world))
            world.decide()
        assert rollout_of(world).healthy == "1-2"
        assert rollout_of(world).phase is RolloutPhase.MOVING

    def test_while_nobody_led_nothing_could_come_further(self) -> None:
        world = changing(progress_deadline_s=100.0)
        deadline_s = machine.deadline_at_s(
            rollout_of(world), world.state.spec_of(world.job()).update, world.now_s + 5_000
        )
        assert deadline_s == pytest.approx(world.now_s + 5_000 + TAKEOVER_GRACE_S)

    def test_a_first_version_that_is_late_says_so_and_is_tried_on(self) -> None:
        world = World(spec(progress_deadline_s=100.0))
        world.decide()
        world.now_s += 100.0
        assert kinds(world.decide()) == [StandStill]
        view = job_view(world.state, world.job(), world.conditions, world.now_s)
        assert view.status is JobStatus.DEGRADED
        assert "the rollout to version 1 failed: it came no further for 100 s" in view.message
        world.settle()
        assert rollout_of(world).phase is RolloutPhase.DONE

    def test_as_many_slots_may_fail_as_the_ratio_says_of_those_that_its_step_changes(self) -> None:
        world = changing(max_failure_ratio=0.4, parallelism=0)
        world.decide()
        first, second, _ = new_tasks(world)
        crash(world, first)
        assert RollBack not in kinds(world.decide())
        crash(world, second)
        assert RollBack in kinds(world.decide())

    def test_the_reason_has_the_last_output_and_what_the_health_check_said(self) -> None:
        world = changing()
        world.decide()
        (new,) = new_tasks(world)
        attempt = Attempt(
            task_id=new.id,
            number=1,
            exit_code=3,
            log_tail=("a", "b", "c", "no such table"),
            health_output="connection refused",
        )
        world.state.apply(Write(Slot(job_id=new.job_id, slot=1, attempts=(attempt,))))
        crash(world, new)
        (back,) = [decision for decision in world.decide() if isinstance(decision, RollBack)]
        assert back.reason == (
            "web.1 restarting: exited with code 3; last output: b | c | no such table; "
            "its last health check said: connection refused"
        )

    def test_a_rollback_that_fails_stops_and_says_so(self) -> None:
        world = changing()
        world.settle()
        world.write(rollback(world.state, RollbackRequest(namespace="shop", job="web"), world.now_s))
        world.now_s += 1.0
        world.decide()
        (back,) = new_tasks(world, version=1)
        crash(world, back, "exited with code 9")
        assert StandStill in kinds(world.decide())
        assert acts(world.decide()) == (), "nothing more changes its version"
        view = job_view(world.state, world.job(), world.conditions, world.now_s)
        assert view.status is JobStatus.DEGRADED
        assert view.message == "the rollback to version 1 failed: web.1 restarting: exited with code 9"

    def test_what_failed_before_is_no_fault_of_the_way_back(self) -> None:
        """Version 1 was restarted once, long ago."""
        world = World(spec())
        world.settle()
        old = world.task(2)
        world.see(old, TaskState.RUNNING, attempt=2, health=Health.HEALTHY)
        world.up(spec("web:2"))
        world.decide()
        crash(world, *new_tasks(world))
        world.decide()
        world.settle()
        assert (rollout_of(world).back, rollout_of(world).phase) == (True, RolloutPhase.DONE)


class TestRollbackConfig:
    def test_the_way_back_goes_as_the_version_that_is_left_says(self) -> None:
        world = changing(
            rolled_back_by=UpdatePolicy(parallelism=0, monitor_s=0.0, failure_action=FailureAction.CONTINUE)
        )
        world.settle()
        world.write(rollback(world.state, RollbackRequest(namespace="shop", job="web"), world.now_s))
        world.now_s += 1.0
        assert kinds(world.decide()) == [Create] * 3
        crash(world, new_tasks(world, version=1)[0])
        assert StandStill not in kinds(world.decide())


class TestSteering:
    def test_rolling_back_without_a_version_goes_to_the_last_one_that_ran_well(self) -> None:
        world = changing()
        world.decide()
        request = RollbackRequest(namespace="shop", job="web", idempotency_key="k")
        (change,) = rollback(world.state, request, world.now_s).changes
        assert (change.action, change.version, change.text) == ("rollback", 1, "from version 2 back to 1")
        world.write(rollback(world.state, request, world.now_s))
        (again,) = rollback(world.state, request, world.now_s).changes
        assert (again.action, again.version) == ("unchanged", 1)
        world.settle()
        assert world.job().note == "version 2 was rolled back to 1: somebody asked for it"
        (change,) = rollback(world.state, msgspec.structs.replace(request, version=2, idempotency_key="l"), 1.0).changes
        assert change.version == 2

    def test_after_it_settled_the_one_before_is_gone_back_to(self) -> None:
        world = changing()
        world.settle()
        (change,) = rollback(world.state, RollbackRequest(namespace="shop", job="web"), world.now_s).changes
        assert change.version == 1

    @pytest.mark.parametrize(
        ("version", "text"), [(0, "no other version"), (1, "is wanted already"), (7, "is not kept; there are 1")]
    )
    def test_a_way_back_that_is_none_is_refused(self, version: int, text: str) -> None:
        world = World(spec())
        world.settle()
        with pytest.raises((Conflict, NotFound), match=text):
            rollback(world.state, RollbackRequest(namespace="shop", job="web", version=version), world.now_s)

    def test_a_paused_rollout_stands_and_a_resumed_one_forgets_what_failed(self) -> None:
        world = changing(failure_action=FailureAction.PAUSE)
        world.decide()
        crash(world, *new_tasks(world))
        assert Pause in kinds(world.decide())
        with pytest.raises(Conflict, match="is paused already: web"):
            pause(world.state, ONE)
        world.now_s += 5.0
        world.write(resume(world.state, ONE, world.now_s))
        assert resume(world.state, ONE, world.now_s).changes[0].action == "unchanged"
        assert not world.job().paused
        assert Pause not in kinds(world.decide())
        world.settle()
        assert world.job().good_version == 2

    def test_a_pause_keeps_both_versions_of_a_canary_running(self) -> None:
        world = changing(canary=Canary(steps=(CanaryStep(bake_s=10.0),)))
        world.decide()
        healthy(world, *new_tasks(world))
        world.decide()
        world.write(pause(world.state, ONE))
        world.now_s += 1_000.0
        assert world.decide() == ()
        with pytest.raises(Conflict, match="is paused: somebody asked for it; resume it first"):
            promote(world.state, msgspec.structs.replace(ONE, idempotency_key="l"), world.now_s)
        world.write(resume(world.state, msgspec.structs.replace(ONE, idempotency_key="m"), world.now_s))
        assert world.decide() == (), "it is watched anew"
        world.now_s += 10.0
        world.decide()
        assert rollout_of(world).step == 1

    def test_a_promotion_does_not_wait_for_the_rest_of_the_time(self) -> None:
        world = changing(canary=Canary(steps=(CanaryStep(bake_s=600.0),)))
        world.decide()
        with pytest.raises(Conflict, match=r"cannot be promoted yet: step 1 of 2: .*0 of 1 are well"):
            promote(world.state, ONE, world.now_s)
        healthy(world, *new_tasks(world))
        world.decide()
        (change,) = promote(world.state, ONE, world.now_s).changes
        assert (change.action, change.text) == ("promote", "step 2 of 2: version 1 gives way to version 2")
        world.write(promote(world.state, ONE, world.now_s))
        assert promote(world.state, ONE, world.now_s).changes[0].action == "unchanged"
        with pytest.raises(Conflict, match="in its last step"):
            promote(world.state, msgspec.structs.replace(ONE, idempotency_key="l"), world.now_s)

    @pytest.mark.parametrize(
        "act", [pause, lambda state, ask: resume(state, ask, 1.0), lambda state, ask: promote(state, ask, 1.0)]
    )
    def test_nothing_is_steered_where_nothing_changes(self, act) -> None:  # type: ignore[no-untyped-def]
        world = World(spec())
        world.settle()
        with pytest.raises(Conflict, match="no rollout of shop/web is under way: version 1 is wanted"):
            act(world.state, ONE)
        everything = JobsRequest(namespace="shop", all_jobs=True)
        assert act(world.state, everything).changes == ()

    def test_a_rolling_rollout_has_nothing_to_promote(self) -> None:
        with pytest.raises(Conflict, match="it has no steps to promote"):
            promote(changing().state, ONE, 1.0)

    def test_a_job_that_ends_or_is_stopped_has_no_rollout_to_steer(self) -> None:
        with pytest.raises(Conflict, match="runs to completion"):
            pause(World(web(mode=JobMode.BATCH)).state, ONE)
        world = changing()
        world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
        with pytest.raises(Conflict, match="is stopped"):
            pause(world.state, ONE)
