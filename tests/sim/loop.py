"""The simulator's event loop: virtual time, nothing that depends on where objects lie in memory, and whole processes
that can be frozen.

Whatever a process does runs in a context of its own (`contextvars`): tasks, timers and callbacks inherit it. While the
process is frozen, what becomes due in its context is put aside in order; thawed, all of it runs late and at once, as
after SIGSTOP and SIGCONT. The world around it (`outside`) goes on: what is on the wire arrives, leases lapse.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.virtual_time import VirtualLoop

ResultT = TypeVar("ResultT")


class Process:
    """Something that can be stopped in its tracks. `context` is what everything of it runs in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.context = contextvars.Context()
        self.held: list[asyncio.Handle] = []
        self.context.run(_process.set, self)

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        """What fell due meanwhile runs next, oldest first, before anything new."""
        self.frozen = False
        held, self.held = self.held, []
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        loop.run_next(held)


_process: contextvars.ContextVar[Process] = contextvars.ContextVar("process")
_NOBODY = Process("nobody")


def who() -> str:
    """The name of the process that runs at this moment."""
    return _process.get(_NOBODY).name


def outside() -> contextvars.Context:
    """A context of no process, for what goes on whoever is frozen: give it to timers and tasks of the world."""
    return contextvars.Context()


class _NumberedTask(asyncio.Task[ResultT]):
    """A task group cancels its tasks in the order of a set, which by default is that of their addresses in memory."""

    def __init__(self, coro: Coroutine[Any, Any, ResultT], *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class _Handle(asyncio.Handle):
    def _run(self) -> None:
        if not _put_aside(self):
            super()._run()


class _TimerHandle(asyncio.TimerHandle):
    def _run(self) -> None:
        if not _put_aside(self):
            super()._run()


def _put_aside(handle: Any) -> bool:
    process = handle._context.get(_process, _NOBODY)
    if process.frozen:
        process.held.append(handle)
    return bool(process.frozen)


class SimLoop(VirtualLoop):
    """See the module. Makes its handles itself: asyncio has no other place where a callback can be held back."""

    _ready: Any
    _scheduled: Any

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)
        self.set_task_factory(self._new_task)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def run_next(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extendleft(reversed(handles))

    def _new_task(
        self, _loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, ResultT], **options: Any
    ) -> asyncio.Task[ResultT]:
        return _NumberedTask(coro, number=next(self._numbers), loop=self, **options)
