"""Slots are bounded, given by rank, and none is lost to a cancelled waiter."""

from __future__ import annotations

import asyncio

from agent.runtime.docker_slots import Rank, Slots


async def test_starts_go_before_creates_and_removals_last() -> None:
    slots, order = Slots(1), []
    release = asyncio.Event()

    async def hold(rank: Rank, name: str) -> None:
        async with slots.hold(rank):
            order.append(name)
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for rank, name in [(Rank.CREATE, "a"), (Rank.REMOVE, "b"), (Rank.CREATE, "c"), (Rank.START, "d")]:
            group.create_task(hold(rank, name))
        await asyncio.sleep(0)
        assert order == ["a"]
        release.set()
    assert order == ["a", "d", "c", "b"]


async def test_no_more_than_the_bound_and_all_get_their_turn() -> None:
    slots, now, most, done = Slots(3), 0, 0, 0

    async def hold(rank: Rank) -> None:
        nonlocal now, most, done
        async with slots.hold(rank):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            done += 1

    await asyncio.gather(*(hold(rank) for _ in range(10) for rank in Rank))
    assert (most, done) == (3, 30)


async def test_a_cancelled_waiter_takes_no_slot_with_it() -> None:
    slots = Slots(1)
    holding = slots.hold(Rank.START)
    await holding.__aenter__()
    waiting = [asyncio.create_task(_pass(slots)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # before its turn
    await holding.__aexit__(None, None, None)
    waiting[1].cancel()  # in the moment of its turn
    await asyncio.wait(waiting)
    assert [task.cancelled() for task in waiting] == [True, True, False]
    await asyncio.wait_for(_pass(slots), 5.0)


async def _pass(slots: Slots) -> None:
    async with slots.hold(Rank.CREATE):
        pass
