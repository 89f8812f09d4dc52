"""Jobs call each other by name from containers and processes of every node, whatever becomes of those who told them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.network.haproxy.program import find_program
from tests.cluster.machine import until_async
from tests.cluster.processes import PATIENT, cluster, healthy
from tests.docker_images import NAMING_IMAGE, ensure_exposed_image, ensure_image, ensure_naming_image, require_docker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.docker,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a machine addresses that containers reach"),
]

NODES = [("n1", "127.0.0.91"), ("n2", "127.0.0.92")]
FILE = """
name: shop
x-caller: &caller
  volumes: ["@OUT@:@OUT@"]
  deploy: {mode: global, update_config: {monitor: 0s, parallelism: 0}}
  depends_on: {api: {condition: service_healthy}}
  stop_grace_period: 1s
services:
  api:
    image: @API@
    command: [sh, -c, "mkdir /tmp/w; echo @VERSION@ >/tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"]
    init: true
    @EXPOSE@
    healthcheck:
      test: [CMD, wget, -q, -O, "-", "http://127.0.0.1:8080/"]
      interval: 1s
      start_interval: 100ms
      start_period: 20s
    stop_grace_period: 5s
    deploy: {replicas: 2, update_config: {parallelism: 2}}
    networks: {default: {aliases: [backend]}}
  container: {<<: *caller, image: @IMAGE@, command: [bash, @OUT@/call.sh, api, "8080"]}
  slot: {<<: *caller, image: @IMAGE@, command: [bash, @OUT@/call.sh, 1.backend.shop, "8080"]}
  process:
    <<: *caller
    command: [bash, @OUT@/call.sh, "$${PODIUM_SERVICE_API_HOST}", "$${PODIUM_SERVICE_API_PORT}"]
"""
CALL = """
ask() {
    exec 3<>"/dev/tcp/$1/$2" || return
    printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3
    tail -n 1 <&3
}
while :; do
    answer=$(ask "$1" "$2")
    echo "${answer:-FAILED}"
    sleep 0.1
done >>"${0%/*}/$PODIUM_NODE-$PODIUM_JOB"
"""
CALLERS = ("container", "slot", "process")


class Answers:
    """What every caller on every node got so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def of(self, node: str, caller: str) -> list[str]:
        file = self.directory / f"{node}-{caller}"
        return file.read_text().splitlines() if file.exists() else []

    def counts(self, answer: str) -> dict[tuple[str, str], int]:
        return {(node, caller): self.of(node, caller).count(answer) for node, _ in NODES for caller in CALLERS}

    async def until_all(self, answer: str, more: int = 3) -> None:
        """Every caller gets it, this often from now on."""
        before = self.counts(answer)
        await self._until(lambda now: all(now[who] >= count + more for who, count in before.items()), answer)

    async def _until(self, holds: Callable[[dict[tuple[str, str], int]], bool], answer: str) -> None:
        async def seen() -> bool:
            await asyncio.sleep(0)
            return holds(self.counts(answer))

        await until_async(seen, f"everybody gets {answer}: {self.counts(answer)}, failed {self.counts('FAILED')}")

    @property
    def failed(self) -> int:
        return sum(self.counts("FAILED").values())


@pytest.mark.parametrize(
    ("proxy", "expose"),
    [
        pytest.param("relay", "", id="relay and a port that only the image declares"),
        pytest.param(
            "haproxy",
            "expose: [8080]",
            marks=pytest.mark.skipif(not find_program(), reason="not installed"),
            id="haproxy and a port that the file exposes",
        ),
    ],
)
async def test_names_resolve_and_traffic_flows_on_every_node_whoever_is_dead(
    tmp_path: Path, proxy: str, expose: str
) -> None:
    require_docker()
    ensure_naming_image()
    api = ensure_image() if expose else ensure_exposed_image()
    out, file = tmp_path / "out", tmp_path / "shop.yaml"
    out.mkdir()
    (out / "call.sh").write_text(CALL)
    answers = Answers(out)

    def write(version: str) -> str:
        text = FILE.replace("@API@", api).replace("@EXPOSE@", expose).replace("@IMAGE@", NAMING_IMAGE)
        text = text.replace("@OUT@", str(out)).replace("@VERSION@", version)
        file.write_text(text)
        return str(file)

    async with cluster(tmp_path, f"sqlite://{tmp_path}/controller.db", "docker,process", (), *PATIENT) as made:
        made.proxy = proxy
        for name, address in NODES:
            made.add_agent(name, address, "--allow-bind", str(out), "--proxy", proxy).start()
        await made.until_ready(len(NODES))
        await made.run("up", "-f", write("v1"))
        await answers.until_all("v1")
        await made.run("up", "-f", write("v2"))
        await answers.until_all("v2")
        await made.run("scale", "-n", "shop", "api=1")
        await made.until("shop", lambda found: all(healthy(one, 1) for one in found if one.view.job.name == "api"))
        await answers.until_all("v2")
        assert answers.failed == 0

        made.controller.kill()
        await answers.until_all("v2")
        for agent in made.agents.values():
            agent.kill()
        await answers.until_all("v2")
        for agent in made.agents.values():
            agent.start()
        await answers.until_all("v2")
        assert answers.failed == 0

        for name, _ in NODES:  # whose connections end with it
            pid = int((tmp_path / name / "relay" / "relay.pid").read_text())
            os.kill(pid, signal.SIGKILL)
        await answers.until_all("v2")
