"""Calls that begin and never say what they ask for, at the engineers' door of a cluster that asks for tokens.

Made by hand or by gRPC's own client, from an address of their own or from everybody's, while an agent and an engineer
are served all the same. The bounds are in `controller/api/settings.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.client import Client
from client.settings import ClientSettings
from common.errors import Conflict, Forbidden, Invalid, PodiumError, Unauthenticated, Unavailable
from common.grpc_errors import error_of
from common.identity import server_name
from common.model.trust import Role
from controller.api.settings import SERVER_BOUNDS
from controller.api.streams import Held
from tests.integration.test_cluster_trust import Cluster, cluster
from tests.integration.test_cluster_trust import agent as member
from tests.integration.test_floods import HEADERS, PREFACE, SETTINGS, frame, headers, served

WAIT_S = 20.0
ELSEWHERE = "127.0.0.2"
"""Whose flood it is: addresses are counted each for itself."""


@asynccontextmanager
async def flood(c: Cluster, method: str, connections: int, calls: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """So many calls of somebody who has no token; what is answered on each connection."""
    context = ssl.create_default_context(cadata=c.authority)
    context.set_alpn_protocols(["h2"])
    host, _, port = c.addresses.grpc.rpartition(":")
    pairs = [
        await asyncio.open_connection(
            host, int(port), ssl=context, server_hostname=server_name(c.cluster_id), local_addr=(ELSEWHERE, 0)
        )
        for _ in range(connections)
    ]
    try:
        begun = b"".join(frame(HEADERS, 2 * number + 1, headers(method), flags=4) for number in range(calls))
        for _, writer in pairs:
            writer.write(PREFACE + frame(SETTINGS) + begun)
            await writer.drain()
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.close()


def half_open(channel: grpc.aio.Channel, method: str, token: str = "") -> grpc.aio.StreamStreamCall[bytes, bytes]:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return channel.stream_stream(method if method.startswith("/") else f"/podium.v1.{method}")(metadata=metadata)


async def refusal(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> PodiumError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with asyncio.timeout(WAIT_S):
            await call.read()
    return error_of(error.value)


async def test_ten_thousand_calls_of_strangers_that_say_nothing_hold_up_neither_agent_nor_engineer(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as c:
        ann, token = await c.user("ann", Role.DEPLOYER), str(await c.join_token())
        async with (
            member(c, tmp_path / "n1", join_token=token) as ready,
            Client(ClientSettings(controllers=(c.addresses.grpc,), token=ann)) as client,
        ):
            await asyncio.wait_for(ready.wait(), WAIT_S)
            async with flood(c, "Trust/Join", 80, 125):
                await served(client)


async def test_who_shows_nothing_is_refused_before_it_says_anything(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c, c.channel() as channel:
        vera = await c.user("vera", Role.VIEWER)
        for method, token, expected in (
            ("Jobs/Apply", "", Unauthenticated),
            ("Jobs/Watch", "", Unauthenticated),
            ("Jobs/Exec", "nonsense", Unauthenticated),
            ("Jobs/Apply", vera, Forbidden),
            ("Nodes/Remove", vera, Forbidden),
        ):
            assert isinstance(await refusal(half_open(channel, method, token)), expected), method


async def test_who_may_ask_and_says_nothing_is_cut_off_within_seconds(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c, c.channel() as channel:
        error = await refusal(half_open(channel, "Trust/Join"))
        assert isinstance(error, Invalid)
        assert "said nothing for 5 s" in str(error)


async def test_calls_of_one_user_that_say_nothing_end_at_their_bound(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        bot, ann = await c.user("bot", Role.VIEWER), await c.user("ann", Role.DEPLOYER)
        channels = [c.channel() for _ in range(3)]
        count = SERVER_BOUNDS.unsaid_per_caller + 20
        try:
            calls = [half_open(channels[number % 3], "Jobs/List", bot) for number in range(count)]
            refused = await some_refused(calls, 20)
            assert all(isinstance(error, Unavailable) for error in refused)
            assert "user bot has 256 calls open that have not said what they ask for" in str(refused[0])
            async with Client(ClientSettings(controllers=(c.addresses.grpc,), token=ann)) as client:
                assert await client.jobs("shop") == ()
        finally:
            for channel in channels:
                await channel.close()


async def some_refused(calls: list[grpc.aio.StreamStreamCall[bytes, bytes]], count: int) -> list[PodiumError]:
    """What so many of the calls end with, while the others stay open."""
    waiting = {asyncio.ensure_future(call.read()) for call in calls}
    found: list[PodiumError] = []
    try:
        async with asyncio.timeout(WAIT_S):
            while len(found) < count:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    assert isinstance(error, grpc.aio.AioRpcError)
                    found.append(error_of(error))
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return found


async def test_health_that_is_watched_without_end_is_bounded_for_each_address(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c, c.channel() as channel:
        limit = SERVER_BOUNDS.public_per_address
        watched = [health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()) for _ in range(limit)]
        try:
            for call in watched:
                assert (await asyncio.wait_for(call.read(), WAIT_S)).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError, match="32 calls of health and reflection open"):
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
            async with Client(ClientSettings(controllers=(c.addresses.grpc,), token=c.first_token)) as client:
                assert await client.jobs("shop") == ()
        finally:
            for call in watched:
                call.cancel()


def test_each_has_its_bound_and_all_of_them_together() -> None:
    held = Held(2, "open", total=3)
    with ExitStack() as stack:
        for caller in ("a", "a", "b"):
            stack.enter_context(held.held(caller))
        for caller, said in (("a", "a has 2 open"), ("c", "there are 3 open")):
            with pytest.raises(Conflict, match=said), held.held(caller):
                pass
    with held.held("c"):
        assert held.count == 1
