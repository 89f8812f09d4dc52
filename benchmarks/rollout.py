"""From a changed version accepted to all replicas running it, beside Swarm's `service update` on the same engine.

Both sides replace 30 containers five at a time, the new one before the old one, once without a health check and once
with one of half a second that both wait for; they take turns within one run. The engine is the benchmark's own, on a
machine made of namespaces: what it knows of a swarm is gone with it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.guard import guarded
from benchmarks.stage import NAMESPACE, Scene, image, missing, report, say, watched
from client.client import Client
from common.model.api import JobDetail
from common.model.job import Container, HealthCheck, JobSpec, TaskSpec, UpdatePolicy
from common.model.rollout import RolloutPhase
from tests.cluster.engine import OwnEngine
from tests.cluster.machine import Machine, until
from tests.cluster.processes import cluster, healthy

JOB = "rollout"
REPLICAS = 30
PARALLELISM = 5
CHECK_S = 0.5
ROUNDS = 3
BOUND_S = 180.0
COMMAND = ("sleep", "86400")


def spec(tag: str, round_: int, *, checked: bool) -> JobSpec:
    environment = {"ROUND": str(round_)}
    container = Container(image=tag, command=COMMAND, environment=environment, stop_signal="SIGKILL", stop_grace_s=1.0)
    check = HealthCheck(test=("CMD", "true"), interval_s=CHECK_S) if checked else None
    task = TaskSpec(container=container, health_check=check)
    update = UpdatePolicy(parallelism=PARALLELISM, monitor_s=0.0)
    return JobSpec(namespace=NAMESPACE, name=JOB, replicas=REPLICAS, task=task, update=update)


async def podium_s(client: Client, scene: Scene, job: JobSpec) -> float:
    version = scene.job(JOB).view.job.version + 1
    begun_s = asyncio.get_running_loop().time()
    await client.apply(NAMESPACE, [job])
    return await scene.until(lambda jobs: _through(jobs[JOB], version)) - begun_s


def _through(detail: JobDetail, version: int) -> bool:
    rollout = detail.view.job.rollout
    done = rollout is None or rollout.phase is RolloutPhase.DONE
    return done and detail.view.job.good_version == version and healthy(detail, REPLICAS, version)


class SwarmService:
    """Of a swarm of one."""

    def __init__(self, engine: OwnEngine, tag: str) -> None:
        self._engine = engine
        self._tag = tag

    def open(self) -> None:
        self._engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
        options = [f"--replicas={REPLICAS}", "--no-resolve-image", "--stop-signal=SIGKILL", "--stop-grace-period=1s"]
        self._engine.docker("service", "create", "--detach", "--name", JOB, *options, self._tag, *COMMAND)
        until(lambda: self._running() == REPLICAS, "all replicas run", BOUND_S)

    def update_s(self, round_: int, *, checked: bool) -> float:
        """Until it says itself that it is through."""
        check = ["--health-cmd=true", f"--health-interval={CHECK_S * 1000:g}ms"] if checked else ["--no-healthcheck"]
        how = [*check, f"--update-parallelism={PARALLELISM}", "--update-order=start-first", "--update-delay=0s"]
        how += ["--update-monitor=1ms", "--detach", "--no-resolve-image", f"--env-add=ROUND={round_}"]
        begun_s = time.monotonic()
        self._engine.docker("service", "update", *how, JOB)
        until(lambda: self._state() == "completed", "the update is completed", BOUND_S)
        return time.monotonic() - begun_s

    def _state(self) -> str:
        described = json.loads(self._engine.docker("service", "inspect", JOB).stdout)
        return str(described[0].get("UpdateStatus", {}).get("State", ""))

    def _running(self) -> int:
        command = ("service", "ps", "--filter=desired-state=running", "--format={{.CurrentState}}", JOB)
        return sum(line.startswith("Running") for line in self._engine.docker(*command).stdout.splitlines())


@asynccontextmanager
async def own_engine(directory: Path, tag: str) -> AsyncIterator[OwnEngine]:
    (directory / "machine").mkdir()
    machine = Machine("bench", directory / "machine")
    engine = OwnEngine(machine)

    def begin() -> None:
        machine.boot()
        engine.start()
        engine.load(tag)

    def end() -> None:
        try:
            engine.remove_all()
        finally:
            machine.die()

    try:
        await asyncio.to_thread(begin)
        yield engine
    finally:
        await asyncio.to_thread(end)


async def run() -> None:
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name, image() as tag:
        directory = Path(name)
        below = directory / "cluster"
        below.mkdir()
        async with (
            own_engine(directory, tag) as engine,
            cluster(below, f"sqlite://{below}/controller.db", "docker", []) as made,
        ):
            made.add_agent("n1", "127.0.0.1", "--docker-host", engine.host).start()
            await made.until_ready(1)
            service = SwarmService(engine, tag)
            await asyncio.to_thread(service.open)
            async with watched(made.client) as scene:
                await made.client.apply(NAMESPACE, [spec(tag, 0, checked=False)])
                await scene.until(lambda jobs: JOB in jobs and _through(jobs[JOB], 1))
                for checked in (False, True):
                    await compare(made.client, scene, service, tag, checked=checked)


async def compare(client: Client, scene: Scene, service: SwarmService, tag: str, *, checked: bool) -> None:
    rounds = []
    for number in range(1, ROUNDS + 1):
        label = number + ROUNDS * checked
        ours = await podium_s(client, scene, spec(tag, label, checked=checked))
        peers = await asyncio.to_thread(service.update_s, label, checked=checked)
        how = "with" if checked else "without"
        say(f"{REPLICAS} replicas {how} a health check: podium {ours:.2f} s, swarm {peers:.2f} s")
        rounds.append((ours, peers))
    report(
        "rollout",
        replicas=REPLICAS,
        parallelism=PARALLELISM,
        health_check=checked,
        rounds=ROUNDS,
        podium_s=round(statistics.median(ours for ours, _ in rounds), 2),
        peer_swarm_s=round(statistics.median(peers for _, peers in rounds), 2),
        ratio=round(statistics.median(ours / peers for ours, peers in rounds), 2),
    )


def main() -> None:
    if not missing("docker", "dockerd", "unshare", "nsenter"):
        with guarded():
            asyncio.run(run())


if __name__ == "__main__":
    main()
