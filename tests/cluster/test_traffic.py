"""No request is lost while a job changes, grows, moves and is without a leader: on the relay and on HAProxy.

One cluster for each goes through everything in a row, under 200 requests a second and requests that take seconds.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.network.haproxy.program import find_program
from client.client import Client
from client.settings import ClientSettings
from tests.cluster.load import Load, get, load
from tests.cluster.processes import PATIENCE_S, Cluster, Program, end_cluster, healthy, live
from tests.etcd import EtcdServer
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.etcd, pytest.mark.timeout(400)]

NODES = [("n1", "127.0.0.31"), ("n2", "127.0.0.32"), ("n3", "127.0.0.33")]
REQUESTS_PER_S = 200
SLOW_S = 5
GRACE_S = 15
HOST = "shop.test"

SERVER = """
import asyncio, os, sys

async def serve(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    if b" /slow " in head.split(b"\\r\\n")[0]:
        for _ in range(@SLOW@ * 5):
            await asyncio.sleep(0.2)
    body = b"@VERSION@"
    writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    await writer.drain()
    writer.close()

async def main():
    if "@VERSION@" == "broken":
        await asyncio.sleep(1)
        sys.exit("cannot reach the database")
    server = await asyncio.start_server(serve, os.environ["PODIUM_NODE_ADDRESS"], int(os.environ["PORT"]))
    await server.serve_forever()

asyncio.run(main())
"""


class Shop:
    """The job under load, on a cluster with two controllers."""

    def __init__(self, made: Cluster, second: Program) -> None:
        self.made = made
        self.second = second
        self.port, self.web_port = free_port(), free_port()

    async def up(self, version: str, code: int = 0) -> str:
        script = self.made.directory / f"{version}.py"
        script.write_text(SERVER.replace("@VERSION@", version).replace("@SLOW@", str(SLOW_S)))
        file = self.made.directory / "shop.yaml"
        file.write_text(
            f"""
name: shop
services:
  web:
    command: [python3, -S, {script}]
    ports: ["{self.port}:80"]
    stop_grace_period: {GRACE_S}s
    healthcheck:
      test: [CMD, bash, -c, "exec 3<>/dev/tcp/$$PODIUM_NODE_ADDRESS/$$PORT"]
      interval: 5s
      start_period: 20s
      start_interval: 250ms
    deploy: {{replicas: 4, update_config: {{parallelism: 2}}, restart_policy: {{max_attempts: 1}}}}
    x-podium: {{http: {{host: {HOST}}}}}
"""
        )
        done = await self.made.run("up", "-f", str(file), code=code)
        return done.stdout + done.stderr

    async def settled(self, count: int, version: int | None = None) -> None:
        await self.made.until("shop", lambda found: len(found) == 1 and healthy(found[0], count, version))

    async def tasks_on(self, node: str) -> int:
        (detail,) = await self.made.until("shop", lambda found: len(found) == 1)
        return sum(view.node == node for view in live(detail))


@asynccontextmanager
async def shop(directory: Path, etcd: EtcdServer, proxy: str) -> AsyncIterator[Shop]:
    store = f"etcd://{etcd.endpoint}"
    made = Cluster(directory, store, "process")
    made.proxy = proxy
    grpc = f"127.0.0.1:{free_port()}"
    listens = ("--grpc-listen", grpc, "--http-listen", f"127.0.0.1:{free_port()}")
    running = Shop(made, Program("controller-2", directory, "controller", "--store", store, *listens))
    made.controllers = (made.grpc, grpc)
    made.client = Client(ClientSettings(controllers=made.controllers, insecure=True))
    try:
        made.controller.start()
        made.controller.until_it_says("elected: term")
        running.second.start()
        for name, address in NODES:
            web = ("--web-port", str(running.web_port), "--web-tls-port", str(free_port()))
            made.add_agent(name, address, "--controller", ",".join(made.controllers), *web).start()
        async with made.client:
            await made.until_ready(len(NODES))
            yield running
    finally:
        running.second.kill()
        await asyncio.to_thread(end_cluster, made)


async def until_it_answers(address: str, port: int) -> None:
    """A job is up when its tasks are healthy; a node's proxy may open its port a moment later."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(OSError, ValueError):
                await get(address, port, host=HOST)
                return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def slow_requests(targets: list[tuple[str, int]]) -> AsyncIterator[list[str]]:
    """Three requests that take seconds are under way at any time; what failed."""
    failures: list[str] = []
    done = asyncio.Event()

    async def ask(address: str, port: int) -> None:
        while not done.is_set():
            try:
                await get(address, port, "/slow")
            except (OSError, ValueError) as error:
                failures.append(f"slow {address}: {error!r}")

    async with asyncio.TaskGroup() as group:
        for address, port in targets:
            group.create_task(ask(address, port))
        try:
            yield failures
        finally:
            done.set()


@pytest.mark.parametrize(
    "proxy", ["relay", pytest.param("haproxy", marks=pytest.mark.skipif(not find_program(), reason="not installed"))]
)
async def test_no_request_fails_while_the_job_changes_moves_and_is_without_a_leader(
    tmp_path: Path, own_etcd: EtcdServer, proxy: str
) -> None:
    async with shop(tmp_path, own_etcd, proxy) as running:
        made = running.made
        await running.up("one")
        targets = [(address, running.port) for _, address in NODES]
        routed = [(address, running.web_port) for _, address in NODES] if proxy == "haproxy" else []
        for address, port in (*targets, *routed):
            await until_it_answers(address, port)
        async with (
            load(targets, REQUESTS_PER_S - 20 * bool(routed)) as seen,
            load(routed or targets[:1], 20 if routed else 0.01, host=HOST) as by_host,
            slow_requests(targets) as slow,
        ):
            failed = _Failures(seen, by_host, slow)
            await seen.until(lambda seen: seen.answers > 100)
            failed.none_after("the start")

            await running.up("two")
            await running.settled(4)
            failed.none_after("a rolling update")
            said = await running.up("broken", code=1)
            assert "cannot reach the database" in said
            await running.settled(4)
            failed.none_after("the rollback of a broken version")
            before = seen.bodies["two"]
            await seen.until(lambda seen: seen.bodies["two"] > before + 50)

            await made.run("drain", "n2", "--timeout", "120")
            assert await running.tasks_on("n2") == 0
            failed.none_after("a drain")
            for count in (10, 3, 10):
                await made.run("scale", f"shop/web={count}")
                await running.settled(count)
                failed.none_after(f"scaling to {count}")
            await made.run("uncordon", "n2")
            await made.run("rebalance")
            await running.settled(10)
            failed.none_after("a rebalancing")

            made.agents["n1"].end()
            made.agents["n1"].start()
            await made.until_ready(3)
            failed.none_after("an agent's restart")
            made.controller.kill()
            running.second.until_it_says("elected: term")
            await made.until_ready(3)
            await made.run("scale", "shop/web=6")
            await running.settled(6)
            failed.none_after("a controller's death")
        failed.none_after("all of it")
        assert seen.answers > 1_000
        assert set(seen.bodies) == {"one", "two"}
        assert not routed or by_host.answers > 100


class _Failures:
    """Of all loads together, told by what was done when they came."""

    def __init__(self, seen: Load, by_host: Load, slow: list[str]) -> None:
        self._all = (seen.failures, by_host.failures, slow)

    def none_after(self, action: str) -> None:
        failures = list(itertools.chain(*self._all))
        assert not failures, f"{len(failures)} requests failed by the end of {action}: {failures[:5]}"
