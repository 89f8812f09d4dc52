"""Programs that engineers run inside tasks, over the node's session: begun, fed, read and ended as the controller says.

They end with the session: who comes back begins anew. Bounded by credit in both directions, so neither a program that
writes fast nor one that reads nothing takes memory or the session's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent.runtime.interface import ExecSession
from agent.settings import AgentBounds
from agent.worker import Worker
from common.credit import Credit
from common.errors import Conflict, PodiumError
from common.model.session import CloseExec, ExecInput, ExecOutput, OpenExec, StreamCredit, input_cost

Send = Callable[[ExecOutput | StreamCredit], Awaitable[None]]


class ExecStreams:
    """The programs of one session; they end with `group`."""

    def __init__(self, worker: Worker, bounds: AgentBounds, send: Send, group: asyncio.TaskGroup) -> None:
        self._worker = worker
        self._bounds = bounds
        self._send = send
        self._group = group
        self._open: dict[str, _Exec] = {}

    def open(self, request: OpenExec) -> None:
        """Begin a program; a repeated request changes nothing."""
        if request.request_id in self._open:
            return
        opened = self._open[request.request_id] = _Exec(request, self._bounds, self._send)
        opened.task = self._group.create_task(self._serve(opened), name=f"exec {request.task_id}")
        opened.task.add_done_callback(lambda _task: self._open.pop(request.request_id, None))

    def input(self, given: ExecInput) -> None:
        if given.request_id in self._open:
            self._open[given.request_id].take(given)

    def credit(self, more: StreamCredit) -> None:
        if more.request_id in self._open:
            self._open[more.request_id].output.add(more.amount)

    def close(self, request: CloseExec) -> None:
        """Whoever asked has left."""
        opened = self._open.get(request.request_id)
        if opened is not None and opened.task is not None:
            opened.task.cancel()

    async def _serve(self, opened: _Exec) -> None:
        request = opened.request
        try:
            last = ExecOutput(request_id=request.request_id, done=True, exit_code=await self._run(opened))
        except PodiumError as error:
            last = ExecOutput(request_id=request.request_id, done=True, error=str(error))
        await self._send(last)

    async def _run(self, opened: _Exec) -> int:
        """The program's exit code. Raises a `PodiumError` with why there is none."""
        if len(self._open) > self._bounds.execs:
            raise Conflict(f"{self._bounds.execs} programs are run inside tasks of this node already; end one first")
        runner = self._worker.runner(opened.request.task_id)
        memory = runner.memory
        if runner.ended:
            raise Conflict("the task has ended: nothing can be run inside it")
        if not memory.runs:
            raise Conflict(f"the task is {memory.status.state.value}: nothing can be run inside it yet")
        async with runner.runtime.open_exec(memory.container_id, opened.request.program) as session:
            return await opened.talk(session)


class _Exec:
    """One program."""

    def __init__(self, request: OpenExec, bounds: AgentBounds, send: Send) -> None:
        self.request = request
        self.output = Credit(request.window)
        self.task: asyncio.Task[None] | None = None
        self._bounds = bounds
        self._send = send
        self._inputs: asyncio.Queue[ExecInput] = asyncio.Queue()
        self._waiting_bytes = 0
        self._flooded = asyncio.Event()
        self._patience = asyncio.timeout(None)

    def take(self, given: ExecInput) -> None:
        """Input came. More than was allowed ends the program: memory is not the sender's to take."""
        self._waiting_bytes += input_cost(given)
        if self._waiting_bytes > 2 * self._bounds.exec_window_bytes:
            self._flooded.set()
        else:
            self._inputs.put_nowait(given)

    async def talk(self, session: ExecSession) -> int:
        """Until the program has ended; its exit code."""
        await self._send(ExecOutput(request_id=self.request.request_id))
        await self._allow(self._bounds.exec_window_bytes)
        reading = asyncio.create_task(self._copy_output(session))
        working = (reading, asyncio.create_task(self._feed(session)), asyncio.create_task(self._watch_flood()))
        try:
            async with self._patience:
                self._hear()
                await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                for ended in working:
                    if ended.done():
                        ended.result()
                return await session.exit_code()
        except TimeoutError:
            text = f"nothing was said or typed for {self._bounds.exec_idle_s:g} s: the program was ended"
            raise Conflict(text) from None
        finally:
            for one in working:
                one.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _copy_output(self, session: ExecSession) -> None:
        while (piece := await session.read()) is not None:
            self._hear()
            await self.output.spend(len(piece.content))
            await self._send(ExecOutput(request_id=self.request.request_id, stream=piece.stream, content=piece.content))

    async def _feed(self, session: ExecSession) -> None:
        """What comes in, in order. Never returns: a program may go on without input."""
        while True:
            given = await self._inputs.get()
            self._hear()
            if given.size is not None:
                await session.resize(given.size)
            if given.content:
                await session.write(given.content)
            if given.end:
                await session.end_input()
            self._waiting_bytes -= input_cost(given)
            await self._allow(input_cost(given))

    async def _allow(self, amount: int) -> None:
        if self.request.program.input or self.request.program.terminal is not None:
            await self._send(StreamCredit(request_id=self.request.request_id, amount=amount))

    async def _watch_flood(self) -> None:
        await self._flooded.wait()
        raise Conflict("more input came than was allowed: the program was ended")

    def _hear(self) -> None:
        if not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + self._bounds.exec_idle_s)
