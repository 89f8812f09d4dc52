"""Alarms: the earliest moment counts, on both kinds of event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from controller.loops.alarms import Alarms


@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("waits_s", [(0.0, 0.0), (1e-5, 0.0), (3_600.0, 1e-5, 3_600.0), (-1.0, 3_600.0)])
def test_the_earliest_wait_counts_and_rings_once(
    make_loop: Callable[[], asyncio.AbstractEventLoop], waits_s: tuple[float, ...]
) -> None:
    async def ring() -> list[str]:
        rung: list[str] = []
        both = asyncio.Event()

        def rings(key: str) -> None:
            rung.append(key)
            if len(rung) == 2:
                both.set()

        alarms = Alarms(rings)
        for key in ("a", "b"):
            for wait_s in waits_s:
                alarms.set(key, wait_s)
        async with asyncio.timeout(30):
            await both.wait()
        alarms.close()
        return rung

    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert sorted(runner.run(ring())) == ["a", "b"]


async def test_what_was_cancelled_or_closed_rings_no_more() -> None:
    rung: list[str] = []
    alarms = Alarms(rung.append)
    for key in ("a", "b", "c"):
        alarms.set(key, 0.0)
    alarms.cancel("a")
    alarms.cancel("never set")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    alarms.set("d", 0.0)
    alarms.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rung == ["b", "c"]


async def test_one_that_rings_can_be_set_again_by_whom_it_tells() -> None:
    rung: list[str] = []
    third = asyncio.Event()

    def rings(key: str) -> None:
        rung.append(key)
        if len(rung) < 3:
            alarms.set(key, 0.0)
        else:
            third.set()

    alarms = Alarms(rings)
    alarms.set("a", 0.0)
    async with asyncio.timeout(30):
        await third.wait()
    assert rung == ["a", "a", "a"]
