"""This process's own terminal, handed to a program elsewhere: every key goes through, and it is always given back.

Decides nothing about the program. Reading never takes a key that nobody waits for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

from common.model.session import TerminalSize

READ_BYTES = 16 * 1024


def is_terminal(descriptor: int) -> bool:
    return os.isatty(descriptor)


def size() -> TerminalSize:
    found = shutil.get_terminal_size()
    return TerminalSize(columns=found.columns, rows=found.lines)


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Every key goes to whoever reads, ^C and ^D included. As it was before, however this ends.

    Signals that would end this process end it through the loop, so that this is undone first.
    """
    before = termios.tcgetattr(descriptor)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    ending = (signal.SIGTERM, signal.SIGHUP)
    for number in ending:
        if task is not None:
            loop.add_signal_handler(number, task.cancel)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)  # what was typed already goes to the program too
        yield
    finally:
        for number in ending:
            loop.remove_signal_handler(number)
        with suppress(termios.error):  # it may have gone away
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def on_resize(tell: Callable[[TerminalSize], object]) -> Iterator[None]:
    """Call `tell` whenever the terminal gets another size."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, lambda: tell(size()))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


async def chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What can be read, as it comes, to its end. The descriptor stays as it is: others may share it."""
    while True:
        await _readable(descriptor)
        try:
            content = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:  # a terminal that was hung up
            return
        if not content:
            return
        yield content


async def _readable(descriptor: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        return  # a plain file: always readable
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def write(stream: int, content: bytes) -> None:
    """All of it, also where the terminal was left non-blocking. Raises `BrokenPipeError` when nobody reads."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(stream, left) :]
        except BlockingIOError:
            _wait_writable(stream)


def _wait_writable(stream: int) -> None:
    import select

    select.select([], [stream], [])


def standard() -> tuple[int, int, int]:
    """Input, output, error."""
    return sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()
