"""A whole controller on real sockets: its probes, metrics, health and reflection, who leads, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.errors import Conflict, Invalid
from common.tls import TlsFiles, channel_credentials
from controller.app import Addresses, serve
from controller.settings import ControllerSettings
from controller.store.open import open_store
from tests import certificates

SERVICES = ("podium.v1.Dispatcher", "podium.v1.Jobs", "podium.v1.Nodes", "podium.v1.Cluster")


@asynccontextmanager
async def serving(store: str, **more: str | TlsFiles) -> AsyncIterator[Addresses]:
    settings = ControllerSettings(store=store, grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0", **more)
    addresses: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, ready=addresses.set_result, stop=stop))
        try:
            yield await addresses
        finally:
            stop.set()


async def get(addresses: Addresses, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{addresses.http}{path}") as response:
        return response.status, await response.text()


async def status_of(health: health_pb2_grpc.HealthStub, service: str) -> int:
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def until_leading(health: health_pb2_grpc.HealthStub) -> None:
    async for answer in health.Watch(health_pb2.HealthCheckRequest(service="podium.v1.Cluster")):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return


@asynccontextmanager
async def leading(store: str) -> AsyncIterator[tuple[Addresses, grpc.aio.Channel]]:
    async with serving(store) as addresses, grpc.aio.insecure_channel(addresses.grpc) as channel:
        await until_leading(health_pb2_grpc.HealthStub(channel))
        yield addresses, channel


async def test_probes_and_metrics_of_a_leader(tmp_path: Path) -> None:
    async with leading(f"sqlite://{tmp_path}/store.db") as (addresses, _channel):
        assert await get(addresses, "/livez") == (200, "ok\n")
        assert await get(addresses, "/healthz") == (200, "ok\n")
        status, text = await get(addresses, "/readyz?verbose")
        assert status == 200
        assert "[+] store: sqlite answers" in text
        assert "[+] role: leads, term" in text
        status, text = await get(addresses, "/metrics")
    assert status == 200
    assert "podium_leader 1.0" in text
    assert "podium_leader_transitions_total 1.0" in text
    assert 'podium_nodes{status="ready"} 0.0' in text
    assert "podium_build_info{version=" in text


async def test_health_and_reflection_name_every_service(tmp_path: Path) -> None:
    async with leading(f"sqlite://{tmp_path}/store.db") as (_addresses, channel):
        health = health_pb2_grpc.HealthStub(channel)
        assert [await status_of(health, name) for name in SERVICES] == [health_pb2.HealthCheckResponse.SERVING] * 4
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask])):
            assert {service.name for service in answer.list_services_response.service} >= set(SERVICES)


async def test_a_second_controller_on_the_same_file_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path}/store.db"
    second = ControllerSettings(store=store, grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0")
    async with leading(store) as (addresses, _channel):
        with pytest.raises(Conflict, match=rf"store\.db is in use by process {os.getpid()} "):
            await serve(second, stop=asyncio.Event())
        assert await get(addresses, "/readyz") == (200, "ok\n")


async def test_the_next_leads_at_once_after_a_clean_stop(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path}/store.db"
    async with leading(store):
        pass
    async with leading(store) as (addresses, _channel):
        status, text = await get(addresses, "/metrics")
    assert status == 200
    assert "podium_leader 1.0" in text


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with leading(f"sqlite://{tmp_path}/store.db") as (addresses, _channel):
        for setting, address in (("grpc_listen", addresses.grpc), ("http_listen", addresses.http)):
            settings = ControllerSettings(
                store="memory:", **{"grpc_listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0", setting: address}
            )
            with pytest.raises(Invalid, match=f"{setting}: cannot listen on {address}"):
                await serve(settings, stop=asyncio.Event())


async def test_a_listener_for_others_in_the_clear_must_be_asked_for() -> None:
    settings = ControllerSettings(store="memory:", grpc_listen="0.0.0.0:0", http_listen="127.0.0.1:0")
    with pytest.raises(Invalid, match=r"grpc_listen: .*--insecure"):
        await serve(settings, stop=asyncio.Event())


def test_every_address_that_is_none_is_named_at_once() -> None:
    settings = ControllerSettings(
        store="memory:", grpc_listen="7077", http_listen="127.0.0.1:http", advertise="10.0.0.1:0"
    )
    with pytest.raises(Invalid) as raised:
        settings.check()
    assert [fault.path for fault in raised.value.faults] == ["grpc_listen", "http_listen", "advertise"]
    assert "'10.0.0.1:0' is not host:port with a port from 1 to 65535" in str(raised.value)
    with pytest.raises(Invalid, match=r"advertise: '\[::\]:7077' means every address of this machine"):
        ControllerSettings(store="memory:", advertise="[::]:7077").check()


async def test_a_file_that_is_no_store_ends_the_start_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database" * 1_000)
    settings = ControllerSettings(store=f"sqlite://{path}", grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0")
    with pytest.raises(Invalid, match=r"store\.db"):
        await serve(settings, stop=asyncio.Event())


@pytest.mark.parametrize("url", ["postgres://db", "sqlite://host/path", "etcd:///", "nonsense"])
def test_an_unknown_store_is_refused_with_what_is_known(url: str) -> None:
    with pytest.raises(Invalid, match="sqlite:///path, etcd://"):
        open_store(url)


async def test_only_a_certificate_of_our_authority_is_let_in(tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    asked = health_pb2.HealthCheckRequest(service="")
    async with serving("memory:", tls=made["ours"]) as addresses:
        port = addresses.grpc.rpartition(":")[2]
        async with grpc.aio.secure_channel(f"localhost:{port}", channel_credentials(made["ours"])) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        strangers = channel_credentials(made["stranger"]), grpc.ssl_channel_credentials()
        for credentials in strangers:
            async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        context = ssl.create_default_context(cafile=made["ours"].ca_file)
        url = f"https://localhost:{addresses.http.rpartition(':')[2]}/livez"
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
            assert response.status == 200
