"""Programs of engineers inside tasks, as an agent runs them for its controller."""

from __future__ import annotations

import pytest

from agent.runtime.fake import Behaviour
from agent.runtime.interface import ExecResult
from agent.settings import AgentBounds
from common.model.session import (
    CloseExec,
    ExecInput,
    ExecOutput,
    OpenExec,
    Program,
    StreamCredit,
    TerminalSize,
    input_cost,
)
from common.model.task import TaskState
from tests.agent_builders import assignment, restart
from tests.agent_rig import Controller, Machine, orders
from tests.unit.test_agent_tasks import behave, running
from tests.virtual_time import on_virtual_time

CAT = Program(argv=("cat",), input=True)
WINDOW = 1 << 20


@pytest.fixture
def machine() -> Machine:
    return Machine()


def begin(controller: Controller, *, program: Program = CAT, window: int = WINDOW, request_id: str = "r") -> None:
    controller.say(OpenExec(request_id=request_id, task_id="t1", program=program, window=window))


async def end_of(controller: Controller, request_id: str = "r") -> ExecOutput:
    def last() -> list[ExecOutput]:
        return [one for one in controller.of(ExecOutput) if one.done and one.request_id == request_id]

    await controller.until(lambda: bool(last()), "the program's end")
    return last()[0]


def written(controller: Controller) -> bytes:
    return b"".join(one.content for one in controller.of(ExecOutput))


@on_virtual_time
async def test_a_program_is_fed_read_and_ends_with_its_code(machine: Machine) -> None:
    behave(machine, Behaviour(exec_answer=ExecResult(code=3, output="ready\n")))
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        begin(controller, program=Program(argv=("sh",), input=True, terminal=TerminalSize(columns=80, rows=24)))
        await controller.until(lambda: b"ready" in written(controller), "its first words")
        assert controller.of(ExecOutput)[0] == ExecOutput(request_id="r"), "it says first that it runs"
        controller.say(ExecInput(request_id="r", content=b"hello", size=TerminalSize(columns=90, rows=30)))
        controller.say(ExecInput(request_id="r", end=True))
        last = await end_of(controller)
        assert (written(controller), last.exit_code, last.error) == (b"ready\nhello", 3, "")
        sizes = machine.engine.by_task("t1").execs[0].sizes
        assert [(size.columns, size.rows) for size in sizes] == [(80, 24), (90, 30)]


@on_virtual_time
async def test_no_more_output_is_under_way_than_is_allowed(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        begin(controller, window=1_000)
        for _ in range(10):
            controller.say(ExecInput(request_id="r", content=b"x" * 600))
        await controller.beats(2)
        assert len(written(controller)) == 1_200
        controller.say(StreamCredit(request_id="r", amount=10_000))
        await controller.until(lambda: len(written(controller)) == 6_000, "the rest")


@on_virtual_time
async def test_input_is_allowed_as_the_program_takes_it_and_too_much_ends_it(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        begin(controller, window=1)
        first = (await controller.until_heard(StreamCredit))[0]
        key = ExecInput(request_id="r", content=b"k")
        controller.say(key)
        assert (await controller.until_heard(StreamCredit, 2))[1].amount == input_cost(key) == 256
        for _ in range(20):
            controller.say(ExecInput(request_id="r", content=b"x" * (first.amount // 8)))
        assert "more input came than was allowed" in (await end_of(controller)).error
        await controller.beats(2)
        assert len(controller.registers) == 1


@on_virtual_time
async def test_nothing_is_run_inside_a_task_that_has_ended(machine: Machine) -> None:
    behave(machine, Behaviour(exit_after_s=1.0))
    machine.controller.first = orders(assignment(restart=restart("none")))
    async with machine.running() as controller:
        await controller.until_state("t1", TaskState.COMPLETE)
        begin(controller)
        assert (await end_of(controller)).error == "the task has ended: nothing can be run inside it"
        controller.say(OpenExec(request_id="s", task_id="nobody", program=CAT, window=1))
        assert "nobody" in (await end_of(controller, "s")).error


@on_virtual_time
async def test_only_so_many_programs_at_a_time(machine: Machine) -> None:
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        for number in range(17):
            begin(controller, request_id=f"r{number}")
        refused = await end_of(controller, "r16")
        assert "16 programs" in refused.error
        controller.say(CloseExec(request_id="r0"))
        await controller.beats(1)
        begin(controller, request_id="again")
        await controller.until(
            lambda: any(one.request_id == "again" and not one.done for one in controller.of(ExecOutput)), "its begin"
        )


@on_virtual_time
async def test_a_program_nobody_talks_to_is_ended(machine: Machine) -> None:
    machine.bounds = AgentBounds(exec_idle_s=5.0)
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        begin(controller)
        await controller.beats(4)
        controller.say(ExecInput(request_id="r", content=b"k"))
        await controller.beats(4)
        assert not any(one.done for one in controller.of(ExecOutput))
        assert "nothing was said or typed for 5 s" in (await end_of(controller)).error
