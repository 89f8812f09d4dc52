"""How an agent holds on to its controller, whom it obeys, and that nothing it must say is lost."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from agent.network.interface import DataPlaneState
from agent.runtime.fake import Behaviour, Preparation
from common.model.endpoint import Endpoint, Service
from common.model.epoch import Epoch
from common.model.job import Container
from common.model.session import (
    Assignments,
    Endpoints,
    EndpointsApplied,
    Heartbeat,
    Redirect,
    ResyncRequest,
    StatusBatch,
)
from common.model.task import TaskState
from tests.agent_builders import assignment, complete, incremental, stopped
from tests.agent_rig import NODE_ID, Controller, FakeDataPlane, Machine, orders
from tests.virtual_time import TickingLoop, VirtualLoop, on_virtual_time


@pytest.fixture
def machine() -> Machine:
    return Machine()


def live(machine: Machine) -> list[str]:
    return [item.identity.task_id for item in machine.engine.containers.values() if item.running]


async def running(controller: Controller, *task_ids: str) -> None:
    for task_id in task_ids:
        await controller.until_state(task_id, TaskState.RUNNING)


# --- finding the leader


@on_virtual_time
async def test_a_follower_redirects_to_the_leader_who_is_remembered(machine: Machine) -> None:
    controller = machine.controller
    machine.controllers = ("a:1", "b:1")
    controller.redirects = {"a:1": Redirect(leader="c:1", reason="the leader is c:1")}
    async with machine.running():
        await controller.until_registered()
        assert controller.dialled == ["a:1", "c:1"]
    controller.dialled.clear()
    async with machine.running():
        await controller.until_registered(2)
        assert controller.dialled == ["c:1"], "the last leader is asked first after a restart"


@on_virtual_time
async def test_every_controller_is_tried_in_turn_and_again_with_patience(machine: Machine) -> None:
    controller = machine.controller
    machine.controllers = ("a:1", "b:1", "c:1")
    controller.away = {"a:1", "b:1", "c:1"}
    loop = asyncio.get_running_loop()
    async with machine.running():
        await asyncio.sleep(60.0)
        dials = len(controller.dialled)
        assert controller.dialled[:6] == ["a:1", "b:1", "c:1", "a:1", "b:1", "c:1"]
        assert 60 < dials < 400, "neither asleep nor a storm"
        controller.away = {"a:1", "c:1"}
        began = loop.time()
        await controller.until_registered()
        assert loop.time() - began <= 2.0, "back within one `down` period"


@on_virtual_time
async def test_two_controllers_that_redirect_to_each_other_are_not_hammered(machine: Machine) -> None:
    controller = machine.controller
    machine.controllers = ("a:1", "b:1")
    controller.redirects = {
        "a:1": Redirect(leader="b:1", reason="b leads"),
        "b:1": Redirect(leader="a:1", reason="a leads"),
    }
    async with machine.running():
        await asyncio.sleep(60.0)
        assert len(controller.dialled) < 300


@on_virtual_time
async def test_a_refused_node_waits_as_long_as_it_is_told(machine: Machine) -> None:
    controller = machine.controller
    controller.redirects = {"c1:1": Redirect(leader="", reason="another node n1 is connected", retry_after_s=20.0)}
    async with machine.running():
        await asyncio.sleep(100.0)
        assert 4 <= len(controller.dialled) <= 5


@on_virtual_time
async def test_a_redirect_in_the_middle_of_a_session_is_followed(machine: Machine) -> None:
    async with machine.running() as controller:
        await controller.until_registered()
        controller.say(Redirect(leader="next:1", reason="this controller stops"))
        controller.away = {"c1:1"}
        controller.dialled.clear()
        await controller.until_registered(2)
        assert controller.dialled[-1] == "next:1"


# --- heartbeats


@on_virtual_time
async def test_heartbeats_come_at_the_acknowledged_period(machine: Machine) -> None:
    machine.controller.period_s = 4.0
    async with machine.running() as controller:
        await controller.beats(2)
        before = len(controller.of(Heartbeat))
        await asyncio.sleep(40.0)
        assert 10 <= len(controller.of(Heartbeat)) - before <= 11


@on_virtual_time
async def test_without_acknowledgement_the_agent_redials(machine: Machine) -> None:
    async with machine.running() as controller:
        await controller.beats(3)
        controller.acknowledges_beats = False
        began = asyncio.get_running_loop().time()
        await controller.until_registered(2)
        assert asyncio.get_running_loop().time() - began <= 2.0 + 1.0 + 0.2


@on_virtual_time
async def test_a_controller_that_is_behind_is_not_left(machine: Machine) -> None:
    async with machine.running() as controller:
        for late_s in (0.9, 1.8, 2.7, 3.6):  # in the end longer than silence may last, while others come all the time
            controller.acknowledges_late_s = late_s
            await controller.beats(5)
        assert len(controller.registers) == 1


@on_virtual_time
async def test_an_agent_that_was_held_up_itself_reads_first_what_came_meanwhile(machine: Machine) -> None:
    async with machine.running() as controller:
        await controller.beats(3)
        controller.acknowledges_late_s = 1.5
        await controller.beats(3)  # the last two of them have no answer yet
        cast("VirtualLoop", asyncio.get_running_loop()).stall(10.0)
        await controller.beats(5)
        assert len(controller.registers) == 1
        controller.acknowledges_beats = False
        began = asyncio.get_running_loop().time()
        await controller.until_registered(2)
        assert asyncio.get_running_loop().time() - began <= 1.5 + 2.0 + 1.0 + 0.2, "it is excused once, not for good"


@on_virtual_time
async def test_a_period_that_was_stretched_since_gives_acknowledgements_longer(machine: Machine) -> None:
    async with machine.running() as controller:
        await controller.beats(2)
        controller.period_s = 5.0
        await controller.beats(4)
        controller.acknowledges_beats = False
        began = asyncio.get_running_loop().time()
        await controller.until_registered(2)
        assert 10.0 <= asyncio.get_running_loop().time() - began <= 15.2


# --- epochs


@on_virtual_time
async def test_a_higher_epoch_is_on_disk_before_it_is_obeyed(machine: Machine) -> None:
    seen: list[Epoch] = []

    def prepare(_container: Container) -> Preparation:
        seen.append(machine.journal.highest_epoch)
        return Preparation()

    machine.engine.prepare = prepare
    async with machine.running() as controller:
        await controller.until_registered()
        controller.say(incremental(assignment(), sequence=2), epoch=Epoch(term=9))
        await running(controller, "t1")
        assert seen == [Epoch(term=9)]


@on_virtual_time
async def test_a_lower_epoch_is_refused_even_when_it_orders_a_stop(machine: Machine) -> None:
    machine.controller.epoch = Epoch(term=5)
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(controller, "t1")
        controller.epoch = Epoch(term=4)
        controller.say(incremental(stopped(assignment()), sequence=2))
        await asyncio.sleep(20.0)
        assert live(machine) == ["t1"]
        assert len(controller.dialled) > 3, "it looks for another"
        assert controller.registers[-1].highest_epoch == Epoch(term=5), "so that the zombie learns of it"
        controller.epoch = Epoch(term=6)
        await controller.beats(1)
    assert machine.journal.highest_epoch == Epoch(term=6)


@on_virtual_time
async def test_a_generation_counts_before_a_term(machine: Machine) -> None:
    machine.journal.remember_epoch(Epoch(generation=1, term=3))
    machine.controller.epoch = Epoch(generation=0, term=99)
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await asyncio.sleep(10.0)
        assert not machine.engine.containers
        assert len(controller.dialled) > 3


# --- sets of assignments


@on_virtual_time
async def test_a_gap_is_not_obeyed_and_asks_for_a_complete_set(machine: Machine) -> None:
    machine.controller.first = orders(assignment("a"))
    async with machine.running() as controller:
        await running(controller, "a")
        controller.say(incremental(stopped(assignment("a")), sequence=3))
        [request] = await controller.until_heard(ResyncRequest)
        assert request.reason == "assignments 3 came after 1"
        await controller.beats(2)
        assert live(machine) == ["a"]
        controller.say(complete(assignment("a"), assignment("b")))
        await running(controller, "b")
        assert live(machine) == ["a", "b"]


@on_virtual_time
async def test_a_complete_set_that_does_not_come_is_asked_for_again(machine: Machine) -> None:
    machine.controller.first = []
    async with machine.running() as controller:
        await controller.until_heard(ResyncRequest, 2)


@on_virtual_time
async def test_an_empty_complete_set_stops_nothing_until_it_is_confirmed(machine: Machine) -> None:
    machine.controller.first = orders(assignment("a"), assignment("b"))
    async with machine.running() as controller:
        await running(controller, "a", "b")
        controller.say(complete())
        [request] = await controller.until_heard(ResyncRequest)
        assert "would stop all 2 tasks" in request.reason
        await controller.beats(5)
        assert live(machine) == ["a", "b"]
        controller.say(complete())
        await controller.beats(2)
        assert not machine.engine.containers


@on_virtual_time
async def test_a_fresh_leader_that_knows_nothing_yet_stops_nothing(machine: Machine) -> None:
    machine.controller.first = orders(assignment("a"))
    async with machine.running() as controller:
        await running(controller, "a")
        controller.epoch = Epoch(term=2)
        controller.first = [Assignments(complete=True, sequence=1)]
        for number in (2, 3, 4):
            controller.cut()
            await controller.until_registered(number)
        await controller.beats(1)
        assert live(machine) == ["a"], "each session's first empty set is doubted"


@on_virtual_time
async def test_cut_off_from_every_controller_tasks_run_and_crashes_heal(machine: Machine) -> None:
    machine.engine.behave = lambda request: Behaviour(exit_after_s=60.0 if request.identity.attempt == 1 else None)
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(controller, "t1")
        controller.away = {"c1:1"}
        controller.cut()
        await asyncio.sleep(3_600.0)
        assert live(machine) == ["t1"]
        assert machine.memory("t1").attempt == 2
        controller.away = set()
        await controller.until_state("t1", TaskState.RUNNING, attempt=2)
        assert [attempt.number for attempt in controller.attempts][:1] == [1], "its crash record was kept"


# --- statuses


@on_virtual_time
async def test_what_was_not_acknowledged_is_said_again_in_the_next_session(machine: Machine) -> None:
    machine.engine.behave = lambda _request: Behaviour(exit_after_s=5.0, exit_code=1)
    controller = machine.controller
    controller.acknowledges_statuses = False
    controller.first = orders(assignment())
    async with machine.running():
        await controller.until(lambda: controller.attempts, "a crash record")
        controller.attempts.clear()
        controller.heard.clear()
        controller.acknowledges_statuses = True
        controller.cut()
        await controller.until_registered(2)
        batches = await controller.until_heard(StatusBatch)
        assert batches[0].sequence == 1
        assert batches[0].reports[0].ended[0].number == 1


@on_virtual_time
async def test_unacknowledged_crash_records_survive_the_agents_restart(machine: Machine) -> None:
    machine.engine.behave = lambda request: Behaviour(exit_after_s=5.0 if request.identity.attempt == 1 else None)
    controller = machine.controller
    controller.acknowledges_statuses = False
    controller.first = orders(assignment())
    async with machine.running():
        await controller.until_state("t1", TaskState.RUNNING, attempt=2)
    controller.acknowledges_statuses = True
    async with machine.running():
        register = await controller.until_registered(2)
        assert [attempt.number for attempt in register.inventory[0].ended] == [1]
        await controller.beats(3)
        assert not machine.journal.attempts(), "acknowledged: forgotten"


@on_virtual_time
async def test_unchanged_statuses_are_not_sent(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(controller, "t1")
        batches = len(controller.of(StatusBatch))
        await controller.beats(60)
        assert len(controller.of(StatusBatch)) == batches


@on_virtual_time
async def test_statuses_of_many_tasks_share_messages(machine: Machine) -> None:
    machine.controller.first = orders(*(assignment(f"t{number}") for number in range(300)))
    async with machine.running() as controller:
        await controller.until(
            lambda: sum(status.state is TaskState.RUNNING for status in controller.statuses.values()) == 300, "all"
        )
        assert len(controller.of(StatusBatch)) < 10


# --- endpoints


def service(*tasks: str, port: int = 8080) -> Service:
    endpoints = tuple(
        Endpoint(task_id=task, slot=1, node_id=NODE_ID, address="10.0.0.1", port=30_000) for task in tasks
    )
    return Service(namespace="shop", job=f"job{port}", container_port=80, published_port=port, endpoints=endpoints)


@on_virtual_time
async def test_endpoints_are_applied_in_order_and_confirmed(machine: Machine) -> None:
    web, api = service("a"), service("b", port=9090)
    machine.controller.first += [Endpoints(complete=True, revision=7, services=(web,))]
    async with machine.running() as controller:
        await controller.until(lambda: controller.of(EndpointsApplied), "applied")
        controller.say(Endpoints(complete=False, revision=8, services=(api,)))
        await controller.until_heard(EndpointsApplied, 2)
        controller.say(Endpoints(complete=False, revision=9, removed=("8080/tcp",)))
        await controller.until_heard(EndpointsApplied, 3)
    assert machine.data_plane.applied == [(7, (web,)), (8, (web, api)), (9, (api,))]
    assert [applied.revision for applied in controller.of(EndpointsApplied)] == [7, 8, 9]


@on_virtual_time
async def test_a_gap_of_endpoints_asks_for_complete_sets_and_changes_nothing(machine: Machine) -> None:
    machine.controller.first += [Endpoints(complete=True, revision=7, services=(service("a"),))]
    async with machine.running() as controller:
        await controller.until_heard(EndpointsApplied)
        controller.say(Endpoints(complete=False, revision=9, removed=("8080/tcp",)))
        [request] = await controller.until_heard(ResyncRequest)
        assert request.reason == "endpoints 9 came after 7"
        controller.say(Endpoints(complete=False, revision=10, removed=("8080/tcp",)))
        await controller.beats(2)
        assert [revision for revision, _ in machine.data_plane.applied] == [7]


@on_virtual_time
async def test_drained_connections_are_told(machine: Machine) -> None:
    machine.controller.first += [Endpoints(complete=True, revision=7, services=(service("a"),))]
    async with machine.running() as controller:
        await controller.until_heard(EndpointsApplied)
        machine.data_plane.tell(DataPlaneState(revision=7, draining=("old",)))
        await controller.until_heard(EndpointsApplied, 2)
        machine.data_plane.tell(DataPlaneState(revision=7))
        told = await controller.until_heard(EndpointsApplied, 3)
        assert [applied.draining for applied in told] == [(), ("old",), ()]


@on_virtual_time
async def test_a_data_plane_that_lost_its_knowledge_gets_the_last_known_services(machine: Machine) -> None:
    machine.controller.first += [Endpoints(complete=True, revision=7, services=(service("a"),))]
    async with machine.running() as controller:
        await controller.until_heard(EndpointsApplied)
    machine.controller.away = {"c1:1"}
    machine.data_plane = FakeDataPlane()
    async with machine.running():
        await asyncio.sleep(10.0)
    assert machine.data_plane.applied == [(7, (service("a"),))]


@on_virtual_time
async def test_a_data_plane_that_knows_as_much_is_left_alone(machine: Machine) -> None:
    machine.controller.first += [Endpoints(complete=True, revision=7, services=(service("a"),))]
    async with machine.running() as controller:
        await controller.until_heard(EndpointsApplied)
    machine.controller.away = {"c1:1"}
    machine.data_plane = FakeDataPlane(DataPlaneState(revision=7))
    async with machine.running():
        await asyncio.sleep(10.0)
    assert machine.data_plane.applied == []


@on_virtual_time
async def test_without_its_data_plane_the_node_still_runs_tasks_and_tries_again(machine: Machine) -> None:
    machine.data_plane.away = True
    machine.controller.first = [*orders(assignment()), Endpoints(complete=True, revision=7, services=(service("a"),))]
    async with machine.running() as controller:
        await running(controller, "t1")
        assert not controller.of(EndpointsApplied)
        machine.data_plane.away = False
        await controller.until_heard(EndpointsApplied)


@on_virtual_time
async def test_a_frozen_controller_does_not_keep_an_agent_from_its_successor() -> None:
    """It lets agents in, as its system does without it, and answers nobody."""
    machine = Machine()
    machine.controllers = ("c1:1", "c2:1")
    machine.controller.frozen = {"c1:1"}
    async with machine.running() as controller:
        await controller.until_registered()
        loop = asyncio.get_running_loop()
        assert loop.time() < 3.0, "one down period after its election the new leader gives silent nodes up"


@on_virtual_time
async def test_the_only_controller_has_all_its_time_to_answer() -> None:
    machine = Machine()
    machine.controller.frozen = {"c1:1"}
    async with machine.running() as controller:
        await asyncio.sleep(9.0)
        assert len(controller.dialled) == 1


@on_virtual_time
async def test_what_a_controller_said_before_a_session_says_nothing_after_it() -> None:
    machine = Machine()
    machine.controllers = ("c1:1", "c2:1")
    machine.controller.redirects["c1:1"] = Redirect(
        leader="", reason="this controller leads no more", retry_after_s=5.0
    )
    async with machine.running() as controller:
        await controller.until_registered()
        await controller.beats(3)
        cut_at_s = asyncio.get_running_loop().time()
        del controller.redirects["c1:1"]
        controller.cut()
        await controller.until_registered(2)
        assert asyncio.get_running_loop().time() - cut_at_s < 1.0


@on_virtual_time
async def test_of_two_controllers_that_do_not_answer_the_one_that_breaks_off_is_asked_again() -> None:
    machine = Machine()
    machine.controllers = ("c1:1", "c2:1")
    machine.controller.frozen = {"c1:1", "c2:1"}
    async with machine.running() as controller:
        await asyncio.sleep(3.0)
        assert controller.dialled == ["c1:1", "c2:1"]
        controller.frozen = {"c1:1"}
        controller.cut()
        await controller.until_registered()
        assert asyncio.get_running_loop().time() < 6.0, "it would wait for the first one's time-out"


def test_nothing_turns_round_until_a_part_of_a_millisecond_is_over(machine: Machine) -> None:
    beats = 50

    async def timers_of_beats() -> int:
        loop = cast("TickingLoop", asyncio.get_running_loop())
        async with machine.running() as controller:
            await controller.until_registered()
            await controller.beats(1)
            before = loop.timers
            await controller.beats(beats)
            return loop.timers - before

    with asyncio.Runner(loop_factory=TickingLoop) as runner:
        timers = runner.run(timers_of_beats())
    assert timers <= 3 * beats, "the cable's, the next beat's, and those of what else a node does now and then"
