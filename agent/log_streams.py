"""Sends the output of tasks to the controller that asked for it, in small pieces, as long as the session lasts.

A stream follows its task from attempt to attempt. Never keeps output: what the link does not take, it does not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import msgspec

from agent.settings import AgentBounds
from agent.task_runner import TaskRunner
from agent.worker import Worker
from common.credit import Credit
from common.errors import PodiumError
from common.model.session import CloseLog, LogChunk, LogLine, OpenLog, StreamCredit

logger = logging.getLogger(__name__)

Send = Callable[[LogChunk], Awaitable[None]]

_END = None
"""Marks the end of a stream's lines in its queue."""


class LogStreams:
    """The streams of one session; they end with `group`."""

    def __init__(self, worker: Worker, bounds: AgentBounds, send: Send, group: asyncio.TaskGroup) -> None:
        self._worker = worker
        self._bounds = bounds
        self._send = send
        self._group = group
        self._open: dict[str, asyncio.Task[None]] = {}
        self._credits: dict[str, Credit] = {}

    def open(self, request: OpenLog) -> None:
        """Begin a stream; a repeated request changes nothing."""
        if request.request_id not in self._open:
            task = self._group.create_task(self._serve(request), name=f"log {request.task_id}")
            self._open[request.request_id] = task
            task.add_done_callback(lambda _task: self._open.pop(request.request_id, None))

    def close(self, request: CloseLog) -> None:
        """The reader has left."""
        task = self._open.get(request.request_id)
        if task is not None:
            task.cancel()

    def credit(self, more: StreamCredit) -> None:
        """The reader has read lines of what it was sent, and takes more."""
        if more.request_id in self._credits:
            self._credits[more.request_id].add(more.amount)

    async def _serve(self, request: OpenLog) -> None:
        if len(self._open) > self._bounds.log_streams:
            error = f"{self._bounds.log_streams} logs of this node are open already; close one first"
        else:
            error = await self._copy(request)
        await self._send(LogChunk(request_id=request.request_id, done=True, error=error))

    async def _copy(self, request: OpenLog) -> str:
        """Read and send at the same time, so that lines which come close together travel together."""
        lines: asyncio.Queue[LogLine | None] = asyncio.Queue(maxsize=self._bounds.log_chunk_lines)
        reader = self._group.create_task(self._read(request, lines))
        if request.window:
            self._credits[request.request_id] = Credit(request.window)
        try:
            while chunk := await self._next_chunk(lines):
                if request.window:
                    await self._credits[request.request_id].spend(len(chunk))
                await self._send(LogChunk(request_id=request.request_id, lines=chunk))
            return await reader
        finally:
            reader.cancel()
            self._credits.pop(request.request_id, None)

    async def _next_chunk(self, lines: asyncio.Queue[LogLine | None]) -> tuple[LogLine, ...]:
        """What is there, at least one line; empty at the end."""
        chunk: list[LogLine] = []
        size_bytes = 0
        while not chunk or (not lines.empty() and size_bytes < self._bounds.log_chunk_bytes):
            line = await lines.get()
            if line is _END:
                lines.put_nowait(_END)  # there is room: one was just taken
                break
            chunk.append(line)
            size_bytes += len(line.text)
            if len(chunk) >= self._bounds.log_chunk_lines:
                break
        return tuple(chunk)

    async def _read(self, request: OpenLog, lines: asyncio.Queue[LogLine | None]) -> str:
        """Why there is no more; empty at the ordinary end."""
        problem = ""
        try:
            async with aclosing(_lines_of(self._worker.runner(request.task_id), request)) as output:
                async for line in output:
                    await lines.put(line)
        except PodiumError as error:
            problem = str(error)
        await lines.put(_END)
        return problem


async def _lines_of(runner: TaskRunner, request: OpenLog) -> AsyncGenerator[LogLine, None]:
    """Of the task's present or last container, and with `follow` of those that come after it."""
    seen, tail = "", request.tail
    while True:
        container_id = runner.memory.log_container_id
        if container_id and container_id != seen:
            seen = container_id
            labels = {"task_id": runner.task_id, "job": _job(runner), "slot": runner.memory.assignment.slot}
            output = runner.runtime.logs(container_id, tail=tail, since_s=request.since_s, follow=request.follow)
            async for line in output:
                yield msgspec.structs.replace(line, **labels)
            tail = -1  # of a later attempt, everything is new
        elif not request.follow or runner.ended:
            return
        else:
            await runner.changed()


def _job(runner: TaskRunner) -> str:
    return runner.memory.assignment.job_name
