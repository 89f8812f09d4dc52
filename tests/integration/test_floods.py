"""Floods from one side, on real sockets of loopback, while an agent and an engineer are served all the same.

Floods are a few hundred connections and ten thousand streams: as many as a test can make, and far beyond each bound
that is set for it. The bounds themselves are in `controller/api/settings.py` and `common/http_site.py`.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from aiohttp import web
from grpc_health.v1 import health_pb2_grpc

from agent.app import serve as serve_agent
from agent.network.pretended import PretendedDataPlane
from agent.network.relay.service import Places, PublishedService
from agent.settings import AgentSettings
from client.client import Client
from client.settings import ClientSettings
from common import wire
from common.errors import Conflict, Invalid, PodiumError, Unavailable
from common.grpc_errors import error_of
from common.http_site import HttpBounds, listening
from common.model.api import ApplyRequest, Changes, WatchedJobs, WatchJobs
from common.model.endpoint import Endpoint
from common.model.job import Container, JobSpec, TaskSpec
from common.model.trust import Role
from common.settings import LIMITS
from controller.api.settings import SERVER_BOUNDS
from controller.app import Addresses, serve
from controller.dispatcher.callers import Callers
from controller.dispatcher.settings import SETTINGS as SETTINGS_OF_DISPATCHER
from controller.settings import ControllerSettings
from tests import data_planes
from tests.integration.test_cluster_trust import agent as member
from tests.integration.test_cluster_trust import cluster
from tests.integration.test_controller_app import until_leading

SPEC = JobSpec(namespace="shop", name="web", task=TaskSpec(container=Container(image="shop:1")))
WAIT_S = 20.0


@asynccontextmanager
async def controller(folder: Path) -> AsyncIterator[Addresses]:
    settings = ControllerSettings(
        store=f"sqlite://{folder}/store.db", grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0"
    )
    addresses: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, ready=addresses.set_result, stop=stop))
        try:
            yield await addresses
        finally:
            stop.set()


@asynccontextmanager
async def node(address: str, data_dir: Path) -> AsyncIterator[asyncio.Event]:
    stop, ready = asyncio.Event(), asyncio.Event()
    settings = AgentSettings(
        controllers=(address,), data_dir=str(data_dir), name="n1", runtimes=("fake",), find_devices=False
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(serve_agent(settings, stop=stop, on_ready=ready.set, data_plane=PretendedDataPlane()))
        try:
            yield ready
        finally:
            stop.set()


async def served(client: Client) -> None:
    """An engineer deploys something, and the agent runs it."""
    async with asyncio.timeout(WAIT_S):
        await client.apply("shop", [SPEC])
        async for details in client.watch("shop"):
            if any(detail.view.running for detail in details):
                return


# --- HTTP/2 by hand: what no client library would do

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, HEADERS, GOAWAY = 4, 6, 1, 7


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def headers(method: str) -> bytes:
    """A call that has begun, in HPACK's literal form."""
    pairs = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", f"/podium.v1.{method}"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode() for name, value in pairs
    )


async def dialled(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def half_open_calls(address: str, method: str, count: int) -> asyncio.StreamWriter:
    """A connection with so many calls that have begun and never say anything."""
    _, writer = await dialled(address)
    calls = b"".join(frame(HEADERS, 2 * number + 1, headers(method), flags=4) for number in range(count))
    writer.write(PREFACE + frame(SETTINGS) + calls)
    await writer.drain()
    return writer


async def test_ten_thousand_idle_streams_take_nobody_s_place(tmp_path: Path) -> None:
    async with (
        controller(tmp_path) as where,
        Client(ClientSettings(controllers=(where.grpc,))) as client,
        node(where.grpc, tmp_path / "n1") as ready,
    ):
        await asyncio.wait_for(ready.wait(), WAIT_S)
        flood = [await half_open_calls(where.grpc, "Jobs/Watch", 125) for _ in range(80)]
        try:
            await served(client)
        finally:
            for writer in flood:
                writer.close()


async def test_one_user_s_streams_that_never_read_end_at_their_bound_and_hold_nobody_up(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        bot, ann = await c.user("bot", Role.VIEWER), await c.user("ann", Role.DEPLOYER)
        async with member(c, tmp_path / "n1", join_token=str(await c.join_token())) as ready:
            await asyncio.wait_for(ready.wait(), WAIT_S)
            channels = [c.channel() for _ in range(3)]
            try:
                calls = [watching(channels[number % 3], bot) for number in range(SERVER_BOUNDS.streams_per_caller + 20)]
                refused = [error for error in await asyncio.gather(*map(begun, calls)) if error is not None]
                assert len(refused) == 20
                assert all(isinstance(error, Conflict) for error in refused)
                assert "user bot has 256 streams open already" in str(refused[0])
                request = ApplyRequest(namespace="shop", specs=(SPEC,))
                await c.ask("Jobs/Apply", request, Changes, token=ann)  # each of the streams would tell of it
                async with asyncio.timeout(WAIT_S), c.channel() as channel:
                    call = watching(channel, ann)
                    while not running(wire.decode(WatchedJobs, await call.read())):
                        pass
            finally:
                for channel in channels:
                    await channel.close()


def running(told: WatchedJobs) -> bool:
    return any(told_of.view.running for told_of in (*told.jobs, *told.deltas))


def watching(channel: grpc.aio.Channel, token: str) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
    method = channel.unary_stream(
        "/podium.v1.Jobs/Watch",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=wire.message_type(WatchedJobs).FromString,
    )
    return method(wire.encode(WatchJobs(namespace="shop")), metadata=(("authorization", f"Bearer {token}"),))


async def begun(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> PodiumError | None:
    """Why the call was refused; None when it is served."""
    try:
        async with asyncio.timeout(WAIT_S):
            await call.read()
    except grpc.aio.AioRpcError as error:
        return error_of(error)
    return None


async def test_sockets_that_never_finish_a_handshake_hold_nobody_up_and_are_cut_off(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        flood = [await dialled(address) for address in (c.addresses.grpc, c.addresses.agents) for _ in range(150)]
        for _, writer in flood[::2]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")  # TLS, begun
        token = str(await c.join_token())
        async with member(c, tmp_path / "n1", join_token=token) as ready:
            await asyncio.wait_for(ready.wait(), WAIT_S)
            await c.ask("Jobs/Apply", ApplyRequest(namespace="shop", specs=(SPEC,)), Changes, token=c.first_token)
        async with asyncio.timeout(4 * SERVER_BOUNDS.handshake_s):
            await asyncio.gather(*(ended(*one) for one in flood))


async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the other side has closed."""
    with suppress(OSError):
        while await reader.read(1024):
            pass
    writer.close()


async def test_a_client_that_pings_without_end_is_cut_off(tmp_path: Path) -> None:
    async with controller(tmp_path) as where, asyncio.timeout(WAIT_S):
        reader, writer = await dialled(where.grpc)
        writer.write(PREFACE + frame(SETTINGS))
        writer.write(frame(PING, payload=bytes(8)) * 500)
        received = b""
        while chunk := await reader.read(64 * 1024):
            received += chunk
        assert b"too_many_pings" in received
        writer.close()


async def test_one_certificate_has_a_number_of_sessions_and_a_rate_of_its_own(tmp_path: Path) -> None:
    now_s = 0.0
    callers = Callers(lambda: now_s)
    with ExitStack() as held:
        for _ in range(SETTINGS_OF_DISPATCHER.sessions_per_node):
            held.enter_context(callers.held("n1"))
        with pytest.raises(Conflict, match="node n1 has 4 sessions under way already"), callers.held("n1"):
            pass
        with callers.held("n2"), callers.held(None):
            pass
    refused = 0
    for _ in range(2 * SETTINGS_OF_DISPATCHER.sessions_burst):
        try:
            with callers.held("n1"):
                pass
        except Unavailable:
            refused += 1
    assert refused >= SETTINGS_OF_DISPATCHER.sessions_burst
    now_s = 1.0
    with callers.held("n1"):
        pass


async def test_messages_over_their_cap_are_refused(tmp_path: Path) -> None:
    async with controller(tmp_path) as where, grpc.aio.insecure_channel(where.grpc) as channel:
        await until_leading(health_pb2_grpc.HealthStub(channel))
        for size, said in ((LIMITS.message_bytes + 1, "at most 4194304 are allowed"), (17 << 20, "larger than max")):
            call = channel.unary_unary("/podium.v1.Jobs/Apply")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(bytes(size), timeout=WAIT_S)
            assert isinstance(error_of(error.value), Invalid)
            assert said in str(error.value.details())
        session = channel.stream_stream("/podium.v1.Dispatcher/Session")(timeout=WAIT_S)
        await session.write(bytes(17 << 20))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await session.read()
        assert isinstance(error_of(error.value), Invalid)


async def here(_request: web.Request) -> web.Response:
    return web.Response(text="here")


async def test_http_closes_what_is_idle_and_refuses_what_is_too_much() -> None:
    app = web.Application()
    app.router.add_get("/", here)
    bounds = HttpBounds(connections=20, idle_s=0.5)
    listener = listening(app, "http", "127.0.0.1:0", None, shutdown_s=1.0, bounds=bounds)
    async with listener as where, asyncio.timeout(WAIT_S):
        slow = [await dialled(where) for _ in range(20)]
        for _, writer in slow[::2]:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")  # and never the rest
        slow.append(await dialled(where))
        assert not await slow[-1][0].read(1), "too many are there"
        await asyncio.gather(*(ended(*one) for one in slow))
        reader, writer = await dialled(where)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read(15)).startswith(b"HTTP/1.1 200")
        await ended(reader, writer)  # kept alive, but not for ever


def test_a_relay_takes_as_many_connections_as_it_has_files_for() -> None:
    places = Places(files=1_024)
    assert sum(places.take() for _ in range(1_000)) == 256
    places.give_back()
    assert (places.take(), places.take()) == (True, False)


async def test_connections_that_wait_leave_half_of_a_relay_s_places_to_others() -> None:
    places = Places(files=1_024)

    async def nobody(_: Endpoint) -> None:
        raise AssertionError("there is no endpoint")

    jobs = [data_planes.service(port, job=f"asleep-{port}", wake_wait_s=60.0) for port in (1, 2)]
    services = [PublishedService(job, lambda: None, places) for job in jobs]
    waiting = {asyncio.create_task(service.reach(nobody)) for service in services for _ in range(100)}
    done, waiting = await asyncio.wait(waiting, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    assert sum(service.parked for service in services) == len(waiting) == 128
    assert sum(service.refused for service in services) == len(done) == 72
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert places.may_wait == 128
