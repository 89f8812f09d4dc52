"""An application on Docker: one controller on etcd, three agents as separate processes, and what may happen to them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from client.client import Client
from common.model.api import JobStatus
from common.model.node import NodeStatus
from tests.cluster.bad_versions import REPLICAS, BadVersion, bad_versions, compose, empty_registry
from tests.cluster.beside import beside
from tests.cluster.load import get, load
from tests.cluster.processes import PATIENCE_S, PATIENT, Cluster, cluster, containers_of, healthy, live
from tests.docker_images import DEFAULT_HOST, ensure_image, remove_image, require_docker
from tests.etcd import EtcdServer
from tests.ports import free_port

pytestmark = [
    pytest.mark.usefixtures("images", "addresses"),
    pytest.mark.docker,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

NODES = [("n1", "10.98.0.11"), ("n2", "10.98.0.12"), ("n3", "10.98.0.13")]
"""Addresses that containers can reach too, on a bridge of the tests' own."""
BRIDGE = "podium-test"
WEB = "podium-test-web"
COMPOSE = """
name: shop
services:
  migrate:
    image: {image}:1
    command: ["sh", "-c", "echo migrated"]
    deploy: {{mode: replicated-job}}
  api:
    image: {image}:1
    command:
      - sh
      - -c
      - |
{api}
    ports: ["{api_port}:80"]
    depends_on: {{migrate: {{condition: service_completed_successfully}}}}
    healthcheck: {{test: ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1/"], interval: 1s}}
    stop_grace_period: 5s
    deploy: {{replicas: 2}}
  web:
    image: {image}:{version}
    command:
      - sh
      - -c
      - |
{web}
    ports: ["{web_port}:80"]
    depends_on: {{api: {{condition: service_healthy}}}}
    healthcheck: {{test: ["CMD", "wget", "-q", "-O", "-", "http://127.0.0.1/"], interval: 1s}}
    stop_grace_period: 5s
    deploy: {{replicas: {replicas}}}
"""
API = """
mkdir /tmp/www
echo api >/tmp/www/index.html
exec httpd -f -p 80 -h /tmp/www
"""
WEB_SCRIPT = r"""
mkdir -p /tmp/www/cgi-bin
echo "web.$PODIUM_SLOT v$VERSION" >/tmp/www/index.html
cat >/tmp/www/cgi-bin/api <<END
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
wget -q -O - http://$PODIUM_NODE_ADDRESS:API_PORT/
END
chmod +x /tmp/www/cgi-bin/api
exec httpd -f -p 80 -h /tmp/www
"""


class Shop:
    """The application of the tests, in one compose file per version and number of replicas."""

    def __init__(self, made: Cluster) -> None:
        self.cluster = made
        self.client: Client = made.client
        self.web_port, self.api_port = free_port(), free_port()

    def write(self, version: int = 1, replicas: int = 3) -> str:
        path = self.cluster.directory / f"compose-{version}-{replicas}.yaml"
        text = COMPOSE.format(
            image=WEB,
            version=version,
            replicas=replicas,
            web_port=self.web_port,
            api_port=self.api_port,
            api=script(API),
            web=script(WEB_SCRIPT.replace("API_PORT", str(self.api_port))),
        )
        path.write_text(text)
        return str(path)

    async def up(self, version: int = 1, replicas: int = 3) -> subprocess.CompletedProcess[str]:
        return await self.cluster.run("up", "-f", self.write(version, replicas), "--timeout", "90")

    async def until_web(self, count: int, version: int | None = None) -> None:
        await self.client_until(lambda details: healthy(details["web"], count, version))

    async def client_until(self, holds) -> None:  # type: ignore[no-untyped-def]
        await self.cluster.until("shop", lambda found: holds({detail.view.job.name: detail for detail in found}))

    async def until_all_answer(self, address: str, version: int) -> None:
        """All three of this version and nobody else answer at this node, in turn."""
        seen: set[str] = set()
        async with asyncio.timeout(PATIENCE_S):
            while seen != self.bodies(3, version):
                seen.add(await get(address, self.web_port))
                assert seen <= self.bodies(3, version)

    def bodies(self, replicas: int, version: int) -> set[str]:
        return {f"web.{slot} v{version}" for slot in range(1, replicas + 1)}

    @property
    def targets(self) -> list[tuple[str, int]]:
        return [(address, self.web_port) for address in self.cluster.addresses.values()]


def script(text: str) -> str:
    """A shell script as a block of YAML in which `$` means itself to Compose."""
    return textwrap.indent(text.strip().replace("$", "$$"), " " * 8)


@pytest.fixture(scope="module")
def images():  # type: ignore[no-untyped-def]
    require_docker()
    tags = [ensure_image(f"{WEB}:{version}", DEFAULT_HOST, f"ENV VERSION={version}") for version in (1, 2)]
    yield tags
    for tag in tags:
        remove_image(tag)


@pytest.fixture(scope="module")
def addresses() -> Iterator[None]:
    """The nodes' addresses on a bridge that leads nowhere."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a bridge")
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    try:
        for _, address in NODES:
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", BRIDGE], check=True)
        subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
        yield
    finally:
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True)


@asynccontextmanager
async def on_docker(directory: Path, *options: str) -> AsyncIterator[Shop]:
    etcd = EtcdServer(directory)
    try:
        await asyncio.to_thread(etcd.start)
        async with cluster(directory, f"etcd://{etcd.endpoint}", "docker", NODES, *options, secure=True) as made:
            yield Shop(made)
    finally:
        etcd.kill()


def on_docker_patient(directory: Path) -> AbstractAsyncContextManager[Shop]:
    return on_docker(directory, *PATIENT)


async def docker(*arguments: str) -> None:
    await asyncio.to_thread(subprocess.run, ["docker", *arguments], check=True, capture_output=True, timeout=60)


async def ids_of(shop: Shop) -> dict[int, str]:
    """Container ids of web's tasks by slot."""
    detail = await shop.client.inspect_job("shop", "web")
    return {view.task.slot: view.task.status.runtime_id for view in live(detail)}


@beside(on_docker_patient)
async def test_every_replica_answers_through_the_published_port_of_any_node(shop: Shop) -> None:
    await shop.up()
    async with load(shop.targets, per_second=30) as seen:
        await seen.until(lambda seen: set(seen.bodies) == shop.bodies(3, 1))
    assert seen.failures == []
    for address, port in shop.targets:
        await shop.until_all_answer(address, 1)
        assert await get(address, port, "/cgi-bin/api") == "api"
    migrate = await shop.client.inspect_job("shop", "migrate")
    assert migrate.view.status is JobStatus.COMPLETE


@beside(on_docker_patient)
async def test_a_killed_container_comes_back_and_says_how_it_died(shop: Shop) -> None:
    await shop.up()
    before = await ids_of(shop)
    await docker("kill", before[1])  # requests it was answering die with it; from here on none may
    async with load(shop.targets, per_second=20) as seen:
        await shop.client_until(
            lambda jobs: healthy(jobs["web"], 3) and live(jobs["web"])[0].task.status.runtime_id != before[1]
        )
    assert seen.failures == []
    (slot,) = [slot for slot in (await shop.client.inspect_job("shop", "web")).slots if slot.attempts]
    assert (slot.slot, slot.attempts[-1].signal, slot.attempts[-1].exit_code) == (1, "SIGKILL", 137)
    after = await ids_of(shop)
    assert {number: after[number] for number in (2, 3)} == {number: before[number] for number in (2, 3)}


@beside(on_docker_patient)
async def test_a_killed_agent_loses_nothing_and_adopts_its_containers_by_id(shop: Shop) -> None:
    await shop.up()
    before = await ids_of(shop)
    agent = shop.cluster.agents["n1"]
    async with load(shop.targets, per_second=20) as seen:
        agent.kill()
        assert await get("10.98.0.11", shop.web_port) in shop.bodies(3, 1)
        agent.start()
        await shop.cluster.until_ready(3)
    await shop.until_web(3)
    assert seen.failures == []
    assert await ids_of(shop) == before


@beside(on_docker_patient)
async def test_with_the_controller_dead_everything_answers_and_nothing_is_restarted_afterwards(shop: Shop) -> None:
    await shop.up()
    before = await ids_of(shop)
    shop.cluster.controller.kill()
    await docker("kill", before[2])
    async with load(shop.targets, per_second=20) as seen:
        await seen.until(lambda seen: seen.answers > 100)
        shop.cluster.controller.start()
        await shop.cluster.until_ready(3)
        await shop.client_until(
            lambda jobs: healthy(jobs["web"], 3) and live(jobs["web"])[1].task.status.runtime_id != before[2]
        )
    assert seen.failures == []
    after = await ids_of(shop)
    assert {number: after[number] for number in (1, 3)} == {number: before[number] for number in (1, 3)}


@beside(on_docker)
async def test_the_tasks_of_a_dead_node_run_elsewhere(shop: Shop) -> None:
    await shop.up()
    before = await ids_of(shop)
    tasks = live(await shop.client.inspect_job("shop", "web"))
    dead = tasks[2].node
    node = next(view for view in await shop.client.nodes() if view.node.name == dead)
    agent = shop.cluster.agents[dead]
    os.killpg(agent.pid, signal.SIGSTOP)  # first silent, then gone: no agent may tidy up behind it
    await docker("kill", *containers_of(node.node.id, only_running=True))
    agent.kill()
    await shop.cluster.until_nodes(
        lambda nodes: any(view.condition.status is NodeStatus.DOWN and view.node.name == dead for view in nodes)
    )
    await shop.until_web(3)
    after = live(await shop.client.inspect_job("shop", "web"))
    assert dead not in {view.node for view in after}
    kept = {view.task.slot: before[view.task.slot] for view in tasks if view.node != dead}
    assert kept.items() <= (await ids_of(shop)).items()
    await shop.until_all_answer(next(address for name, address in NODES if name != dead), 1)


@beside(on_docker_patient)
async def test_a_changed_image_rolls_new_before_old_without_a_failed_request(shop: Shop) -> None:
    await shop.up()
    known = shop.bodies(3, 1) | shop.bodies(3, 2)
    async with load(shop.targets, per_second=50, known=known.__contains__) as seen:
        await shop.up(version=2)
        await shop.until_web(3, version=2)
    assert seen.failures == []
    await shop.until_all_answer(NODES[0][1], 2)


@beside(on_docker_patient)
async def test_a_version_that_is_no_good_is_rolled_back_and_its_cause_told(shop: Shop) -> None:
    """No image, a crash after 20 s, never healthy, healthy for 10 s only."""
    async with empty_registry() as registry, asyncio.TaskGroup() as group:
        for version in bad_versions(registry):
            group.create_task(goes_back(shop, version))


async def goes_back(shop: Shop, version: BadVersion) -> None:
    path, port = shop.cluster.directory / f"{version.name}.yaml", free_port()
    path.write_text(compose(version, f"{WEB}:1", port, good=True))
    await shop.cluster.run("up", "-f", str(path))
    before = await kept(shop, version)
    path.write_text(compose(version, f"{WEB}:1", port, good=False))
    async with load([(address, port) for _, address in NODES], per_second=5, known="one".__eq__) as seen:
        done = await shop.cluster.run("up", "-f", str(path), code=1)
    assert seen.failures == []
    said = done.stdout + done.stderr
    assert all(words in said for words in (*version.said, "version 2 was rolled back to 1")), said
    assert await kept(shop, version) == before, "the old version was not touched"
    (job,) = [view for view in await shop.client.jobs(version.name) if view.job.name == "web"]
    assert (job.job.version, version.said[-1] in job.message or version.said[0] in job.message) == (1, True), (
        job.message
    )


async def kept(shop: Shop, version: BadVersion) -> dict[int, tuple[str, int]]:
    """Container and restarts of each healthy replica."""
    (detail,) = await shop.cluster.until(version.name, lambda found: len(found) == 1 and healthy(found[0], REPLICAS))
    return {view.task.slot: (view.task.status.runtime_id, view.task.status.attempt) for view in live(detail)}


@beside(on_docker_patient)
async def test_scaling_up_and_down_again_drops_no_request(shop: Shop) -> None:
    await shop.up()
    async with load(shop.targets, per_second=20) as seen:
        await shop.cluster.run("-n", "shop", "scale", "web=20")
        await shop.until_web(20)
        await shop.cluster.run("-n", "shop", "scale", "web=3")
        await shop.until_web(3)
    assert seen.failures == []


@beside(on_docker)
async def test_a_job_that_fits_nowhere_says_exactly_why(shop: Shop) -> None:
    path = shop.cluster.directory / "big.yaml"
    path.write_text(
        f"name: big\nservices:\n  big:\n    image: {WEB}:1\n"
        "    deploy: {resources: {reservations: {cpus: '99'}}, placement: {constraints: [node.labels.zone == moon]}}\n"
    )
    done = await shop.cluster.run("up", "-f", str(path), "--timeout", "10", code=1)
    assert "node.labels.zone" in done.stderr
    why = await asyncio.to_thread(shop.cluster.read, "-n", "big", "why", "big")
    assert {reason["reason"] for reason in why["reasons"]} >= {"constraint"}
    assert all(reason["text"] for reason in why["reasons"])
