"""One program that runs inside a task, seen from the engineer's side: its input goes in, its output comes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from common.errors import Unavailable
from common.model.program import BeginExec, ExecRequest
from common.model.session import ExecInput, ExecOutput, TerminalSize

INPUT_BYTES = 16 * 1024
"""Of one message: small pieces share the node's session well."""
INPUTS_WAITING = 8
"""Until the controller takes them, which it does when the program's node does; then `write` waits."""


class ExecConversation:
    """Made by `Client.exec`, for one reader and one writer."""

    def __init__(self, begin: BeginExec) -> None:
        self._begin = begin
        self._inputs: asyncio.Queue[ExecInput] = asyncio.Queue(INPUTS_WAITING)
        self._answers: AsyncGenerator[ExecOutput, None] | None = None

    async def requests(self) -> AsyncIterator[ExecRequest]:
        """What goes to the controller."""
        yield ExecRequest(body=self._begin)
        while True:
            given = await self._inputs.get()
            yield ExecRequest(body=given)

    async def begun(self, answers: AsyncGenerator[ExecOutput, None]) -> None:
        """Until the program runs. Raises what keeps it from that."""
        if await anext(answers, None) is None:
            raise Unavailable("the controller ended the call without a word")
        self._answers = answers

    async def write(self, content: bytes) -> None:
        """Give it input, waiting while it takes none."""
        for start in range(0, len(content), INPUT_BYTES):
            await self._inputs.put(ExecInput(content=content[start : start + INPUT_BYTES]))

    async def end_input(self) -> None:
        await self._inputs.put(ExecInput(end=True))

    async def resize(self, size: TerminalSize) -> None:
        await self._inputs.put(ExecInput(size=size))

    async def read(self) -> ExecOutput:
        """What it writes next; the last answer has `done` and its exit code, or why it was ended.

        A program ends with the connection, and nothing resumes it: not even another leader can.
        """
        assert self._answers is not None, "the program has not begun"
        try:
            answer = await anext(self._answers, None)
        except Unavailable as error:
            text = f"the connection to the controller broke, and the program was ended with it; run it again ({error})"
            return ExecOutput(done=True, error=text)
        return answer or ExecOutput(done=True, error="the controller ended the call without a word")
