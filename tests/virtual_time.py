"""An event loop on which time passes only when nothing else can happen: hours of timers in seconds, the same each run.

Works for code that uses the loop's own timers, queues and events; sockets and threads bring their own time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class Deadlock(RuntimeError):
    """Everything waits for something that no timer will bring."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Never waits: when no file is ready it moves the loop's clock to the next timer instead."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready and timeout is None:
            raise Deadlock("nothing is scheduled: every task waits for another")
        if not ready and timeout:
            self.loop.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self, now_s: float = 1_000.0) -> None:
        selector = _Selector()
        selector.loop = self
        self.now_s = now_s
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


def run(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    """As `asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
