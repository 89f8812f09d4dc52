"""Tasks of higher priority make room for themselves: the production loops with perfect agents, on virtual time."""

from __future__ import annotations

import asyncio

import msgspec

from common.model.job import Port, PublishMode, UpdateOrder, UpdatePolicy
from common.model.node import Availability
from common.model.task import TaskState
from controller.core.settings import DISPLACED_MOVE_S, NOMINATION_S, PREEMPTOR_FAILURES
from tests.builders import node
from tests.preemption_rig import batch, job, removed, stage
from tests.virtual_time import on_virtual_time


@on_virtual_time
async def test_a_more_important_task_stops_one_that_fits_nowhere_else() -> None:
    async with stage([node("n1", cpu=2)]) as play:
        await play.up(job("low", cpu=2, priority=10))
        await play.up(job("high", cpu=2, priority=80))
        assert play.placed("high") == {1: "n1"}
        (waiting,) = play.live("low")
        assert not waiting.node_id
        verdict = play.placement.verdicts[waiting.id].verdict
        assert verdict.startswith("preempted by shop/high (priority 80); 1 task of shop/low fits on no node")
        gone = next(task for task in play.world.tasks("low") if task.ended)
        assert gone.reason == "preempted by shop/high (priority 80)"


@on_virtual_time
async def test_one_that_fits_elsewhere_is_relieved_before_it_stops() -> None:
    async with stage([node("n1", cpu=4), node("n2", cpu=4, availability=Availability.CORDONED)]) as play:
        await play.up(job("low", cpu=2, priority=10))
        cordoned = play.state.nodes["id-n2"]
        await play.world.write(msgspec.structs.replace(cordoned, availability=Availability.ACTIVE))
        await play.up(job("other", cpu=3, priority=60))
        await play.up(job("high", cpu=4, priority=80), within_s=1.0)
        # n2 has 1 core free, n1 has 2: only the low one can go, to nowhere while it needs 2
        assert play.placed("other") == {1: "n2"}
        await asyncio.sleep(30.0)
        assert play.placed("high") == {1: "n1"}
        assert not play.live("low")[0].node_id


@on_virtual_time
async def test_a_surge_move_keeps_a_replica_running_all_the_while() -> None:
    async with stage([node("n1", cpu=4), node("n2", cpu=2)]) as play:
        await play.up(job("low", cpu=1, priority=10, replicas=2))
        await play.up(job("wide", cpu=1, priority=90))
        await play.up(job("high", cpu=4, priority=80), within_s=2.0)
        running = [task for task in play.live("low") if task.status.state is TaskState.RUNNING]
        assert len(running) >= 2
        moving = [task for task in play.live("low") if task.displaced and task.displaced.task_id]
        assert [task.displaced.by for task in moving if task.displaced] == ["shop/high (priority 80)"] * len(moving)


@on_virtual_time
async def test_equal_and_higher_priorities_and_exclusive_jobs_stay() -> None:
    async with stage([node("n1", cpu=2), node("n2", cpu=2), node("n3", cpu=2)]) as play:
        exclusive = job("alone", cpu=2, priority=0)
        task = msgspec.structs.replace(exclusive.task, exclusive=True)
        await play.up(job("same", cpu=2, priority=80), job("above", cpu=2, priority=90))
        await play.up(msgspec.structs.replace(exclusive, task=task))
        before = {name: play.placed(name) for name in ("same", "above", "alone")}
        await play.up(job("high", cpu=2, priority=80))
        assert {name: play.placed(name) for name in before} == before
        assert play.placed("high") == {}
        assert "no node that suits it runs anything that its priority 80 may displace" in [
            reason.text for reason in play.why("high").reasons if reason.reason == "preemption"
        ]


@on_virtual_time
async def test_the_lowest_and_fewest_go() -> None:
    async with stage([node("n1", cpu=4), node("n2", cpu=4), node("n3", cpu=4)]) as play:
        await play.up(job("a", cpu=2, priority=30, replicas=2), within_s=10)
        await play.up(job("b", cpu=4, priority=20), job("c", cpu=2, priority=10, replicas=2), within_s=10)
        before = play.placed("a")
        await play.up(job("high", cpu=2, priority=80))
        assert play.placed("a") == before
        assert len(play.placed("b")) == 1
        assert len(play.placed("c")) == 1


@on_virtual_time
async def test_freed_room_is_given_to_nobody_else() -> None:
    async with stage([node("n1", cpu=4)]) as play:
        await play.up(job("low", cpu=2, priority=10, replicas=2))
        play.lasting.add("low")
        await play.up(job("high", cpu=4, priority=80), within_s=5)
        stopping = [task for task in play.world.tasks("low") if task.node_id and not task.ended]
        assert len(stopping) == 2
        await play.world.see(stopping[0], TaskState.STOPPED)
        await play.up(job("small", cpu=1, priority=70), within_s=5)
        assert play.placed("small") == {}, "two cores are free, and kept"
        assert play.placed("low") == {}
        await play.up(job("vital", cpu=1, priority=90), within_s=5)
        assert play.placed("vital") == {1: "n1"}, "who is more important than the nominated one may have it"
        play.lasting.clear()
        await asyncio.sleep(30)
        assert play.placed("high") == {}
        assert play.placed("small") == {1: "n1"}


@on_virtual_time
async def test_whoever_is_to_make_room_stays_when_nobody_waits_for_it_any_more() -> None:
    async with stage([node("n1", cpu=2), node("n2", cpu=2)]) as play:
        await play.up(job("low", cpu=1, priority=10), within_s=10)
        other = "n2" if play.placed("low") == {1: "n1"} else "n1"
        await play.up(job("wide", cpu=1, priority=60, replicas=1), within_s=10)
        assert play.placed("wide") == {1: other}
        play.stuck.add("low")
        await play.up(job("high", cpu=2, priority=80), within_s=5)
        (original,) = [task for task in play.live("low") if task.displaced and task.displaced.task_id]
        assert original.status.state is TaskState.RUNNING
        await play.world.write(removed(play.world.job("high")))
        await asyncio.sleep(10)
        (kept,) = play.live("low")
        assert kept.id == original.id
        assert kept.displaced is None


@on_virtual_time
async def test_a_successor_that_never_gets_well_holds_nothing_up_for_ever() -> None:
    async with stage([node("n1", cpu=2), node("n2", cpu=2)]) as play:
        await play.up(job("low", cpu=1, priority=10), within_s=10)
        await play.up(job("wide", cpu=1, priority=60), within_s=10)
        play.stuck.add("low")
        await play.up(job("high", cpu=2, priority=80), within_s=DISPLACED_MOVE_S - 10)
        assert play.placed("high") == {}
        await asyncio.sleep(30)
        assert len(play.placed("high")) == 1


@on_virtual_time
async def test_room_that_never_comes_free_is_not_waited_for_for_ever() -> None:
    async with stage([node("n1", cpu=2), node("n2", cpu=2)]) as play:
        await play.up(job("low", cpu=2, priority=10), job("mid", cpu=2, priority=20))
        play.lasting.add("low")
        await play.up(job("high", cpu=2, priority=80), within_s=NOMINATION_S - 30)
        assert play.placed("high") == {}
        assert len(play.placed("mid")) == 1
        await asyncio.sleep(60)
        assert len(play.placed("high")) == 1
        assert play.placed("mid") == {}


@on_virtual_time
async def test_a_batch_task_is_stopped_only_where_nothing_else_can_go() -> None:
    async with stage([node("n1", cpu=2), node("n2", cpu=2)]) as play:
        await play.up(batch("work", cpu=2, priority=10), within_s=3)
        await play.up(job("low", cpu=2, priority=10), within_s=10)
        await play.up(job("high", cpu=2, priority=80))
        assert len(play.placed("work")) == 1
        assert play.placed("low") == {}


@on_virtual_time
async def test_a_host_port_is_taken_over_by_stopping_first() -> None:
    async with stage([node("n1", cpu=2)]) as play:
        port = Port(container_port=80, published_port=8080, mode=PublishMode.HOST)
        low = job("low", cpu=2, priority=10)
        await play.up(msgspec.structs.replace(low, task=msgspec.structs.replace(low.task, ports=(port,))))
        await play.up(job("high", cpu=2, priority=80))
        assert play.placed("high") == {1: "n1"}


@on_virtual_time
async def test_a_slot_that_keeps_failing_displaces_nobody() -> None:
    async with stage([node("n1", cpu=2)]) as play:
        await play.up(job("low", cpu=2, priority=10))
        await play.up(job("high", cpu=2, priority=80, replicas=0))
        of = play.world.job("high")
        memory = msgspec.structs.replace(
            play.state.slot_of(of.id, 1), failures=PREEMPTOR_FAILURES, failed_at_s=play.world.now_s, failed_version=1
        )
        await play.world.write(memory, msgspec.structs.replace(of, replicas=1))
        await asyncio.sleep(20)
        assert play.placed("low") == {1: "n1"}
        assert any("failed 3 times in a row" in reason.text for reason in play.why("high").reasons)


@on_virtual_time
async def test_raising_a_priority_lets_a_waiting_job_in() -> None:
    async with stage([node("n1", cpu=2)]) as play:
        await play.up(job("first", cpu=2))
        await play.up(job("second", cpu=2))
        assert play.placed("second") == {}
        await play.up(job("second", cpu=2, priority=51))
        assert play.placed("second") == {1: "n1"}


@on_virtual_time
async def test_a_new_leader_goes_on_in_the_middle_of_a_preemption() -> None:
    async with stage([node("n1", cpu=2)]) as play:
        await play.up(job("low", cpu=2, priority=10))
        play.lasting.add("low")
        await play.up(job("high", cpu=2, priority=80), within_s=3)
        records = list(play.state.records())
    async with stage([], records) as play:
        play.world.presence.connected("id-n1", play.state.nodes["id-n1"].description.runtimes)
        await asyncio.sleep(20)
        assert play.placed("high") == {1: "n1"}
        assert [task.ended for task in play.world.tasks("low") if task.node_id] == [True]


@on_virtual_time
async def test_a_plan_says_who_gives_way_and_how() -> None:
    async with stage([node("n1", cpu=2), node("n2", cpu=2)]) as play:
        await play.up(job("low", cpu=1, priority=10, replicas=2), within_s=10)
        stop_first = UpdatePolicy(order=UpdateOrder.STOP_FIRST)
        await play.up(job("solid", cpu=1, priority=20, replicas=2, update=stop_first), within_s=20)
        said = play.plan(job("high", cpu=2, priority=80))
        steps = [(step.action, step.subject) for step in said.steps if step.action == "preempt"]
        assert len(steps) == 3, "two for the new one, and one more for the solid one that has to go"
        texts = [step.text for step in said.steps if step.action == "preempt"]
        assert all("stopped to make room for shop/high (priority 80), slot 1" in text for text in texts[:2])
        assert "stopped to make room for shop/solid (priority 20)" in texts[2]
        assert sorted(stop.job for stop in said.stops[:2]) == ["shop/low", "shop/solid"]
        assert said.stops[2].job == "shop/low"
        assert {place.job for place in said.placements} == {"shop/high", "shop/solid"}
        assert [(one.job, one.slots) for one in said.unplaced] == [("shop/low", (1, 2))]
        await play.up(job("high", cpu=2, priority=80))
        assert (len(play.placed("high")), len(play.placed("solid")), len(play.placed("low"))) == (1, 2, 0)
