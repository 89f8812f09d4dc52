"""A program that runs beside a process task and that somebody talks to: over three pipes or over a terminal.

It has the task's user, folder, environment and control groups, and a session of its own. It ends with the task, and
when whoever talks to it leaves; what it started goes with it, as nothing else would ever end that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agent.runtime.interface import ExecPiece, ExecSession
from agent.runtime.process_exec import CLOSE_TIMEOUT_S, READ_BYTES, becoming, join_groups, kill_group
from agent.runtime.process_files import StoredRequest
from common.errors import Unavailable
from common.model.session import LogStream, Program, TerminalSize

END_OF_INPUT = b"\x04"
PIECES_WAITING = 4
"""Read from the program's pipes and not fetched yet; then it is left to wait."""


@asynccontextmanager
async def attached(request: StoredRequest, program: Program, ended: asyncio.Event) -> AsyncIterator[ExecSession]:
    """See `Runtime.open_exec`. `ended` is set when the task ends."""
    open_session = _with_terminal if program.terminal is not None else _with_pipes
    async with open_session(request, program) as (session, process):
        watch = asyncio.create_task(_end_with(process, ended))
        try:
            yield session
        finally:
            watch.cancel()
            kill_group(process)
            await asyncio.shield(process.wait())


async def _end_with(process: Process, ended: asyncio.Event) -> None:
    await ended.wait()
    kill_group(process)


async def _start(request: StoredRequest, program: Program, stdin: int, stdout: int, stderr: int) -> Process:
    term = {"TERM": program.term} if program.term else {}
    try:
        process = await asyncio.create_subprocess_exec(
            *becoming(request),
            *program.argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=request.working_dir,
            env={**request.environment, **term},
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"no program can be started: {error.strerror}") from None
    join_groups(request, process.pid)
    return process


def _code(process: Process) -> int:
    code = process.returncode
    assert code is not None
    return code if code >= 0 else 128 - code


# --- pipes


@asynccontextmanager
async def _with_pipes(request: StoredRequest, program: Program) -> AsyncIterator[tuple[ExecSession, Process]]:
    process = await _start(request, program, PIPE if program.input else DEVNULL, PIPE, PIPE)
    session = _Pipes(process)
    reading = asyncio.create_task(session.read_all())
    try:
        yield session, process
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public closes a pipe that others hold


class _Pipes:
    def __init__(self, process: Process) -> None:
        self._process = process
        self._pieces: asyncio.Queue[ExecPiece | None] = asyncio.Queue(PIECES_WAITING)

    async def read_all(self) -> None:
        """Into the queue, until the program has ended and what it wrote is read."""
        copies = [
            asyncio.create_task(self._copy(pipe, stream))
            for pipe, stream in (
                (self._process.stdout, LogStream.STDOUT),
                (self._process.stderr, LogStream.STDERR),
            )
        ]
        try:
            await self._process.wait()
            kill_group(self._process)  # what it left running holds its output open, and nobody waits for that
            while (await asyncio.wait(copies, timeout=CLOSE_TIMEOUT_S))[1] and not self._pieces.empty():
                pass  # nobody fetches it just now
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.wait(copies)
        await self._pieces.put(None)

    async def _copy(self, pipe: asyncio.StreamReader | None, stream: LogStream) -> None:
        assert pipe is not None
        while content := await pipe.read(READ_BYTES):
            await self._pieces.put(ExecPiece(stream, content))

    async def read(self) -> ExecPiece | None:
        return await self._pieces.get()

    async def write(self, content: bytes) -> None:
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                stdin.write(content)
                await stdin.drain()

    async def end_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def resize(self, size: TerminalSize) -> None:
        """There is no terminal."""

    async def exit_code(self) -> int:
        await self._process.wait()
        return _code(self._process)


# --- terminal


@asynccontextmanager
async def _with_terminal(request: StoredRequest, program: Program) -> AsyncIterator[tuple[ExecSession, Process]]:
    ours, theirs = os.openpty()
    try:
        os.set_blocking(ours, False)
        if program.terminal is not None:
            _set_size(ours, program.terminal)
        try:
            process = await _start(request, program, theirs, theirs, theirs)
        finally:
            os.close(theirs)
        session = _Terminal(ours, process)
        waiting = asyncio.create_task(session.until_ended())
        try:
            if not program.input:
                await session.end_input()
            yield session, process
        finally:
            waiting.cancel()
    finally:
        os.close(ours)  # hangs up on whatever still has the other end


class _Terminal:
    """Our end of a terminal. The kernel keeps little for either side: whoever does not read makes the other wait."""

    def __init__(self, end: int, process: Process) -> None:
        self._end = end
        self._process = process
        self._wake = asyncio.Event()
        self._ended = False

    async def until_ended(self) -> None:
        await self._process.wait()
        kill_group(self._process)
        self._ended = True
        self._wake.set()

    async def read(self) -> ExecPiece | None:
        loop = asyncio.get_running_loop()
        while True:
            last = self._ended  # asked before reading: what was written before the end is read after it
            try:
                content = os.read(self._end, READ_BYTES)
            except BlockingIOError:
                if last:
                    return None
                self._wake.clear()
                await _ready(lambda wake: loop.add_reader(self._end, wake), self._stop_reading, self._wake)
                continue
            except OSError:  # nobody has the other end any more
                content = b""
            return ExecPiece(LogStream.STDOUT, content) if content else None

    async def write(self, content: bytes) -> None:
        loop = asyncio.get_running_loop()
        left = memoryview(content)
        while left and not self._ended:
            try:
                left = left[os.write(self._end, left) :]
            except BlockingIOError:
                await _ready(lambda wake: loop.add_writer(self._end, wake), self._stop_writing, asyncio.Event())
            except OSError:
                return

    async def end_input(self) -> None:
        await self.write(END_OF_INPUT)

    async def resize(self, size: TerminalSize) -> None:
        with contextlib.suppress(OSError):
            _set_size(self._end, size)

    async def exit_code(self) -> int:
        await self._process.wait()
        return _code(self._process)

    def _stop_reading(self) -> None:
        asyncio.get_running_loop().remove_reader(self._end)

    def _stop_writing(self) -> None:
        asyncio.get_running_loop().remove_writer(self._end)


async def _ready(begin: Callable[[Callable[[], None]], object], stop: Callable[[], None], wake: asyncio.Event) -> None:
    begin(wake.set)
    try:
        await wake.wait()
    finally:
        stop()


def _set_size(terminal: int, size: TerminalSize) -> None:
    """The kernel tells the program in the foreground."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))
