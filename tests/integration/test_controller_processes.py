"""Controllers as processes on one etcd: one leads, and when it is killed another does."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.client import Client
from client.settings import ClientSettings
from tests.etcd import EtcdServer

SERVING = health_pb2.HealthCheckResponse.SERVING


class ControllerProcess:
    """`python -m controller`; where it listens is read from its log."""

    def __init__(self, process: asyncio.subprocess.Process, grpc_address: str, http_address: str) -> None:
        self.process = process
        self.grpc_address = grpc_address
        self.http_address = http_address

    async def until_leading(self) -> None:
        async with asyncio.timeout(40), grpc.aio.insecure_channel(self.grpc_address) as channel:
            asked = health_pb2.HealthCheckRequest(service="podium.v1.Jobs")
            async for answer in health_pb2_grpc.HealthStub(channel).Watch(asked):
                if answer.status == SERVING:
                    return

    async def until(self, path: str, text: str) -> None:
        """Ask again and again, as probes and scrapers do."""
        async with asyncio.timeout(40):
            while text not in (await self.get(path))[1]:  # noqa: ASYNC110  it is another process
                await asyncio.sleep(0.05)

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://{self.http_address}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()


@asynccontextmanager
async def controller(store: str, *more: str) -> AsyncIterator[ControllerProcess]:
    listeners = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller", "--store", store, "--insecure", *listeners, *more),
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stderr is not None
    reading: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(40):
            while not (found := re.search(rb"serves gRPC on (\S+), HTTP on (\S+)", await process.stderr.readline())):
                assert process.returncode is None
        reading = asyncio.create_task(process.stderr.read())  # a full pipe would stop it
        yield ControllerProcess(process, found[1].decode(), found[2].decode())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if reading is not None:
            await reading


async def until_listed(leader: str, follower: str) -> None:
    """Both are in the leader's list of controllers, itself first."""
    async with asyncio.timeout(40), Client(ClientSettings(controllers=(leader,))) as client:
        while (await client.status()).controllers != (leader, follower):  # noqa: ASYNC110  another process
            await asyncio.sleep(0.1)


@pytest.mark.etcd
async def test_killing_the_leader_makes_the_follower_lead(own_etcd: EtcdServer) -> None:
    store = f"etcd://{own_etcd.endpoint}"
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(controller(store))
        await first.until_leading()
        second = await stack.enter_async_context(controller(store))
        await second.until("/readyz?verbose", f"[+] role: follows {first.grpc_address}")
        await until_listed(first.grpc_address, second.grpc_address)
        first.process.send_signal(signal.SIGKILL)
        await second.until_leading()
        assert "podium_leader 1.0" in (await second.get("/metrics"))[1]


@pytest.mark.etcd
async def test_without_its_store_a_controller_is_alive_not_ready_and_leads_again_when_it_returns(
    own_etcd: EtcdServer,
) -> None:
    async with controller(f"etcd://{own_etcd.endpoint}") as only:
        await only.until_leading()
        own_etcd.kill()
        await only.until("/metrics", "podium_leader 0.0")
        assert (await only.get("/livez"))[0] == 200
        status, text = await only.get("/readyz")
        assert status == 503
        assert "[-] store:" in text
        await asyncio.to_thread(own_etcd.start)
        await only.until_leading()


async def test_sigterm_ends_it_cleanly_while_somebody_watches(tmp_path: Path) -> None:
    async with controller(f"sqlite://{tmp_path}/store.db") as only:
        await only.until_leading()
        async with grpc.aio.insecure_channel(only.grpc_address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            await watch.read()
            only.process.terminate()
            async with asyncio.timeout(40):
                assert await only.process.wait() == 0
            watch.cancel()


async def test_what_is_wrong_with_the_settings_is_said_in_a_line_and_exits_2() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller", "--store", "memory:", "--grpc-listen", "127.0.0.1:0"),
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().startswith("podium controller: cluster_key: say where the cluster's keys lie")
