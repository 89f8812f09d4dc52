"""A leader too busy to renew its lease keeps it for a while; one that does nothing any more loses it."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from controller.leadership import Leader, Parts, Term
from controller.settings import LeaseTimers
from controller.store.etcd import EtcdSettings, EtcdStore
from controller.store.etcd_client import EtcdClient
from controller.store.etcd_stand_in import StandIn, now_s
from controller.store.interface import LeaderRecord
from tests.etcd import EtcdServer
from tests.ports import free_ports

pytestmark = pytest.mark.etcd

LEASE_S = 2.0
ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")


def keep_busy(duration_s: float) -> None:
    """As a long scheduling pass does: the loop does not turn, and the interpreter is never idle."""
    until_s = time.monotonic() + duration_s
    while time.monotonic() < until_s:
        pass


class Busy:
    """A leader whose one part keeps the loop busy whenever it is told for how long."""

    def __init__(self) -> None:
        self.terms: asyncio.Queue[int] = asyncio.Queue()
        self.orders: asyncio.Queue[float] = asyncio.Queue()
        self.done: asyncio.Queue[int] = asyncio.Queue()

    @contextmanager
    def enter(self, term: Term) -> Iterator[Parts]:
        self._term = term.epoch.term
        yield {"busy": self._obey}

    async def _obey(self) -> None:
        self.terms.put_nowait(self._term)
        while True:
            keep_busy(await self.orders.get())
            await asyncio.sleep(LEASE_S / 6)  # whoever looks at the lease has its turn
            self.done.put_nowait(self._term)


@asynccontextmanager
async def leading(store: EtcdStore) -> AsyncIterator[Busy]:
    busy, stop = Busy(), asyncio.Event()
    leader = Leader(
        store,
        ANN,
        busy.enter,
        timers=LeaseTimers(lease_s=LEASE_S),
        boottime=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        rng=random.Random(1),
        abort=pytest.fail,
    )
    run = asyncio.create_task(leader.run(stop))
    try:
        yield busy
    finally:
        stop.set()
        await run
        await store.close()


async def test_a_leader_whose_loop_is_busy_for_longer_than_its_lease_goes_on(
    etcd_server: EtcdServer, etcd_prefix: str
) -> None:
    store = EtcdStore([etcd_server.endpoint], prefix=etcd_prefix, settings=EtcdSettings(lease_s=LEASE_S))
    async with leading(store) as busy:
        term = await busy.terms.get()
        for duration_s in (1.5, 2.5 * LEASE_S / 2):  # more than two thirds of the lease, and more than all of it
            busy.orders.put_nowait(duration_s)
            assert await busy.done.get() == term
        assert busy.terms.empty()


async def test_a_leader_whose_loop_does_not_turn_any_more_is_replaced(
    etcd_server: EtcdServer, etcd_prefix: str
) -> None:
    settings = EtcdSettings(lease_s=LEASE_S, stand_in_s=1.0)
    async with leading(EtcdStore([etcd_server.endpoint], prefix=etcd_prefix, settings=settings)) as busy:
        term = await busy.terms.get()
        busy.orders.put_nowait(2 * LEASE_S)
        assert await busy.terms.get() > term


@pytest.fixture
async def lease(etcd_server: EtcdServer) -> AsyncIterator[int]:
    client = EtcdClient([etcd_server.endpoint], None, check_timeout_s=5)
    lease_id, _ = await client.grant(60, timeout_s=5)
    yield lease_id
    await client.close()


async def test_the_stand_in_turns_to_the_next_server(etcd_server: EtcdServer, lease: int) -> None:
    endpoints = [f"127.0.0.1:{free_ports(1)[0]}", etcd_server.endpoint]
    stand_in = StandIn(endpoints, None, lease, period_s=0.2, limit_s=60)
    try:
        await renewed(stand_in)
    finally:
        stand_in.stop()


async def test_a_loop_that_turns_but_whose_own_renewals_take_too_long_is_stood_in_for(
    etcd_server: EtcdServer, lease: int
) -> None:
    stand_in = StandIn([etcd_server.endpoint], None, lease, period_s=0.2, limit_s=60)
    try:
        while math.isinf(stand_in.age_s()):
            stand_in.present()
            await asyncio.sleep(0.01)
    finally:
        stand_in.stop()


async def test_the_stand_in_sends_nothing_while_the_loop_turns(etcd_server: EtcdServer, lease: int) -> None:
    stand_in = StandIn([etcd_server.endpoint], None, lease, period_s=0.2, limit_s=60)
    try:
        for _ in range(20):
            stand_in.present()
            stand_in.renewed(now_s())
            await asyncio.sleep(0.05)
        assert math.isinf(stand_in.age_s())
        await renewed(stand_in)
    finally:
        stand_in.stop()


async def renewed(stand_in: StandIn) -> None:
    """Until the stand-in has renewed: a thread tells nobody."""
    async with asyncio.timeout(20):
        while math.isinf(stand_in.age_s()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
