"""A program inside a container of an engine that somebody talks to, over a connection of its own to the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiodocker.stream import Stream

from agent.runtime.docker_engine import Engine
from agent.runtime.docker_exec import exit_code, kill
from agent.runtime.interface import ExecManner, ExecPiece, ExecSession
from common.errors import Conflict, NotFound, Unavailable
from common.model.session import LogStream, Program, TerminalSize

PIECE_BYTES = 16 * 1024
END_OF_INPUT = b"\x04"
RESIZE_TRIES = 10
RESIZE_WAIT_S = 0.02
"""The engine answers that it has started a program a moment before its terminal can be given a size."""
_STDERR = 2


@asynccontextmanager
async def attached(engine: Engine, container_id: str, program: Program) -> AsyncIterator[ExecSession]:
    """See `Runtime.open_exec`."""
    tty = program.terminal is not None
    manner = ExecManner(environment={"TERM": program.term} if program.term else {})
    exec_id = await engine.create_exec(container_id, program.argv, stdin=program.input, tty=tty, manner=manner)
    async with engine.attach_exec(exec_id, tty=tty) as stream:
        session = _Attached(engine, exec_id, stream, tty=tty)
        try:
            if program.terminal is not None:
                await session.resize(program.terminal)
            yield session
        finally:
            if not session.ended:
                await kill(engine, exec_id, container_id)


class _Attached:
    def __init__(self, engine: Engine, exec_id: str, stream: Stream, *, tty: bool) -> None:
        self._engine = engine
        self._exec_id = exec_id
        self._stream = stream
        self._tty = tty
        self._rest: deque[ExecPiece] = deque()
        self.ended = False

    async def read(self) -> ExecPiece | None:
        while not self._rest:
            try:
                message = await self._stream.read_out()
            except (OSError, RuntimeError) as error:
                raise Unavailable(f"lost Docker Engine while the program ran: {error}") from None
            if message is None:
                self.ended = True
                return None
            stream = LogStream.STDERR if message.stream == _STDERR else LogStream.STDOUT
            content = message.data
            starts = range(0, len(content), PIECE_BYTES)
            self._rest.extend(ExecPiece(stream, content[start : start + PIECE_BYTES]) for start in starts)
        return self._rest.popleft()

    async def write(self, content: bytes) -> None:
        with contextlib.suppress(OSError, RuntimeError, AssertionError):  # it has ended, and its connection with it
            await self._stream.write_in(content)

    async def end_input(self) -> None:
        if self._tty:
            await self.write(END_OF_INPUT)
            return
        response = self._stream._resp  # noqa: SLF001 - aiodocker can only close both directions
        connection = response.connection if response is not None else None
        if connection is not None and connection.transport is not None:
            with contextlib.suppress(OSError, RuntimeError):
                connection.transport.write_eof()

    async def resize(self, size: TerminalSize) -> None:
        for _ in range(RESIZE_TRIES if self._tty and not self.ended else 0):
            with contextlib.suppress(Conflict, NotFound, Unavailable):  # it has not quite begun, or it has ended
                return await self._engine.resize_exec(self._exec_id, size.columns, size.rows)
            await asyncio.sleep(RESIZE_WAIT_S)
        return None

    async def exit_code(self) -> int:
        return await exit_code(self._engine, self._exec_id)
