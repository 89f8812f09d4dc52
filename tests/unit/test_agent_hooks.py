"""Programs run in a container after it started and before it stops: in order, bounded, and what their failure does."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from agent.runtime.fake import Behaviour
from agent.runtime.interface import ContainerRequest, ExecManner, ExecResult
from common.model.job import Container, Hook
from common.model.session import Assignment
from common.model.task import Health, TaskState
from tests.agent_builders import CHECK, assignment, incremental, restart, stopped
from tests.agent_rig import Machine, orders
from tests.virtual_time import on_virtual_time

WARM = Hook(
    command=("warm", "${PODIUM_JOB}", "${SIZE}"), user="root", working_dir="/srv", environment={"SIZE": "small"}
)
CALM = Hook(command=("calm",))
PLAIN = ExecManner()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def behave(machine: Machine, *behaviours: Behaviour) -> None:
    def choose(request: ContainerRequest) -> Behaviour:
        return behaviours[min(request.identity.attempt, len(behaviours)) - 1]

    machine.engine.behave = choose


def hooked(*, post_start: tuple[Hook, ...] = (), pre_stop: tuple[Hook, ...] = (), **task: object) -> Assignment:
    container = Container(image="shop:1", post_start=post_start, pre_stop=pre_stop, stop_grace_s=10.0)
    return assignment(container=container, **task)


@on_virtual_time
async def test_it_counts_as_starting_until_the_hooks_have_succeeded(machine: Machine) -> None:
    behave(machine, Behaviour(exec_s=3.0))
    machine.controller.first = orders(hooked(post_start=(WARM, CALM)))
    async with machine.running() as controller:
        began = asyncio.get_running_loop().time()
        early = await controller.until_state("t1", TaskState.STARTING)
        status = await controller.until_state("t1", TaskState.RUNNING)
        assert asyncio.get_running_loop().time() - began >= 6.0, "one after the other"
        assert (early.health, status.health, status.attempt) == (Health.NONE, Health.NONE, 1)
        told = ExecManner(user="root", working_dir="/srv", environment={"SIZE": "small"})
        assert machine.engine.by_task("t1").programs == [(("warm", "web", "small"), told), (("calm",), PLAIN)]


@on_virtual_time
async def test_the_health_check_begins_after_the_hooks(machine: Machine) -> None:
    behave(machine, Behaviour(exec_s=1.0))
    machine.controller.first = orders(hooked(post_start=(WARM,), health_check=CHECK))
    async with machine.running() as controller:
        assert (await controller.until_state("t1", TaskState.RUNNING)).health is Health.STARTING
        await controller.until_health("t1", Health.HEALTHY)
        assert [argv[0] for argv, _ in machine.engine.by_task("t1").programs][:2] == ["warm", "/up"]


@on_virtual_time
async def test_a_post_start_hook_that_fails_ends_the_attempt_with_its_output(machine: Machine) -> None:
    behave(machine, Behaviour(exec_answer=ExecResult(code=3, output="no room\n")), Behaviour())
    machine.controller.first = orders(hooked(post_start=(WARM, CALM)))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING, 2)
        [record] = controller.attempts
        assert record.message == "post_start hook `warm web small` failed with code 3: no room"
        assert record.signal == "SIGTERM"


@on_virtual_time
async def test_a_job_that_is_not_restarted_has_failed_then(machine: Machine) -> None:
    behave(machine, Behaviour(exec_answer=ExecResult(code=1, output="")))
    machine.controller.first = orders(hooked(post_start=(CALM,), restart=restart("none")))
    async with machine.running() as controller:
        status = await controller.until_state("t1", TaskState.FAILED)
        assert "post_start hook `calm` failed with code 1: no output" in status.message


@on_virtual_time
async def test_a_post_start_hook_that_hangs_is_ended_in_time(machine: Machine) -> None:
    behave(machine, Behaviour(exec_s=100_000.0), Behaviour())
    machine.controller.first = orders(hooked(post_start=(CALM,)))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING, 2)
        assert "`calm` did not end within 300 s" in controller.attempts[0].message


@on_virtual_time
async def test_a_stop_does_not_wait_for_a_hook_that_hangs(machine: Machine) -> None:
    behave(machine, Behaviour(exec_s=100_000.0))
    machine.controller.first = orders(order := hooked(post_start=(CALM,)))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.STARTING)
        await controller.beats(3)
        began = asyncio.get_running_loop().time()
        controller.say(incremental(stopped(order), sequence=2))
        await controller.until_state("t1", TaskState.STOPPED)
        assert asyncio.get_running_loop().time() - began < 15.0


@on_virtual_time
async def test_hooks_are_run_once_the_engine_is_back(machine: Machine) -> None:
    behave(machine, Behaviour(start_s=2.0, exec_s=2.0))
    machine.controller.first = orders(hooked(post_start=(CALM,)))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.STARTING)
        await asyncio.sleep(2.5)
        machine.engine.away = "the engine is being restarted"
        await controller.beats(20)
        machine.engine.away = ""
        assert (await controller.until_state("t1", TaskState.RUNNING)).attempt == 1
        assert not controller.attempts


@on_virtual_time
async def test_an_agent_that_was_restarted_runs_them_again_but_only_those_that_are_due(machine: Machine) -> None:
    behave(machine, Behaviour(exec_s=30.0))
    machine.controller.first = orders(hooked(post_start=(CALM,)))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.STARTING)
        await controller.beats(3)
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
    async with machine.running() as controller:
        await controller.beats(60)
        programs = machine.engine.by_task("t1").programs
    assert [argv for argv, _ in programs] == [("calm",), ("calm",)]


@on_virtual_time
async def test_pre_stop_hooks_run_before_the_signal_and_within_the_grace(machine: Machine) -> None:
    behave(machine, Behaviour(exec_s=3.0, stop_s=2.0, stop_exit_code=0))
    machine.controller.first = orders(order := hooked(pre_stop=(CALM, WARM)))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        began = asyncio.get_running_loop().time()
        controller.say(incremental(stopped(order), sequence=2))
        status = await controller.until_state("t1", TaskState.STOPPED)
        took_s = asyncio.get_running_loop().time() - began
        assert (status.exit_code, status.message) == (0, "")
        assert [argv[0] for argv, _ in machine.engine.by_task("t1").programs] == ["calm", "warm"]
    assert 8.0 <= took_s < 9.5, "three seconds each, then two for the signal"


@on_virtual_time
@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (Behaviour(exec_answer=ExecResult(code=4, output="busy"), stop_exit_code=0), "`calm` failed with code 4: busy"),
        (Behaviour(exec_s=100_000.0, stop_exit_code=0), "failed: `calm` did not end within 10 s and was killed"),
    ],
)
async def test_a_pre_stop_hook_that_fails_is_told_and_holds_nothing_up(
    machine: Machine, behaviour: Behaviour, said: str
) -> None:
    behave(machine, behaviour)
    machine.controller.first = orders(order := hooked(pre_stop=(CALM, WARM)))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        controller.say(incremental(stopped(order), sequence=2))
        status = await controller.until_state("t1", TaskState.STOPPED)
        assert status.message == f"pre_stop hook {said}"
        assert [argv[0] for argv, _ in machine.engine.by_task("t1").programs] == ["calm"], (
            "none after the one that failed"
        )


@on_virtual_time
async def test_a_program_that_ends_by_itself_is_beyond_pre_stop(machine: Machine) -> None:
    behave(machine, Behaviour(exit_after_s=5.0, exit_code=1), Behaviour())
    machine.controller.first = orders(hooked(pre_stop=(CALM,)))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        first = machine.engine.by_task("t1")
        await controller.until_state("t1", TaskState.RUNNING, 2)
        assert first.programs == []


@on_virtual_time
async def test_an_unhealthy_container_is_calmed_before_it_is_stopped(machine: Machine) -> None:
    behave(machine, Behaviour(), Behaviour())
    machine.controller.first = orders(hooked(pre_stop=(CALM,), health_check=CHECK))
    async with machine.running() as controller:
        await controller.until_health("t1", Health.HEALTHY)
        first = machine.engine.by_task("t1")
        first.behaviour = replace(first.behaviour, exec_answer=ExecResult(code=1, output="sick"))
        await controller.until_state("t1", TaskState.RUNNING, 2)
        assert [argv[0] for argv, _ in first.programs][-1] == "calm"
        assert "sick" in controller.attempts[0].message
