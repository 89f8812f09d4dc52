"""Controllers on one etcd list themselves, and are listed no more when they are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from aetcd import rpc

from controller.store.etcd import EtcdStore
from controller.store.etcd_client import EtcdClient
from controller.store.etcd_roster import EtcdRoster, RosterSettings
from controller.store.interface import LeaderRecord, SharedStore
from controller.store.memory import MemoryDatabase, MemoryStore
from tests.etcd import EtcdServer

pytestmark = pytest.mark.etcd

ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")
BOB = LeaderRecord(controller_id="bob", address="10.0.0.2:7077")
SHORT = RosterSettings(lease_s=2)
WAIT_S = 30.0


@pytest.fixture
async def client(etcd_server: EtcdServer) -> AsyncIterator[EtcdClient]:
    client = EtcdClient([etcd_server.endpoint], None, check_timeout_s=5)
    yield client
    await client.close()


@asynccontextmanager
async def attending(roster: EtcdRoster, record: LeaderRecord) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(roster.attend(record))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(roster: EtcdRoster, *ids: str) -> tuple[LeaderRecord, ...]:
    async with asyncio.timeout(WAIT_S):
        while True:
            listed = await roster.attending()
            if tuple(record.controller_id for record in listed) == ids:
                return listed
            await asyncio.sleep(0.05)


async def test_who_attends_is_listed_with_the_address_and_who_leaves_is_not(
    client: EtcdClient, etcd_prefix: str
) -> None:
    roster = EtcdRoster(client, etcd_prefix, SHORT)
    assert await roster.attending() == ()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(attending(roster, ANN))
        async with attending(roster, BOB):
            assert await until(roster, "ann", "bob") == (ANN, BOB)
        await until(roster, "ann")


async def test_who_stays_is_listed_beyond_the_lease_and_writes_nothing(client: EtcdClient, etcd_prefix: str) -> None:
    roster = EtcdRoster(client, etcd_prefix, SHORT)
    async with attending(roster, ANN):
        await until(roster, "ann")
        before = await revision_of(client, etcd_prefix)
        await asyncio.sleep(2 * SHORT.lease_s)  # etcd's clock cannot be moved on
        assert [record.controller_id for record in await roster.attending()] == ["ann"]
        assert await revision_of(client, etcd_prefix) == before


async def test_a_lost_lease_is_taken_anew(client: EtcdClient, etcd_prefix: str) -> None:
    roster = EtcdRoster(client, etcd_prefix, SHORT)
    async with attending(roster, ANN):
        await until(roster, "ann")
        (record,) = (await client.read(folder(etcd_prefix), timeout_s=5)).kvs
        await client.revoke(record.lease, timeout_s=5)
        await until(roster)
        await until(roster, "ann")


async def test_only_a_store_that_several_may_use_has_one(etcd_server: EtcdServer, etcd_prefix: str) -> None:
    store = EtcdStore([etcd_server.endpoint], prefix=etcd_prefix)
    assert isinstance(store, SharedStore)
    assert not isinstance(MemoryStore(MemoryDatabase()), SharedStore)
    await store.close()


def folder(prefix: str) -> rpc.RangeRequest:
    key = f"{prefix}controllers/".encode()
    return rpc.RangeRequest(key=key, range_end=key[:-1] + b"0")


async def revision_of(client: EtcdClient, prefix: str) -> int:
    """When the list last changed."""
    found = await client.read(folder(prefix), timeout_s=5)
    return max(int(record.mod_revision) for record in found.kvs)
