"""How long what takes when a part dies, on real hosts: three, each with etcd, controller, agent and engine.

A cut cable to the replacement running, a killed or stopped leader to the next placement, a killed agent to its node
being served again; and Docker Swarm with its defaults on the same hosts in the same run, where it has the like.
One JSON line per case. `FAILOVER_TRIALS` says how often each is tried, `FAILOVER_CASES` which ones (with commas; all).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from benchmarks.guard import guarded
from benchmarks.stage import NAMESPACE, image, missing, report, say
from benchmarks.swarm import BOUND_S, SERVICE, Swarm
from common.model.api import JobDetail, ScaleTarget
from common.model.job import Container, JobSpec, TaskSpec
from common.model.node import NodeStatus
from tests.cluster.hosts import Host, Hosts
from tests.cluster.machine import until, until_async
from tests.cluster.processes import healthy, live

TRIALS = int(os.environ.get("FAILOVER_TRIALS", "20"))
CASES = os.environ.get("FAILOVER_CASES", "").replace(",", " ").split()
SETTLE_S = 3.0
"""Between trials: longer than a lease, so that none begins in the aftermath of the one before."""

Figures = dict[str, list[float]]
Trial = TypeVar("Trial")


def spec(tag: str, name: str, replicas: int) -> JobSpec:
    container = Container(image=tag, command=("sleep", "86400"), stop_signal="SIGKILL")
    return JobSpec(namespace=NAMESPACE, name=name, replicas=replicas, task=TaskSpec(container=container))


class Podium:
    """The trials on our own cluster. Each leaves it whole and spread over its hosts."""

    def __init__(self, hosts: Hosts, tag: str) -> None:
        self._hosts = hosts
        self._tag = tag
        self._placed = 0

    async def begin(self) -> None:
        await self._hosts.until_led()
        await self._hosts.until_ready(3)
        await self._hosts.client.apply(NAMESPACE, [spec(self._tag, SERVICE, 3)])
        await self._until(lambda job: healthy(job, 3))

    async def silence(self) -> float:
        """Cut cable to replacement running."""
        hosts = self._hosts
        far = hosts.others(await hosts.until_led())[0]
        far.cut()
        begun_s = time.monotonic()
        await self._until(lambda job: healthy(job, 3) and far.name not in _nodes(job))
        took_s = time.monotonic() - begun_s
        far.mend()
        await hosts.until_nodes(lambda nodes: all(node.condition.status is NodeStatus.READY for node in nodes))
        await self._spread()
        return took_s

    async def killed_leader(self) -> float:
        leader = await self._hosts.until_led()
        assert leader.controller is not None
        leader.controller.kill()
        return await self._next_placement(leader)

    async def hand_over(self) -> float:
        leader = await self._hosts.until_led()
        assert leader.controller is not None
        stopping = asyncio.create_task(asyncio.to_thread(leader.controller.end))
        took_s = await self._next_placement(leader)
        await stopping
        return took_s

    async def restarted_agent(self) -> float:
        """SIGKILL, and started again at once, to taken in with all its containers."""
        host = self._hosts.others(await self._hosts.until_led())[0]
        registered = host.agent.log().count("registered with")
        begun_s = time.monotonic()
        host.agent.kill()
        self._hosts.revive(host)

        async def again() -> bool:
            return host.agent.log().count("registered with") > registered

        await until_async(again, "the agent registers again")
        return time.monotonic() - begun_s

    async def _next_placement(self, gone: Host) -> float:
        """From now to a task of a new job having a node."""
        begun_s = time.monotonic()
        self._placed += 1
        name = f"next-{self._placed}"
        await self._hosts.client.apply(NAMESPACE, [spec(self._tag, name, 1)])
        await self._until(lambda job: any(view.task.node_id for view in live(job)), name)
        took_s = time.monotonic() - begun_s
        await until_async(lambda: asyncio.to_thread(_ended, gone), "its controller has ended")
        self._hosts.revive(gone)
        await self._hosts.client.remove(NAMESPACE, [name])
        await self._hosts.until(NAMESPACE, lambda jobs: len(jobs) == 1)
        return took_s

    async def _spread(self) -> None:
        """A rolling restart would leave gaps where they are: new tasks are placed beside old ones."""
        names = {host.name for host in self._hosts.all}
        await self._hosts.client.scale(NAMESPACE, [ScaleTarget(job=SERVICE, replicas=0)])
        await self._until(lambda job: all(view.task.ended for view in job.tasks))
        await self._hosts.client.scale(NAMESPACE, [ScaleTarget(job=SERVICE, replicas=3)])
        await self._until(lambda job: healthy(job, 3) and _nodes(job) == names)

    async def _until(self, holds: Callable[[JobDetail], bool], name: str = SERVICE) -> None:
        await self._hosts.until(NAMESPACE, lambda jobs: any(job.view.job.name == name and holds(job) for job in jobs))


class Peer:
    """The same on Docker Swarm."""

    def __init__(self, hosts: Hosts, tag: str) -> None:
        self._hosts = hosts
        self.swarm = Swarm(hosts.all, tag)
        self._placed = 0

    def begin(self) -> None:
        self.swarm.open()
        assert self.swarm.create(self._hosts.all[0], SERVICE, 3)
        self.swarm.spread(self._hosts.all[0])

    def silence(self) -> float:
        leader = self.swarm.leader()
        far = self._hosts.others(leader)[0]
        far.cut()
        begun_s = time.monotonic()

        def replaced() -> bool:
            return len(names := self.swarm.runs_on(leader)) == 3 and far.name not in names

        until(replaced, "replaced", BOUND_S)
        took_s = time.monotonic() - begun_s
        far.mend()
        self.swarm.until_whole()
        self.swarm.spread(leader)
        return took_s

    def killed_leader(self) -> float:
        leader = self.swarm.leader()
        near = self._hosts.others(leader)[0]
        self.swarm.kill(leader)
        begun_s = time.monotonic()
        self._placed += 1
        name = f"next-{self._placed}"
        until(lambda: self.swarm.create(near, name, 1), "taken", BOUND_S)
        until(lambda: self.swarm.is_placed(near, name), "placed", BOUND_S)
        took_s = time.monotonic() - begun_s
        self.swarm.restart(leader)
        self.swarm.until_whole()
        self.swarm.remove(near, name)
        self.swarm.spread(near)
        return took_s


async def podium(hosts: Hosts, tag: str) -> Figures:
    async with hosts.client:
        ours = Podium(hosts, tag)
        await ours.begin()
        trials: dict[str, Callable[[], Awaitable[float]]] = {
            "cut_to_replaced": ours.silence,
            "killed_leader_to_placement": ours.killed_leader,
            "hand_over_to_placement": ours.hand_over,
            "restarted_agent_to_adopted": ours.restarted_agent,
        }
        if unknown := [case for case in CASES if case not in trials]:
            raise SystemExit(f"FAILOVER_CASES: {', '.join(unknown)}: unknown; there are {', '.join(trials)}")
        return {case: [await _tried(case, trial) for _ in range(TRIALS)] for case, trial in _chosen(trials).items()}


def _chosen(trials: dict[str, Trial]) -> dict[str, Trial]:
    return {case: trial for case, trial in trials.items() if not CASES or case in CASES}


async def _tried(case: str, trial: Callable[[], Awaitable[float]]) -> float:
    await asyncio.sleep(SETTLE_S)
    took_s = await trial()
    say(f"{case}: {took_s:.2f} s")
    return took_s


def swarm(hosts: Hosts, tag: str) -> Figures:
    peer = Peer(hosts, tag)
    trials = _chosen({"cut_to_replaced": peer.silence, "killed_leader_to_placement": peer.killed_leader})
    if not trials:
        return {}
    peer.begin()
    figures: Figures = {}
    for case, trial in trials.items():
        figures[case] = []
        for _ in range(TRIALS):
            time.sleep(SETTLE_S)
            figures[case].append(trial())
            say(f"{case}: {figures[case][-1]:.2f} s with Swarm")
    return figures


@contextmanager
def hosts_of(directory: Path, tag: str) -> Iterator[Hosts]:
    made = Hosts(directory)
    try:
        made.open(tag)
        yield made
    finally:
        made.close()


def main() -> None:
    if missing("docker", "dockerd", "etcd", "etcdctl", "ip", "iptables", "nsenter", "unshare"):
        return
    with guarded(), image() as tag, tempfile.TemporaryDirectory(prefix="podium-failover-") as scratch:
        for name in ("podium", "swarm"):
            Path(scratch, name).mkdir()
        with hosts_of(Path(scratch, "podium"), tag) as hosts:
            ours = asyncio.run(podium(hosts, tag))
        peers = Hosts(Path(scratch, "swarm"))
        try:
            peers.plug()
            theirs = swarm(peers, tag)
        finally:
            peers.close()
    for case, seconds in ours.items():
        peer = {f"peer_{key}": value for key, value in _figures(theirs[case]).items()} if case in theirs else {}
        report("failover", case=case, trials=len(seconds), **_figures(seconds), **peer)


def _figures(seconds: list[float]) -> dict[str, float]:
    return {"median_s": round(statistics.median(seconds), 2), "worst_s": round(max(seconds), 2)}


def _nodes(job: JobDetail) -> set[str]:
    return {view.node for view in live(job)}


def _ended(host: Host) -> bool:
    return host.controller is None or not host.controller.runs


if __name__ == "__main__":
    main()
