"""A job that follows its load, sleeps, and is woken by whoever calls it: real processes, relay and HAProxy."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from agent.network.haproxy.program import find_program
from common.model.api import JobDetail
from tests.cluster.load import get, load
from tests.cluster.processes import PATIENCE_S, Cluster, end_cluster, live
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

NODES = [("n1", "127.0.0.61"), ("n2", "127.0.0.62")]
HOST = "shop.test"
WAITING_LIMIT = 1_000
CROWD = 1_500
FILE = """
name: shop
services:
  web:
    command: [python3, -S, {script}]
    ports: ["{port}:80"]
    x-podium:
      http: {{host: {host}}}
      autoscale: {{min: 0, max: 3, requests_per_second: 30, down: {{stabilise: 4s}}}}
  stuck:
    command: [python3, -c, "import sys; sys.exit('cannot reach the database')"]
    ports: ["{stuck}:80"]
    healthcheck: {{test: [CMD, "false"], interval: 1s}}
    deploy: {{replicas: 0}}
    x-podium: {{autoscale: {{min: 0, max: 1, down: {{stabilise: 60s}}}}}}
"""
SERVER = """
import asyncio, os

async def serve(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    writer.close()

async def main():
    server = await asyncio.start_server(serve, os.environ["PODIUM_NODE_ADDRESS"], int(os.environ["PORT"]))
    await server.serve_forever()

asyncio.run(main())
"""


class Scaled:
    """The two jobs on a cluster."""

    def __init__(self, made: Cluster) -> None:
        self.made = made
        self.port, self.stuck, self.web_port = free_port(), free_port(), free_port()

    async def up(self) -> None:
        script, file = self.made.directory / "server.py", self.made.directory / "shop.yaml"
        script.write_text(SERVER)
        file.write_text(FILE.format(script=script, port=self.port, stuck=self.stuck, host=HOST))
        await self.made.run("up", "-f", str(file))

    async def until(self, replicas: int, name: str = "web") -> JobDetail:
        """The job when it has so many tasks that run, and no others."""

        def holds(found: tuple[JobDetail, ...]) -> bool:
            return any(one.view.job.name == name and _has(one, replicas) for one in found)

        found = await self.made.until("shop", holds)
        return next(one for one in found if one.view.job.name == name)


def _has(detail: JobDetail, replicas: int) -> bool:
    running = [view for view in live(detail) if view.state.value == "running"]
    left = [view for view in detail.tasks if not view.task.ended]
    return detail.view.job.replicas == replicas == len(running) == len(left)


async def until_refused(stuck: int) -> list[asyncio.StreamWriter]:
    """A crowd at a job that cannot start: all that is more than may wait is turned away at once."""
    crowd = await asyncio.gather(*(asyncio.open_connection(NODES[0][1], stuck) for _ in range(CROWD)))
    loop = asyncio.get_running_loop()
    reads = {loop.create_task(reader.read(1)) for reader, _ in crowd}
    refused = 0
    async with asyncio.timeout(PATIENCE_S):
        while refused < CROWD - WAITING_LIMIT:
            done, reads = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
            refused += len(done)
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    assert refused == CROWD - WAITING_LIMIT
    return [writer for _, writer in crowd]


@pytest.mark.parametrize(
    "proxy", ["relay", pytest.param("haproxy", marks=pytest.mark.skipif(not find_program(), reason="not installed"))]
)
async def test_it_sleeps_is_woken_follows_its_load_and_sleeps_again(tmp_path: Path, proxy: str) -> None:
    made = Cluster(tmp_path, f"sqlite://{tmp_path / 'controller.db'}", "process", "--tune", "autoscale-period=1")
    made.proxy = proxy
    scaled = Scaled(made)
    try:
        made.controller.start()
        for name, address in NODES:
            made.add_agent(
                name, address, "--web-port", str(scaled.web_port), "--web-tls-port", str(free_port())
            ).start()
        async with made.client:
            await made.until_ready(len(NODES))
            await _goes_through_it(scaled, proxy)
    finally:
        await asyncio.to_thread(end_cluster, made)


async def _goes_through_it(scaled: Scaled, proxy: str) -> None:
    made = scaled.made
    await scaled.up()
    await scaled.until(0)
    assert (await get(NODES[1][1], scaled.port)) == "ok", "the first request waits and is answered"
    await made.until("shop", lambda found: any("; woke in " in one.view.autoscale for one in found))
    assert "a connection on n2 waits for it" in made.podium("events").stdout
    await scaled.until(0)
    if proxy == "haproxy":
        assert (await get(NODES[0][1], scaled.web_port, host=HOST)) == "ok", "also one that is routed by its host"
        assert "a connection on n1 waits for it" in made.podium("events").stdout
        await scaled.until(0)

    async with load([(address, scaled.port) for _, address in NODES], 75) as seen:
        await scaled.until(3)
        crowd = await until_refused(scaled.stuck)
        answers = seen.answers
        await seen.until(lambda seen: seen.answers > answers + 50)
        why = made.podium("why", "shop/stuck").stdout
        for writer in crowd:
            writer.close()
    assert not seen.failures, seen.failures[:3]
    assert "cannot reach the database" in why
    await scaled.until(0)
    events = made.read("events")
    changes = [
        event["message"] for event in events if event["subject"] == "job shop/web" and event["kind"].startswith("job.")
    ]
    last = [int(text.split()[-2]) for text in changes if text.startswith("from ")][-8:]
    down = last[len(last) - 1 - last[::-1].index(3) :]
    assert all(before > after for before, after in pairwise(down)), f"it fell without flapping: {changes}"
