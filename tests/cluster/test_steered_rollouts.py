"""Canary and blue-green with weights of traffic, and rollouts that somebody steers or that get stuck, under load.

One cluster of processes; each scenario has a job of its own, and no request of any of them fails.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.network.haproxy.program import find_program
from common.model.api import JobView
from common.model.rollout import RolloutPhase
from tests.chance import range_of
from tests.cluster.load import Load, get, load
from tests.cluster.processes import PATIENCE_S, PATIENT, Cluster, cluster, healthy, live
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NODES = [("n1", "127.0.0.41"), ("n2", "127.0.0.42"), ("n3", "127.0.0.43")]
BESIDE = ("n4", "127.0.0.44")
"""A node with HAProxy, where it is installed; the others have the relay."""
PROXIES = {"relay": NODES[0][1], **({"haproxy": BESIDE[1]} if find_program() else {})}
MEASURED = 300
"""Requests by which a share is told."""
PER_SECOND = 40
SERVER = """
import asyncio, os, sys

async def serve(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    body = os.environ["VERSION"].encode()
    writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, os.environ["PODIUM_NODE_ADDRESS"], int(os.environ["PORT"]))
    await server.serve_forever()

asyncio.run(main())
"""


class Job:
    """One service of a project of its own, whose answers are its version."""

    def __init__(self, made: Cluster, name: str, replicas: int, podium: str = "{}", before: str = "") -> None:
        """`before` is shell that each task runs first."""
        self.made, self.name, self.replicas = made, name, replicas
        self.port = free_port()
        self.podium, self._before = podium, before
        self._server = made.directory / "server.py"

    def write(self, version: str, healthcheck: str = "") -> str:
        """Its file."""
        path = self.made.directory / f"{self.name}.yaml"
        started = f"{self._before} exec python3 -S {shlex.quote(str(self._server))}".replace("$", "$$")
        check = healthcheck or (
            '{test: [CMD, bash, -c, "exec 3<>/dev/tcp/$$PODIUM_NODE_ADDRESS/$$PORT"], interval: 5s, start_period: 20s, '
            "start_interval: 250ms}"
        )
        path.write_text(
            f"""
name: {self.name}
services:
  web:
    command: [bash, -c, {started!r}]
    environment: {{VERSION: {version}}}
    ports: ["{self.port}:80"]
    healthcheck: {check}
    deploy: {{replicas: {self.replicas}, update_config: {{monitor: 1s}}, restart_policy: {{max_attempts: 1}}}}
    x-podium: {self.podium}
"""
        )
        return str(path)

    async def up(self, version: str, *options: str, code: int = 0, **said: str) -> str:
        done = await self.made.run("up", "-f", self.write(version, **said), *options, code=code)
        return done.stdout + done.stderr

    async def do(self, command: str) -> str:
        done = await self.made.run(command, f"{self.name}/web")
        return done.stdout + done.stderr

    async def until(self, holds: Callable[[JobView], bool]) -> JobView:
        (detail,) = await self.made.until(self.name, lambda found: len(found) == 1 and holds(found[0].view))
        return detail.view

    async def settled(self, version: int) -> None:
        await self.made.until(self.name, lambda found: len(found) == 1 and healthy(found[0], self.replicas, version))

    async def versions(self) -> list[int]:
        """Of the tasks that are to run."""
        return sorted(view.task.version for view in live(await self.made.client.inspect_job(self.name, "web")))

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[Load]:
        targets = [(address, self.port) for address in {*(address for _, address in NODES), *PROXIES.values()}]
        for address, port in targets:  # a node's proxy may open its port a moment after the tasks are well
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with suppress(OSError, ValueError):
                        await get(address, port)
                        break
                    await asyncio.sleep(0.05)
        async with load(targets, PER_SECOND) as seen:
            yield seen
        assert seen.failures == [], f"{self.name}: {seen.failures[:3]}"


async def share(seen: Load, version: str, answers: int = 400) -> float:
    """Of the next answers, how many in a hundred are of this version."""
    before, one = seen.answers, seen.bodies[version]
    await seen.until(lambda seen: seen.answers >= before + answers)
    return 100 * (seen.bodies[version] - one) / (seen.answers - before)


async def check_shares(job: Job, version: str, percent: int) -> None:
    """This version has so many of a hundred requests, through every kind of proxy."""
    for proxy, address in PROXIES.items():
        answers = [await get(address, job.port) for _ in range(MEASURED)]
        counted = answers.count(version)
        assert counted in range_of(MEASURED, percent), f"{proxy}: {counted} of {MEASURED}, not {percent} %"


def awaits(view: JobView) -> bool:
    return view.job.rollout is not None and view.job.rollout.phase is RolloutPhase.AWAITING


async def a_canary_gets_its_weight(made: Cluster) -> None:
    steps = "[{replicas: 1, weight: 50, bake: 1s}, {replicas: 2, weight: 75, bake: 1s}]"
    job = Job(made, "canary", 4, f"{{canary: {{promote: manual, steps: {steps}}}}}")
    await job.up("one")
    async with job.under_load() as seen:
        assert "podium promote" in await job.up("two")
        await check_shares(job, "two", 50)
        assert await job.versions() == [1, 1, 1, 1, 2], "beside all of the old ones"
        await job.do("promote")
        await job.until(awaits)
        await check_shares(job, "two", 75)
        await job.do("rollback")
        await job.settled(1)
        assert await share(seen, "two", 50) == 0
        await job.up("three")
        await job.do("promote")
        await job.until(awaits)
        await job.do("promote")
        await job.settled(3)
        assert await share(seen, "three", 50) == 100


async def blue_and_green_change_places_at_once(made: Cluster) -> None:
    job = Job(made, "green", 2, "{blue_green: {bake: 40s, promote: manual}}")
    await job.up("one")
    async with job.under_load() as seen:
        assert "podium promote" in await job.up("two")
        assert await job.versions() == [1, 1, 2, 2]
        assert await share(seen, "two", 80) == 0, "it runs without traffic"
        await job.do("promote")
        await seen.until(lambda seen: seen.bodies["two"] > 20)
        assert await share(seen, "two", 40) == 100
        assert await job.versions() == [1, 1, 2, 2], "the old one is kept while the new one bakes"
        await job.do("rollback")
        await job.settled(1)
        assert await share(seen, "one", 40) == 100


async def a_pause_stands_and_a_resume_goes_on(made: Cluster) -> None:
    gate = made.directory / "gate"  # while it is not there, the new version stands still in the third slot
    job = Job(
        made,
        "paused",
        4,
        before=f"while [ $VERSION = two ] && [ $PODIUM_SLOT = 3 ] && [ ! -e {gate} ]; do sleep 0.1; done;",
    )
    await job.up("one")
    async with job.under_load():
        await job.up("two", "--detach")
        await job.until(lambda view: view.job.rollout is not None and view.job.rollout.healthy != "")
        assert "pause" in await job.do("pause")
        before = await job.versions()
        assert {1, 2} == set(before)
        view = await job.until(lambda view: bool(view.job.paused))
        assert "paused" in view.rollout
        assert "is paused" in await job.up("two", code=1)
        gate.touch()
        await job.do("resume")
        await job.settled(2)


async def no_progress_is_a_failure(made: Cluster) -> None:
    job = Job(made, "stuck", 2)
    await job.up("one")
    job.podium = "{progress_deadline: 4s}"  # not of the first version, which a busy machine may start slowly
    async with job.under_load() as seen:
        never = "{test: [CMD, 'false'], start_period: 120s, interval: 1s}"
        said = await job.up("two", code=1, healthcheck=never)
        assert "version 2 was rolled back to 1" in said
        assert "it came no further for" in said
        await job.settled(1)
        assert await share(seen, "one", 20) == 100


async def a_rollback_that_fails_stops_and_says_so(made: Cluster) -> None:
    """The new version takes one slot over and fails in the next; by then the old one cannot start any more."""
    needed = made.directory / "needed"
    needed.touch()
    job = Job(
        made,
        "back",
        2,
        before=f"if [ $VERSION = one ] && [ ! -e {needed} ]; then echo its table is gone; exit 5; fi; "
        f"if [ $VERSION = two ]; then rm -f {needed}; [ $PODIUM_SLOT = 1 ] || {{ echo no more room; exit 4; }}; fi;",
    )
    await job.up("one")
    async with job.under_load() as seen:
        said = await job.up("two", code=1)
        assert "no more room" in said
        view = await job.until(lambda view: bool(view.job.rollout and view.job.rollout.phase is RolloutPhase.FAILED))
        assert view.job.rollout is not None
        assert view.job.rollout.back
        assert "its table is gone" in view.job.rollout.reason
        assert view.healthy == 2, "what is well is left alone"
        jobs = await asyncio.to_thread(made.read, "-n", "back", "jobs")
        assert "rollback" in f"{jobs[0]['message']}"
        needed.touch()
        await job.do("resume")
        await job.settled(1)
        assert await share(seen, "one", 20) == 100


SCENARIOS: tuple[Callable[[Cluster], Awaitable[None]], ...] = (
    a_canary_gets_its_weight,
    blue_and_green_change_places_at_once,
    a_pause_stands_and_a_resume_goes_on,
    no_progress_is_a_failure,
    a_rollback_that_fails_stops_and_says_so,
)


async def test_rollouts_that_somebody_steers_fail_no_request(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    async with cluster(tmp_path, f"sqlite:///{tmp_path}/podium.db", "process", NODES, *PATIENT) as made:
        if "haproxy" in PROXIES:
            made.add_agent(*BESIDE, "--proxy", "haproxy").start()
            await made.until_ready(len(NODES) + 1)
        ends = await asyncio.gather(*(scenario(made) for scenario in SCENARIOS), return_exceptions=True)
    if failed := [end for end in ends if isinstance(end, Exception)]:
        raise ExceptionGroup(f"{len(failed)} of {len(SCENARIOS)} scenarios failed", failed)
