"""What an agent does with its tasks, from the outside: a fake engine below, a scripted controller above."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from msgspec.structs import replace

from agent.core.stimuli import ForgetRequested
from agent.runtime.fake import Behaviour, FakeEngine, Preparation
from agent.runtime.interface import ContainerRequest, ExecResult
from common.errors import Conflict, Invalid, NotFound, Unavailable
from common.model.job import Container, Port, PublishMode
from common.model.session import Assignments, CloseLog, Heartbeat, LogChunk, OpenLog, StreamCredit
from common.model.task import Health, TaskState
from tests.agent_builders import CHECK, assignment, incremental, restart, stopped
from tests.agent_rig import Controller, Machine, orders
from tests.virtual_time import on_virtual_time


@pytest.fixture
def machine() -> Machine:
    return Machine()


def behave(machine: Machine, *behaviours: Behaviour) -> None:
    """The behaviour of each attempt; the last one also of all after it."""

    def choose(request: ContainerRequest) -> Behaviour:
        return behaviours[min(request.identity.attempt, len(behaviours)) - 1]

    machine.engine.behave = choose


async def running(machine: Machine, controller: Controller, task_id: str = "t1", attempt: int = 1) -> None:
    await controller.until_state(task_id, TaskState.RUNNING, attempt)


def live(engine: FakeEngine) -> list[str]:
    return [container.identity.task_id for container in engine.containers.values() if container.running]


# --- the ordinary life


@on_virtual_time
async def test_an_assigned_task_runs_with_its_environment_and_ports(machine: Machine) -> None:
    ports = (
        Port(container_port=80, published_port=8080),
        Port(container_port=53, published_port=5300, mode=PublishMode.HOST),
    )
    container = Container(image="shop:1", command=("serve", "${PODIUM_JOB}-${MODE}"), environment={"MODE": "x"})
    machine.controller.first = orders(assignment(container=container, ports=ports))
    async with machine.running() as controller:
        status = await controller.until_state("t1", TaskState.RUNNING)
        made = machine.engine.by_task("t1")
    assert status.attempt == 1
    assert status.runtime_id == made.id
    assert [binding.container_port for binding in status.ports] == [80, 53]
    assert status.ports[1].host_port == 5300, "mode host binds exactly the published port"
    assert status.ports[0].host_port, "the engine chose one"
    assert {binding.host_address for binding in status.ports} == {"10.0.0.1"}
    assert made.request.container.command == ("serve", "web-x")
    assert made.request.container.environment == {
        "MODE": "x",
        "PODIUM_TASK_ID": "t1",
        "PODIUM_NAMESPACE": "shop",
        "PODIUM_JOB": "web",
        "PODIUM_SLOT": "1",
        "PODIUM_NODE": "n1",
        "PODIUM_NODE_ADDRESS": "10.0.0.1",
    }


@on_virtual_time
async def test_a_stopped_task_ends_gracefully_and_is_removed_when_forgotten(machine: Machine) -> None:
    behave(machine, Behaviour(stop_s=2.0, stop_exit_code=0))
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        controller.say(incremental(stopped(assignment()), sequence=2))
        status = await controller.until_state("t1", TaskState.STOPPED)
        assert status.exit_code == 0
        assert machine.engine.containers, "its output is still there"
        controller.say(incremental(sequence=3, removed=("t1",)))
        await controller.beats(2)
        assert not machine.engine.containers
        assert not machine.journal.tasks()


@on_virtual_time
async def test_a_stop_while_the_image_is_pulled_gives_up_at_once(machine: Machine) -> None:
    machine.engine.prepare = lambda _container: Preparation(takes_s=10_000.0)
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.PREPARING)
        controller.say(incremental(stopped(assignment()), sequence=2))
        await controller.until_state("t1", TaskState.STOPPED)
        assert not machine.engine.containers


@on_virtual_time
async def test_a_missing_image_rejects_the_task_with_the_reason(machine: Machine) -> None:
    machine.engine.prepare = lambda _container: Preparation(error=NotFound("no image shop:1 anywhere"))
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        status = await controller.until_state("t1", TaskState.REJECTED)
        assert status.message == "no image shop:1 anywhere"
        assert [attempt.message for attempt in controller.attempts] == ["no image shop:1 anywhere"]


@on_virtual_time
async def test_a_port_in_the_way_is_a_failed_attempt_and_tried_again(machine: Machine) -> None:
    behave(machine, Behaviour(create_error=Conflict("port 80 is taken")), Behaviour())
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller, attempt=2)
        assert [(attempt.number, attempt.message) for attempt in controller.attempts] == [(1, "port 80 is taken")]


# --- crashes


@on_virtual_time
async def test_a_crashed_container_is_started_again_and_leaves_a_record(machine: Machine) -> None:
    lines = tuple(f"line {number}" for number in range(60))
    behave(machine, Behaviour(exit_after_s=3.0, exit_code=7, output=lines), Behaviour())
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller, attempt=2)
        [record] = controller.attempts
        assert (record.number, record.exit_code, record.message) == (1, 7, "exited with code 7")
        assert record.log_tail == lines[-50:]
        assert live(machine.engine) == ["t1"]
        await controller.beats(1)
        assert len(machine.engine.containers) == 1, "the old attempt's container is removed"


@on_virtual_time
async def test_a_task_that_keeps_crashing_fails_after_its_attempts_and_keeps_its_last_output(machine: Machine) -> None:
    behave(machine, Behaviour(exit_after_s=0.1, exit_code=1, output=("last words",)))
    machine.controller.first = orders(assignment(restart=restart(max_attempts=3)))
    async with machine.running() as controller:
        status = await controller.until_state("t1", TaskState.FAILED)
        assert status.attempt == 3
        assert status.exit_code == 1
        assert "attempt 3 of 3" in status.message
        assert [attempt.number for attempt in controller.attempts] == [1, 2, 3]
        assert [line.text for line in machine.engine.by_task("t1").output] == ["last words"]


@on_virtual_time
async def test_a_batch_task_completes(machine: Machine) -> None:
    behave(machine, Behaviour(exit_after_s=5.0, exit_code=0))
    machine.controller.first = orders(assignment(restart=restart("on-failure")))
    async with machine.running() as controller:
        status = await controller.until_state("t1", TaskState.COMPLETE)
        assert status.exit_code == 0


@on_virtual_time
async def test_a_container_removed_behind_our_back_is_a_crash(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        machine.engine.forget(machine.engine.by_task("t1"))
        await running(machine, controller, attempt=2)
        assert live(machine.engine) == ["t1"]


# --- health


@on_virtual_time
async def test_an_unhealthy_container_is_stopped_and_counts_as_failed(machine: Machine) -> None:
    sick = Behaviour(exec_answer=ExecResult(code=1, output="database is gone"))
    behave(machine, sick, Behaviour())
    machine.controller.first = orders(assignment(health_check=CHECK))
    async with machine.running() as controller:
        await running(machine, controller, attempt=2)
        await controller.until_health("t1", Health.HEALTHY)
        [record] = controller.attempts
        assert record.health_output == "database is gone"
        assert "database is gone" in record.message
        assert record.signal == "SIGTERM"


@on_virtual_time
async def test_a_healthy_container_that_turns_sick_shows_it(machine: Machine) -> None:
    machine.controller.first = orders(assignment(health_check=CHECK))
    async with machine.running() as controller:
        await running(machine, controller)
        await controller.until_health("t1", Health.HEALTHY)
        container = machine.engine.by_task("t1")
        container.behaviour = replace(container.behaviour, exec_answer=ExecResult(code=2, output="slow"))
        await controller.until_state("t1", TaskState.RESTARTING)
        assert controller.attempts[0].health_output == "slow"


@on_virtual_time
async def test_a_check_that_hangs_is_a_failed_check(machine: Machine) -> None:
    behave(machine, Behaviour(exec_s=1_000.0), Behaviour())
    machine.controller.first = orders(assignment(health_check=CHECK))
    async with machine.running() as controller:
        await running(machine, controller, attempt=2)
        assert "did not end within 5 s" in controller.attempts[0].message


@on_virtual_time
async def test_an_engine_that_is_away_makes_nobody_unhealthy(machine: Machine) -> None:
    machine.controller.first = orders(assignment(health_check=CHECK))
    async with machine.running() as controller:
        await running(machine, controller)
        machine.engine.away = "the engine is being restarted"
        await controller.beats(120)
        assert controller.statuses["t1"].state is TaskState.RUNNING
        assert controller.of(Heartbeat)[-1].runtimes[0].message == "the engine is being restarted"
        machine.engine.away = ""
        await controller.beats(20)
        assert controller.statuses["t1"].attempt == 1
        assert controller.of(Heartbeat)[-1].runtimes[0].ready


# --- the engine is away


@on_virtual_time
async def test_an_engine_that_is_away_is_no_failed_attempt(machine: Machine) -> None:
    machine.engine.away = "cannot connect to the engine"
    machine.controller.first = orders(assignment(restart=restart(max_attempts=1)))
    async with machine.running() as controller:
        await controller.until(lambda: "t1" in controller.statuses and controller.statuses["t1"].message, "a message")
        assert controller.statuses["t1"].message == "waits for fake: cannot connect to the engine"
        await controller.beats(100)
        assert controller.statuses["t1"].state is TaskState.PREPARING
        machine.engine.away = ""
        status = await controller.until_state("t1", TaskState.RUNNING)
        assert (status.attempt, status.message) == (1, "")
        assert not controller.attempts


@on_virtual_time
async def test_a_registry_that_does_not_answer_is_told_once(machine: Machine) -> None:
    """The engine answers all the while: each time it is asked, the pull is tried again."""
    machine.engine.prepare = lambda _: Preparation(takes_s=0.5, error=Unavailable("no such host"))
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await controller.until(lambda: "t1" in controller.statuses and controller.statuses["t1"].message, "a message")
        before = controller.statuses["t1"]
        await controller.beats(300)
        assert controller.statuses["t1"] == before
        machine.engine.prepare = lambda _: Preparation()
        assert (await controller.until_state("t1", TaskState.RUNNING)).message == ""


@on_virtual_time
async def test_a_stop_is_carried_out_when_the_engine_is_back(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        machine.engine.away = "gone"
        controller.say(incremental(stopped(assignment()), sequence=2))
        await controller.beats(30)
        assert controller.statuses["t1"].state is TaskState.RUNNING
        machine.engine.away = ""
        await controller.until_state("t1", TaskState.STOPPED)


# --- the agent restarts


@on_virtual_time
async def test_a_restarted_agent_takes_its_containers_up_without_touching_them(machine: Machine) -> None:
    machine.controller.first = orders(assignment("a"), assignment("b"))
    async with machine.running() as controller:
        await running(machine, controller, "a")
        await running(machine, controller, "b")
        started = {container.id: container.started_at_s for container in machine.engine.containers.values()}
    assert live(machine.engine) == ["a", "b"], "a stopped agent leaves everything running"
    async with machine.running() as controller:
        register = await controller.until_registered(2)
        assert {report.task_id: report.status.state for report in register.inventory} == {
            "a": TaskState.RUNNING,
            "b": TaskState.RUNNING,
        }
        await controller.beats(5)
        assert {item.id: item.started_at_s for item in machine.engine.containers.values()} == started


@on_virtual_time
async def test_a_crash_while_the_agent_was_away_is_seen_and_healed(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
    machine.engine.end(machine.engine.by_task("t1"), 3)
    async with machine.running() as controller:
        await running(machine, controller, attempt=2)
        assert controller.attempts[-1].exit_code == 3


@on_virtual_time
async def test_a_node_that_is_elsewhere_now_starts_nothing_before_it_was_taken_in(machine: Machine) -> None:
    """Its disk may be a copy of another machine's, where these tasks run."""
    machine.controller.first = orders(assignment("a"), assignment("b"))
    async with machine.running() as controller:
        await running(machine, controller, "a")
        await running(machine, controller, "b")
    machine.engine.end(machine.engine.by_task("a"), 3)
    machine.address = "10.0.0.99"
    machine.controller.away = {"c1:1"}
    async with machine.running() as controller:
        await asyncio.sleep(600.0)
        assert live(machine.engine) == ["b"], "what runs goes on"
        controller.away = set()
        await running(machine, controller, "a", attempt=2)
    machine.engine.end(machine.engine.by_task("b"), 3)
    machine.controller.away = {"c1:1"}
    async with machine.running():
        await asyncio.sleep(600.0)
        assert live(machine.engine) == ["a", "b"], "this is where it is now"


@on_virtual_time
async def test_a_container_without_a_journal_entry_is_reported_and_kept_if_assigned(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        container_id = machine.engine.by_task("t1").id
        sequence = controller.statuses["t1"].sequence
    machine.journal.forget("t1")
    async with machine.running() as controller:
        register = await controller.until_registered(2)
        [report] = register.inventory
        assert (report.task_id, report.status.state, report.status.attempt) == ("t1", TaskState.RUNNING, 1)
        assert report.status.sequence > sequence, "what it says now counts"
        await controller.beats(3)
        assert machine.engine.by_task("t1").id == container_id
        machine.engine.end(machine.engine.by_task("t1"), 1)
        await running(machine, controller, attempt=2)


@on_virtual_time
async def test_what_a_taken_up_container_does_counts_though_the_clock_jumped_back(machine: Machine) -> None:
    """Its status is the container's, of which all but the number is said already: the number must be higher."""
    machine.controller.first = orders(assignment(health_check=CHECK))
    async with machine.running() as controller:
        await controller.until_health("t1", Health.HEALTHY)
    machine.journal.forget("t1")
    machine.controller.first = []
    async with machine.running() as controller:
        await controller.until_registered(2)
        await controller.beats(1)
        assert controller.statuses["t1"].health is Health.NONE, "nobody has said how it is to be checked"
        machine.skew_s = -86_400.0
        controller.say(Assignments(complete=True, sequence=1, assignments=(assignment(health_check=CHECK),)))
        await controller.until_health("t1", Health.HEALTHY)


@on_virtual_time
async def test_a_taken_up_container_counts_on_from_what_the_controller_has_seen_of_it(machine: Machine) -> None:
    """The clock was ahead when it was taken up the last time."""
    machine.controller.first = orders(assignment(health_check=CHECK))
    async with machine.running() as controller:
        await controller.until_health("t1", Health.HEALTHY)
    machine.journal.forget("t1")
    ahead = replace(controller.statuses["t1"], health=Health.NONE, sequence=10**15)
    machine.controller.statuses["t1"] = ahead
    machine.controller.first = orders(replace(assignment(health_check=CHECK), observed_sequence=ahead.sequence))
    async with machine.running() as controller:
        await controller.until_health("t1", Health.HEALTHY)


@on_virtual_time
async def test_a_container_without_a_journal_entry_is_stopped_only_by_a_complete_set(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
    machine.journal.forget("t1")
    machine.controller.first = []
    async with machine.running() as controller:
        await controller.until_registered(2)
        await controller.beats(5)
        assert live(machine.engine) == ["t1"], "nobody has said what it is"
        controller.say(Assignments(complete=True, sequence=1, assignments=(assignment("other"),)))
        await running(machine, controller, "other")
        await controller.beats(2)
        assert live(machine.engine) == ["other"]


@on_virtual_time
async def test_an_agent_that_stops_its_tasks_leaves_nothing(machine: Machine) -> None:
    behave(machine, Behaviour(stop_s=1.0))
    machine.controller.first = orders(assignment("a"), assignment("b"))
    async with machine.running(stop_tasks=True) as controller:
        await running(machine, controller, "a")
        await running(machine, controller, "b")
    assert not machine.engine.containers
    assert not machine.journal.tasks()
    assert machine.data_plane.stopped is True


# --- output of ended tasks, and logs


@on_virtual_time
async def test_the_output_of_a_task_that_ended_by_itself_outlives_it_for_a_while(machine: Machine) -> None:
    behave(machine, Behaviour(exit_after_s=1.0, output=("result: 42",)))
    machine.controller.first = orders(assignment(restart=restart("none")))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.COMPLETE)
        controller.say(incremental(sequence=2, removed=("t1",)))
        await controller.beats(2)
        controller.say(OpenLog(request_id="r", task_id="t1"))
        chunks = await controller.until_heard(LogChunk, 2)
        assert [line.text for chunk in chunks for line in chunk.lines] == ["result: 42"]
        assert chunks[-1].done
        await controller.beats(700)
        assert not machine.engine.containers


@on_virtual_time
async def test_logs_are_followed_from_attempt_to_attempt(machine: Machine) -> None:
    behave(machine, Behaviour(exit_after_s=5.0, exit_code=1, output=("first",)), Behaviour(output=("second",)))
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        controller.say(OpenLog(request_id="r", task_id="t1", follow=True))
        chunks = await controller.until_heard(LogChunk, 2)
        lines = [line for chunk in chunks for line in chunk.lines]
        assert [(line.text, line.job, line.slot) for line in lines] == [
            ("first", "shop/web", 1),
            ("second", "shop/web", 1),
        ]
        controller.say(CloseLog(request_id="r"))
        await controller.beats(1)
        machine.engine.print(machine.engine.by_task("t1"), "unread")
        await controller.beats(2)
        assert len(controller.of(LogChunk)) == 2


@on_virtual_time
async def test_long_logs_come_in_pieces_and_in_order(machine: Machine) -> None:
    lines = tuple(f"line {number}" for number in range(1_000))
    behave(machine, Behaviour(output=lines))
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        controller.say(OpenLog(request_id="r", task_id="t1", tail=900))
        await controller.until(lambda: any(chunk.done for chunk in controller.of(LogChunk)), "the end")
        chunks = controller.of(LogChunk)
        assert max(len(chunk.lines) for chunk in chunks) <= 200
        assert tuple(line.text for chunk in chunks for line in chunk.lines) == lines[-900:]


@on_virtual_time
async def test_no_more_of_a_log_is_under_way_than_its_reader_allows(machine: Machine) -> None:
    lines = tuple(f"line {number}" for number in range(1_000))
    behave(machine, Behaviour(output=lines))
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        controller.say(OpenLog(request_id="r", task_id="t1", window=300))
        await controller.beats(2)
        assert 300 <= sum(len(chunk.lines) for chunk in controller.of(LogChunk)) < 500
        controller.say(StreamCredit(request_id="r", amount=1_000))
        await controller.until(lambda: any(chunk.done for chunk in controller.of(LogChunk)), "the end")
        assert tuple(line.text for chunk in controller.of(LogChunk) for line in chunk.lines) == lines


@on_virtual_time
async def test_a_reader_that_leaves_in_the_middle_of_a_log_leaves_the_session_alone(machine: Machine) -> None:
    behave(machine, Behaviour(output=tuple("x" * 1_000 for _ in range(5_000))))
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        for number in range(30):
            controller.say(OpenLog(request_id=f"r{number}", task_id="t1"))
            await asyncio.sleep(0.0001 * number)
            controller.say(CloseLog(request_id=f"r{number}"))
            await asyncio.sleep(0.001)
        await controller.beats(3)
        assert len(controller.registers) == 1


@on_virtual_time
async def test_logs_of_an_unknown_task_say_so(machine: Machine) -> None:
    async with machine.running() as controller:
        await controller.beats(1)
        controller.say(OpenLog(request_id="r", task_id="nobody"))
        [chunk] = await controller.until_heard(LogChunk)
        assert chunk.done
        assert "nobody" in chunk.error


@pytest.mark.parametrize("moment", range(0, 40, 3))
@on_virtual_time
async def test_an_agent_that_vanishes_at_any_moment_is_taken_up_by_its_successor(machine: Machine, moment: int) -> None:
    """Cut off after `moment` turns of the loop: whatever was under way, in the end exactly one container runs."""
    behave(machine, Behaviour(create_s=0.2, start_s=0.2))
    machine.engine.prepare = lambda _container: Preparation(takes_s=0.2)
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await controller.until_registered()
        await asyncio.sleep(moment * 0.02)
    async with machine.running() as controller:
        await running(machine, controller)
        await controller.beats(2)
        assert live(machine.engine) == ["t1"]
        assert len(machine.engine.containers) == 1


@on_virtual_time
async def test_a_container_that_was_gone_before_it_ran_is_no_failed_attempt(machine: Machine) -> None:
    behave(machine, Behaviour(start_error=NotFound("no such container")), Behaviour())
    machine.controller.first = orders(assignment(restart=restart("none", max_attempts=1)))
    async with machine.running() as controller:
        await running(machine, controller, attempt=2)


@on_virtual_time
async def test_a_program_that_cannot_be_started_is_a_failed_attempt(machine: Machine) -> None:
    behave(machine, Behaviour(start_error=Invalid("no such program: ./serv")))
    machine.controller.first = orders(assignment(restart=restart(max_attempts=2)))
    async with machine.running() as controller:
        status = await controller.until_state("t1", TaskState.FAILED)
        assert "no such program: ./serv" in status.message
        await controller.beats(1)
        assert not machine.engine.containers, "a container that never ran has no output to keep"


# --- faults of our own


@on_virtual_time
async def test_a_fault_of_ours_in_one_task_costs_the_others_nothing_and_the_task_is_taken_up_again(
    machine: Machine,
) -> None:
    nonsense = replace(CHECK, test=(), interval_s=1.0)  # no controller lets one through, and nothing here expects it
    machine.controller.first = orders(assignment("t1", health_check=nonsense), assignment("t2"))
    async with machine.running() as controller:
        await running(machine, controller, "t1")
        await running(machine, controller, "t2")
        await controller.beats(5)
        mended = assignment("t1", health_check=replace(CHECK, interval_s=1.0))
        controller.say(incremental(mended, stopped(assignment("t2")), sequence=2))
        await controller.until_health("t1", Health.HEALTHY)
        await controller.until_state("t2", TaskState.STOPPED)
        assert live(machine.engine) == ["t1"]
        assert controller.statuses["t1"].attempt == 1, "its container was let be"


def test_a_task_that_was_let_go_of_takes_no_step_that_was_due(machine: Machine) -> None:
    """On the loop of production, whose handles are no handles of asyncio."""

    async def let_go() -> None:
        machine.controller.first = orders(assignment())
        async with machine.running() as controller:
            await running(machine, controller)
            assert machine.agent is not None
            runner = machine.agent._worker.runner("t1")
            runner.feed(ForgetRequested())
            runner.let_go()
            await controller.beats(1)
            assert not runner.memory.stopping
            assert live(machine.engine) == ["t1"]

    machine.controller.period_s = 0.05
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(let_go())
