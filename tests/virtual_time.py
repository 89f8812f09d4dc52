"""An event loop whose clock jumps to the next timer instead of waiting: hours in milliseconds, the same every time.

Only for code that uses nothing but the loop's own timers, queues and events.
"""

from __future__ import annotations

import asyncio
import functools
import math
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import ParamSpec, TypeVarTuple, Unpack

Arguments = ParamSpec("Arguments")
Given = TypeVarTuple("Given")


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Impatient(self._skip))

    def time(self) -> float:
        return self._now_s

    def stall(self, seconds: float) -> None:
        """The clock goes on and nothing else does, as in a process that gets no turn."""
        self._skip(seconds)

    def _skip(self, seconds: float) -> None:
        self._now_s += seconds
        # asyncio takes a timer for due a nanosecond early; after half a year a float cannot tell such a difference.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._now_s))


class TickingLoop(VirtualLoop):
    """Counts time in milliseconds, and to the nearest one, as uvloop does; a timer takes a moment to set."""

    TICK_S, MOMENT_S = 0.001, 0.00002

    def __init__(self) -> None:
        self.timers = 0
        """That were set."""
        super().__init__()

    def time(self) -> float:
        return math.floor(self._now_s / self.TICK_S + 1e-6) * self.TICK_S

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Given]], object],
        *args: *Given,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self.timers += 1
        self._skip(self.MOMENT_S)
        return super().call_at(round(when / self.TICK_S) * self.TICK_S, callback, *args, context=context)


class _Impatient(selectors.DefaultSelector):  # type: ignore[valid-type,misc]  # it is one of several classes
    """Never waits: reports how long it would have."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for something that will never happen"
            self._skip(timeout)
        return ready


def on_virtual_time(test: Callable[Arguments, Coroutine[None, None, None]]) -> Callable[Arguments, None]:
    """Run an asynchronous test on virtual time."""

    @functools.wraps(test)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
