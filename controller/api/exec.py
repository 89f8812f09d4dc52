"""Runs a program inside a task for one engineer, for as long as the call lasts: input in, output and exit code out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from common.errors import Conflict, Fault, Invalid, Unavailable
from common.model.program import BeginExec, ExecRequest
from common.model.session import ExecInput, ExecOutput, Program, TerminalSize
from common.model.task import Task, TaskState
from common.settings import LIMITS
from controller.api.names import find_job_or_task
from controller.api.term import ApiTerm
from controller.core.events import exec_event, task_subject
from controller.dispatcher.execs import ExecChannel

INPUT_BYTES = 64 * 1024
"""Of one message: it shares the node's session with heartbeats."""
TERMINAL_LIMIT = 10_000
"""Columns or rows: the kernel takes more, no screen has them."""

Send = Callable[[ExecOutput], Awaitable[None]]


async def run_exec(term: ApiTerm, requests: AsyncIterator[ExecRequest], send: Send) -> None:
    """Serve one call: the first request begins the program, the others are its input.

    Raises `Invalid` for a request that makes no sense, `NotFound`, `Conflict` when nothing can be run inside the task,
    `Unavailable` when its node is away.
    """
    begin = await _first(requests)
    task = _task_to_enter(term, begin)
    async with term.execs.open(task.node_id, task.id, begin.program) as channel:
        await _begun(channel, term.execs.begin_timeout_s)
        term.events.record(exec_event(task, begin.program))
        await send(ExecOutput())
        await _carry(channel, requests, send)


async def _first(requests: AsyncIterator[ExecRequest]) -> BeginExec:
    first = await anext(requests, None)
    if first is None or not isinstance(first.body, BeginExec):
        raise Invalid("the first request of the call says what to run: begin_exec")
    if faults := list(_faults(first.body.program)):
        raise Invalid(faults)
    return first.body


def _faults(program: Program) -> Iterator[Fault]:
    if not program.argv or not program.argv[0]:
        yield Fault(path="program.argv", text="names no program; say what to run, e.g. `-- sh`")
    if any("\0" in argument for argument in program.argv):
        yield Fault(path="program.argv", text="holds a NUL character, which no argument can")
    if sum(len(argument.encode()) for argument in program.argv) > LIMITS.environment_bytes:
        yield Fault(path="program.argv", text=f"is longer than {LIMITS.environment_bytes} bytes")
    if any(mark in program.term for mark in "\0=\n") or len(program.term) > 100:
        yield Fault(path="program.term", text="is no kind of terminal")
    yield from _size_faults("program.terminal", program.terminal)


def _size_faults(path: str, size: TerminalSize | None) -> Iterator[Fault]:
    if size is not None and not (0 <= size.columns <= TERMINAL_LIMIT and 0 <= size.rows <= TERMINAL_LIMIT):
        text = f"{size.columns} columns and {size.rows} rows given; 0 to {TERMINAL_LIMIT} of each are allowed"
        yield Fault(path=path, text=text)


def _task_to_enter(term: ApiTerm, begin: BeginExec) -> Task:
    found = find_job_or_task(term.state, begin.namespace, begin.name)
    if isinstance(found, Task):
        _check_runs(found)
        return found
    running = [
        task
        for task in term.state.tasks_of_job(found.id).values()
        if task.status.state is TaskState.RUNNING and not task.lost_at_s
    ]
    if len(running) == 1:
        return running[0]
    if not running:
        raise Conflict(f"job {found.full_name} has no running task: nothing can be run inside it")
    names = ", ".join(sorted(f"{task.job}.{task.slot}" for task in running)[:5])
    raise Conflict(f"job {found.full_name} has {len(running)} running tasks: name one of them, e.g. {names}")


def _check_runs(task: Task) -> None:
    subject, state = task_subject(task), task.status.state.value
    if task.ended:
        raise Conflict(f"{subject} has ended ({state}): nothing can be run inside it; `podium logs` shows its output")
    if task.lost_at_s:
        raise Conflict(f"{subject} is lost with its node: nothing can be run inside it")
    if not task.node_id:
        raise Conflict(f"{subject} has no node yet: nothing can be run inside it")


async def _begun(channel: ExecChannel, timeout_s: float) -> None:
    """Until the node has begun it, or said why not."""
    try:
        async with asyncio.timeout(timeout_s):
            first = await channel.read()
    except TimeoutError:
        raise Unavailable(f"its node did not begin the program within {timeout_s:g} s") from None
    if first.error:
        raise Conflict(first.error)


async def _carry(channel: ExecChannel, requests: AsyncIterator[ExecRequest], send: Send) -> None:
    """Both ways until the program has ended."""
    feeding = asyncio.create_task(_feed(channel, requests))
    reading = asyncio.create_task(_read(channel, send))
    try:
        await asyncio.wait((feeding, reading), return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            feeding.result()
        await reading
    finally:
        for one in (feeding, reading):
            one.cancel()
        await asyncio.gather(feeding, reading, return_exceptions=True)


async def _feed(channel: ExecChannel, requests: AsyncIterator[ExecRequest]) -> None:
    """The engineer is asked for more only when the node takes it: so what waits, waits with the engineer."""
    async for request in requests:
        given = request.body
        if not isinstance(given, ExecInput):
            raise Invalid("a call begins one program")
        if len(given.content) > INPUT_BYTES:
            raise Invalid(f"{len(given.content)} bytes of input in one request; at most {INPUT_BYTES} are allowed")
        if faults := list(_size_faults("size", given.size)):
            raise Invalid(faults)
        await channel.send(given)


async def _read(channel: ExecChannel, send: Send) -> None:
    while True:
        output = await channel.read()
        await send(output)
        if output.done:
            return
