"""Long work lets others have their turn, and ends when it has become pointless."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from controller.core.turns import Turns, at_once
from controller.turns import TURN_S, Disturbed, in_turns
from tests.virtual_time import VirtualLoop, on_virtual_time


def work(pieces: int, piece_s: float = 0.0) -> Turns[int]:
    """Answers how many pieces it had; each takes so long without a break."""
    for _ in range(pieces):
        if piece_s:
            cast("VirtualLoop", asyncio.get_running_loop()).stall(piece_s)
        yield
    return pieces


def test_at_once_is_all_of_it() -> None:
    assert at_once(work(3)) == 3
    assert at_once(work(0)) == 0


@on_virtual_time
async def test_others_wait_for_little_more_than_a_turn() -> None:
    waited_s: list[float] = []

    async def heartbeats() -> None:
        loop = asyncio.get_running_loop()
        while True:
            before_s = loop.time()
            await asyncio.sleep(0)
            waited_s.append(loop.time() - before_s)

    beating = asyncio.create_task(heartbeats())
    assert await in_turns(work(100, TURN_S / 4)) == 100
    beating.cancel()
    assert len(waited_s) >= 19
    assert max(waited_s) <= 1.5 * TURN_S


@on_virtual_time
async def test_what_is_disturbed_ends() -> None:
    asked = 0

    def disturbed() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2

    with pytest.raises(Disturbed):
        await in_turns(work(100, 2 * TURN_S), disturbed)
    assert asked == 2
