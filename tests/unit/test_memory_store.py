"""The memory store's leases run on the loop's time, and its faults do what they are named after."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import Fenced, OutcomeUnknown, Unavailable
from common.model.epoch import Epoch
from controller.store.interface import LeaderRecord, Put
from controller.store.memory import Loss, MemoryDatabase, MemoryStore

ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")
BOB = LeaderRecord(controller_id="bob", address="10.0.0.2:7077")


async def test_a_lease_that_is_not_renewed_runs_out() -> None:
    database = MemoryDatabase(lease_s=0.05)
    first, second = MemoryStore(database), MemoryStore(database)
    past = await first.campaign(ANN)
    present = await second.campaign(BOB)
    assert present.epoch > past.epoch
    with pytest.raises(Fenced, match=f"term {present.epoch.term} leads"):
        await first.keep_alive(past)


async def test_a_renewed_lease_runs_from_its_renewal() -> None:
    loop = asyncio.get_running_loop()
    store = MemoryStore(MemoryDatabase(lease_s=0.2))
    leadership = await store.campaign(ANN)
    leaders = store.observe_leader()
    await anext(leaders)
    renewed_at_s = loop.time()
    for _ in range(20):
        renewed_at_s = loop.time()
        await store.keep_alive(leadership)
        await asyncio.sleep(0.02)
    assert await anext(leaders) is None
    assert loop.time() - renewed_at_s >= 0.2


async def test_a_controller_that_is_cut_off_loses_its_term_and_may_win_another() -> None:
    database = MemoryDatabase(lease_s=0.05)
    first, second = MemoryStore(database), MemoryStore(database)
    past = await first.campaign(ANN)
    first.reachable = False
    for attempt in (first.keep_alive(past), first.load(past), first.commit(past, [Put("a", b"")]), first.ping()):
        with pytest.raises(Unavailable, match="cut off"):
            await attempt
    present = await second.campaign(BOB)
    again = asyncio.create_task(first.campaign(ANN))
    await second.resign(present)
    first.reachable = True
    assert (await again).epoch > present.epoch


@pytest.mark.parametrize(("loss", "written"), [(Loss.REQUEST, False), (Loss.ANSWER, True)])
async def test_a_lost_commit_ends_the_term_whether_or_not_it_was_written(loss: Loss, written: bool) -> None:
    store = MemoryStore(MemoryDatabase())
    past = await store.campaign(ANN)
    store.lose_next_commit = loss
    with pytest.raises(OutcomeUnknown):
        await store.commit(past, [Put("a", b"")])
    with pytest.raises(Fenced):
        await store.commit(past, [Put("b", b"")])
    await store.resign(past)
    present = await store.campaign(ANN)
    assert ("a" in (await store.load(present)).values) is written
    await store.commit(present, [Put("c", b"")])


async def test_a_restored_database_has_a_higher_generation() -> None:
    store = MemoryStore(MemoryDatabase(generation=3))
    assert (await store.campaign(ANN)).epoch > Epoch(generation=2, term=1_000_000)


async def test_several_waiting_candidates_lead_one_after_the_other() -> None:
    database = MemoryDatabase()
    stores = [MemoryStore(database) for _ in range(4)]
    terms = []

    async def lead_once(store: MemoryStore) -> None:
        leadership = await store.campaign(ANN)
        terms.append(leadership.epoch)
        await store.keep_alive(leadership)
        await store.resign(leadership)

    async with asyncio.TaskGroup() as group:
        for store in stores:
            group.create_task(lead_once(store))
    assert terms == sorted(set(terms))
    assert len(terms) == len(stores)
