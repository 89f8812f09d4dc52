"""Lets the event loop turn while long work goes on: heartbeats and commits do not wait for a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from controller.core.turns import Turns

ResultT = TypeVar("ResultT")

TURN_S = 0.02
"""How long others wait for their turn: half of what a heartbeat may be late before it is noticed."""


class Disturbed(Exception):
    """What the work was about changed under it."""


async def in_turns(work: Turns[ResultT], disturbed: Callable[[], bool] = lambda: False) -> ResultT:
    """What the work finds. Raises `Disturbed` when it was, and what the work raises."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: ResultT = end.value
            return result
        if loop.time() - begun_s > TURN_S:
            await asyncio.sleep(0)
            begun_s = loop.time()
            if disturbed():
                raise Disturbed
