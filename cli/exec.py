"""`podium exec`: this terminal, or these pipes, for a program inside a task."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cli import terminal
from cli.errors import FAILED
from cli.messages import say
from client.client import Client
from client.exec import ExecConversation
from common.errors import Fault, Invalid
from common.model.session import LogStream, Program, TerminalSize

SIGPIPE_CODE = 141
"""128 + SIGPIPE: nobody reads our output any more."""


async def run(
    client: Client, namespace: str, name: str, argv: tuple[str, ...], *, interactive: bool, with_terminal: bool
) -> int:
    """The program's exit code. Raises `Invalid` when a terminal is asked for and there is none to give."""
    stdin = terminal.standard()[0]
    has_terminal = terminal.is_terminal(stdin)
    if with_terminal and not has_terminal:
        text = "the standard input is no terminal: leave -t out, as in `echo x | podium exec TASK -- cat`"
        raise Invalid([Fault(path="--tty", text=text)])
    program = Program(
        argv=argv,
        terminal=terminal.size() if with_terminal else None,
        term=os.environ.get("TERM", "") if with_terminal else "",
        input=interactive or not has_terminal,
    )
    async with client.exec(namespace, name, program) as conversation:
        with _handed_over(conversation, stdin, with_terminal):
            feeding = asyncio.create_task(_feed(conversation, stdin)) if program.input else None
            try:
                return await _print(conversation)
            finally:
                if feeding is not None:
                    feeding.cancel()
                    await asyncio.wait([feeding])


@contextmanager
def _handed_over(conversation: ExecConversation, stdin: int, with_terminal: bool) -> Iterator[None]:
    if not with_terminal:
        yield
        return
    telling: set[asyncio.Task[None]] = set()

    def resized(size: TerminalSize) -> None:
        telling.add(task := asyncio.create_task(conversation.resize(size)))
        task.add_done_callback(telling.discard)

    with terminal.raw(stdin), terminal.on_resize(resized):
        yield
    for task in telling:
        task.cancel()


async def _feed(conversation: ExecConversation, stdin: int) -> None:
    async for content in terminal.chunks(stdin):
        await conversation.write(content)
    await conversation.end_input()


async def _print(conversation: ExecConversation) -> int:
    """To its end. Written beside the event loop: a slow reader of ours must not cut the connection."""
    _, stdout, stderr = terminal.standard()
    while True:
        output = await conversation.read()
        if output.content:
            stream = stderr if output.stream is LogStream.STDERR else stdout
            try:
                await asyncio.to_thread(terminal.write, stream, output.content)
            except BrokenPipeError:
                return SIGPIPE_CODE
        if output.error:
            with suppress(OSError):
                say(f"\rerror: {output.error}" if terminal.is_terminal(stderr) else f"error: {output.error}")
            return FAILED
        if output.done:
            return output.exit_code
