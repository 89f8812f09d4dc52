"""A crowd of agents is taken in at a rate, and each that is sent away knows when to return."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.backoff import Backoff
from common.model.session import Redirect, Registered
from controller.core.admission import RETRY_LIMIT_S, Door, knock
from controller.settings import Timers
from tests.dispatcher_rig import Agent, MemoryLink, Rig, description, rig
from tests.virtual_time import on_virtual_time

SLOW = replace(Timers(), registrations_per_s=50.0, registration_burst=10)


def test_a_burst_enters_and_the_others_are_told_to_queue() -> None:
    door, waits = Door(), []
    for _ in range(8):
        door, wait_s = knock(door, 100.0, per_s=10.0, burst=5)
        waits.append(round(wait_s, 6))
    assert waits == [0.0] * 5 + [0.1, 0.2, 0.3]


def test_who_comes_back_when_told_enters() -> None:
    door = Door()
    for _ in range(5):
        door, _ = knock(door, 100.0, per_s=10.0, burst=5)
    door, wait_s = knock(door, 100.0, per_s=10.0, burst=5)
    door, again_s = knock(door, 100.0 + wait_s, per_s=10.0, burst=5)
    assert again_s == 0.0


def test_nobody_is_sent_away_for_long() -> None:
    door = Door()
    for _ in range(100):
        door, wait_s = knock(door, 0.0, per_s=1.0, burst=1)
    assert wait_s == RETRY_LIMIT_S


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=200), st.integers(1, 50), st.integers(1, 20))
def test_never_more_enter_than_the_rate_and_the_burst_allow(gaps_s: list[float], per_s: int, burst: int) -> None:
    door, now_s, entered = Door(), 1_000.0, []
    for gap_s in gaps_s:
        now_s += gap_s / per_s
        door, wait_s = knock(door, now_s, per_s=per_s, burst=burst)
        if not wait_s:
            entered.append(now_s)
    for place, first_s in enumerate(entered):
        for later, last_s in enumerate(entered[place:], 1):
            assert later <= burst + (last_s - first_s) * per_s + 1e-6


@on_virtual_time
async def test_five_hundred_agents_that_reconnect_together_are_taken_in_at_the_rate() -> None:
    async with rig(timers=SLOW) as r:
        begun_s = asyncio.get_running_loop().time()
        rng = random.Random(5)
        seen: list[float] = []
        async with asyncio.TaskGroup() as group:
            for place in range(1, 501):
                group.create_task(reconnect(r, f"n{place}", rng, seen))
        assert r.dispatcher.sessions == 500
        assert seen[9] == begun_s, "the burst waits for nobody"
        for early, late in zip(seen, seen[60:], strict=False):
            assert late - early >= 0.99, "in any second no more than the rate and the burst"
        assert seen[-1] - begun_s < 2 * 490 / 50, "and not much longer than the rate asks for"


async def reconnect(r: Rig, node_id: str, rng: random.Random, seen: list[float]) -> None:
    """As an agent does it: wait as long as it is told, and a little that is drawn by lot."""
    redial, failures = Backoff(first_s=0.1, limit_s=2.0), 0
    while True:
        agent = Agent(description(node_id), MemoryLink())
        r.serve(agent, r.dispatcher)
        agent.register()
        body = (await agent.message()).body
        if isinstance(body, Registered):
            seen.append(asyncio.get_running_loop().time())
            return
        assert isinstance(body, Redirect)
        assert "turn is in" in body.reason
        failures += 1
        await asyncio.sleep(body.retry_after_s + redial.full_jitter_s(failures, rng))
