"""The engineer's call that runs a program inside a task, from the request to the node's session and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from common.errors import Conflict, Invalid, NotFound, PodiumError, Unavailable
from common.model.program import BeginExec, ExecRequest
from common.model.session import CloseExec, ExecInput, ExecOutput, OpenExec, Program, StreamCredit, TerminalSize
from common.model.task import TaskReport, TaskState, TaskStatus
from tests.api_rig import Api, api, node
from tests.dispatcher_rig import Agent, job_records, running_status, task_of, web_spec

SH = Program(argv=("sh", "-c", "secret"), input=True)


RUNNING = TaskReport(task_id="t1", status=running_status())


class Call:
    """An engineer's end of the call."""

    def __init__(self, a: Api, name: str = "web.1", program: Program = SH) -> None:
        self.asked: asyncio.Queue[ExecRequest] = asyncio.Queue()
        self.heard: asyncio.Queue[ExecOutput] = asyncio.Queue()
        self.fetched = 0
        self.say(BeginExec(namespace="shop", name=name, program=program))
        self.running = asyncio.create_task(a.jobs.exec(self._requests(), self._hear))

    def say(self, body: BeginExec | ExecInput) -> None:
        self.asked.put_nowait(ExecRequest(body=body))

    async def _requests(self) -> AsyncIterator[ExecRequest]:
        while True:
            yield await self.asked.get()
            self.fetched += 1

    async def _hear(self, output: ExecOutput) -> None:
        self.heard.put_nowait(output)


def started(slot: int = 1, node_id: str = "n1") -> msgspec.Struct:
    return task_of(f"t{slot}", slot=slot, node_id=node_id, status=running_status())


async def begun(agent: Agent) -> str:
    opened = await agent.next(OpenExec)
    agent.say(ExecOutput(request_id=opened.request_id))
    return opened.request_id


async def test_a_call_from_begin_to_exit_code() -> None:
    async with api(node("n1"), *job_records(web_spec()), started()) as a:
        agent = await a.rig.agent("n1", RUNNING)
        call = Call(a)
        opened = await agent.next(OpenExec)
        assert (opened.task_id, opened.program) == ("t1", SH)
        agent.say(ExecOutput(request_id=opened.request_id))
        assert await call.heard.get() == ExecOutput()
        call.say(ExecInput(content=b"hello"))
        agent.say(StreamCredit(request_id=opened.request_id, amount=1_000))
        assert await agent.next(ExecInput) == ExecInput(request_id=opened.request_id, content=b"hello")
        agent.say(ExecOutput(request_id=opened.request_id, content=b"HELLO"))
        assert (await call.heard.get()).content == b"HELLO"
        assert await agent.next(StreamCredit) == StreamCredit(request_id=opened.request_id, amount=5)
        agent.say(ExecOutput(request_id=opened.request_id, done=True, exit_code=7))
        assert await call.heard.get() == ExecOutput(done=True, exit_code=7)
        await call.running
        assert (await agent.next(CloseExec)).request_id == opened.request_id
        (event,) = [event for event in a.events.since(0.0) if event.kind == "task.exec"]
        assert "runs sh inside it" in event.message
        assert "secret" not in event.message


async def test_input_waits_with_the_engineer_until_the_node_takes_it() -> None:
    async with api(node("n1"), *job_records(web_spec()), started()) as a:
        agent = await a.rig.agent("n1", RUNNING)
        call = Call(a)
        request_id = await begun(agent)
        await call.heard.get()
        for _ in range(50):
            call.say(ExecInput(content=b"k"))
        agent.say(StreamCredit(request_id=request_id, amount=256 * 3))
        for _ in range(3):
            await agent.next(ExecInput)
        await asyncio.sleep(0)
        assert call.fetched <= 5, "the begin, three that were sent, and the one that waits"
        call.running.cancel()
        await asyncio.wait([call.running])
        assert (await agent.next(CloseExec)).request_id == request_id


async def test_a_node_that_sends_more_than_it_may_is_not_kept_in_memory() -> None:
    async with api(node("n1"), *job_records(web_spec()), started()) as a:
        agent = await a.rig.agent("n1", RUNNING)
        async with a.term.execs.open("n1", "t1", SH) as channel:
            opened = await agent.next(OpenExec)
            for _ in range(100):
                channel.put(ExecOutput(request_id=opened.request_id, content=b"x" * 16_384))
            held = 0
            while not (output := await channel.read()).done:
                held += len(output.content)
            assert held <= 2 * opened.window
            assert "more output than it was allowed" in output.error


async def test_a_broken_session_ends_the_program_with_the_reason() -> None:
    async with api(node("n1"), *job_records(web_spec()), started()) as a:
        agent = await a.rig.agent("n1", RUNNING)
        call = Call(a)
        await begun(agent)
        await call.heard.get()
        agent.link.broken.set()
        last = await call.heard.get()
        assert last.done
        assert "connection broke" in last.error


@pytest.mark.parametrize(
    ("name", "program", "kind", "words"),
    [
        ("web.1", Program(argv=()), Invalid, "names no program"),
        ("web.1", Program(argv=("a\0b",)), Invalid, "NUL"),
        ("web.1", Program(argv=("sh",), terminal=TerminalSize(columns=-1, rows=5)), Invalid, "-1 columns"),
        ("web.1", Program(argv=("sh",), term="a\nb"), Invalid, "no kind of terminal"),
        ("nope", SH, NotFound, "'nope'"),
        ("web", SH, Conflict, "has 2 running tasks: name one of them, e.g. web.1, web.2"),
        ("web.3", SH, Conflict, "has ended (failed)"),
        ("web.2", SH, Unavailable, "not connected"),
    ],
)
async def test_what_is_refused_and_why(name: str, program: Program, kind: type[PodiumError], words: str) -> None:
    failed = task_of("t3", slot=3, status=TaskStatus(state=TaskState.FAILED))
    async with api(node("n1"), node("n2"), *job_records(web_spec()), started(), started(2, "n2"), failed) as a:
        await a.rig.agent("n1", RUNNING)
        with pytest.raises(kind, match=words.replace("(", r"\(").replace(")", r"\)")):
            await Call(a, name, program).running


async def test_what_the_node_refuses_is_told() -> None:
    async with api(node("n1"), *job_records(web_spec()), started()) as a:
        agent = await a.rig.agent("n1", RUNNING)
        call = Call(a, "web")
        opened = await agent.next(OpenExec)
        agent.say(ExecOutput(request_id=opened.request_id, done=True, error="the task has ended"))
        with pytest.raises(Conflict, match="the task has ended"):
            await call.running
