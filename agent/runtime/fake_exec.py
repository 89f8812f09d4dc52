"""A pretended program that somebody talks to: says what it is told to say, then echoes its input until that ends."""

from __future__ import annotations

import asyncio

from agent.runtime.interface import ExecPiece, ExecResult
from common.model.session import LogStream, Program, TerminalSize

PIECES_WAITING = 4


class FakeExec:
    """Implements `ExecSession`. Tests may read what it was told."""

    def __init__(self, program: Program, answer: ExecResult) -> None:
        self.program = program
        self.sizes: list[TerminalSize] = [program.terminal] if program.terminal is not None else []
        self._code = answer.code
        self._pieces: asyncio.Queue[ExecPiece | None] = asyncio.Queue(PIECES_WAITING)
        if answer.output:
            self._pieces.put_nowait(ExecPiece(LogStream.STDOUT, answer.output.encode()))
        if not program.input:
            self._pieces.put_nowait(None)

    async def read(self) -> ExecPiece | None:
        return await self._pieces.get()

    async def write(self, content: bytes) -> None:
        await self._pieces.put(ExecPiece(LogStream.STDOUT, content))

    async def end_input(self) -> None:
        await self._pieces.put(None)

    async def resize(self, size: TerminalSize) -> None:
        self.sizes.append(size)

    async def exit_code(self) -> int:
        return self._code
