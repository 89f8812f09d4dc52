"""How a serving command lives: one event loop, stopped cleanly by SIGTERM or ^C, its start-up errors said in a line.

Owns signals and the loop; what is served is the caller's.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from cli.errors import DONE, INTERRUPTED
from cli.messages import say
from common.errors import Invalid

Serve: TypeAlias = Callable[[asyncio.Event], Coroutine[None, None, None]]
"""Serves until the event is set, then stops cleanly and returns."""


def serve(work: Serve) -> int:
    """Run `work` to its end. Exit code 0 after SIGTERM, 130 after ^C; a second signal does not wait any longer."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_signalled(work))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: slower, but the same
        return None
    return uvloop.new_event_loop


async def _until_signalled(work: Serve) -> int:
    stop = asyncio.Event()
    received: list[signal.Signals] = []
    serving = asyncio.ensure_future(work(stop))
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if received:
            say("not waiting any longer")
            serving.cancel()
        received.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await serving
    except asyncio.CancelledError:
        if not received:
            raise
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return INTERRUPTED if signal.SIGINT in received else DONE


def _first(group: BaseExceptionGroup) -> BaseException:
    """The error to report of several that a TaskGroup collected: what the person can correct, if there is such."""
    errors = _flat(group)
    return next((error for error in errors if isinstance(error, Invalid)), errors[0])


def _flat(group: BaseExceptionGroup) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


@contextmanager
def parts(extra: str) -> Iterator[None]:
    """Around the imports of a serving part: says what to install when it is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        text = f"this command needs a part that is not installed ({error}): pip install 'podium[{extra}]'"
        raise Invalid(text) from None
