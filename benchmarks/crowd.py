"""A controller on etcd and a crowd of pretended nodes around it, as processes of their own, with what they cost.

What benchmarks of size run on. Owns the processes and their gauges: memory and CPU of the controller, transactions and
bytes of the store, tasks that run. Decides nothing of what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil

from benchmarks.stage import say
from client.client import Client
from client.settings import ClientSettings
from common.model.job import Container, JobSpec, TaskSpec
from common.model.resources import Resources
from common.model.task import TaskState
from tests.cluster.processes import Program, live
from tests.etcd import EtcdServer
from tests.ports import free_port

HOST = "127.0.0.1"
WAIT_S = 1_800.0
"""Bound on every wait: a hundred thousand tasks on two busy cores take minutes."""
MIB = 1024 * 1024
_AGENTS_PER_PROCESS = 5_000
_LOOK_S = 1.0
"""Between two scrapes: each has the controller look at every job that is under way."""
REST_S = 5.0
"""Without a write: after the last task has begun rollouts are still found to be through."""
REST_AT_MOST_S = 120.0
"""A cluster that still writes by then does so for a reason, and the benchmark is to show it."""
_QUIET = ("--log-level", "warning")


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What had been used up to a moment."""

    at_s: float
    controller_cpu_s: float
    controller_bytes: int
    agents_cpu_s: float
    store_cpu_s: float
    transactions: int
    """That wrote: etcd's revision."""
    received_bytes: float
    """By etcd, from its clients."""


class Crowd:
    """See the module. `async with Crowd.running()` has one, `grow` gives it nodes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "etcd").mkdir()
        quota = f"--quota-backend-bytes={8 << 30}"
        self.store = EtcdServer(directory / "etcd", flags=(quota,))
        self.grpc, self._http = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
        arguments = (
            "--store",
            f"etcd://{self.store.endpoint}",
            "--grpc-listen",
            self.grpc,
            "--http-listen",
            self._http,
        )
        self.controller = Program("controller", directory, "controller", *arguments, *_QUIET)
        self.agents: list[Program] = []
        self.client = Client(ClientSettings(controllers=(self.grpc,)))
        self._probes = 0

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Crowd]:
        """With no agents yet."""
        with tempfile.TemporaryDirectory(prefix="podium-crowd-") as scratch:
            crowd = cls(Path(scratch))
            try:
                crowd.store.start()
                crowd.controller.start()
                async with crowd.client:
                    yield crowd
            finally:
                for program in (*crowd.agents, crowd.controller):
                    program.kill()
                crowd.store.kill()

    async def grow(self, agents: int) -> float:
        """Have so many agents more; the seconds until all were connected."""
        before = await self.gauge("podium_agent_sessions")
        begun_s = time.monotonic()
        left = agents
        while left:
            count = min(left, _AGENTS_PER_PROCESS)
            name = f"crowd{len(self.agents)}"
            arguments = ("--controller", self.grpc, "--runtime", "fake", "--name", name, "--count", str(count))
            offer = ("--cpus", "64", "--memory", "256G", "--http-listen", "", "--data-dir", str(self.directory / name))
            self.agents.append(Program(name, self.directory, "agent", *arguments, *offer, *_QUIET).start())
            left -= count
        await self.until("podium_agent_sessions", before + agents)
        return time.monotonic() - begun_s

    async def until(self, gauge: str, least: float) -> None:
        async with asyncio.timeout(WAIT_S):
            while await self.gauge(gauge) < least:
                self._check()
                await asyncio.sleep(_LOOK_S)

    async def until_running(self, tasks: int) -> None:
        await self.until('podium_tasks{state="running"}', tasks)

    async def until_at_rest(self) -> float:
        """Until nothing was written for a while; the seconds that took, of which `REST_AT_MOST_S` are waited."""
        begun_s = since_s = time.monotonic()
        written = (await self.mark()).transactions
        while time.monotonic() - since_s < REST_S and time.monotonic() - begun_s < REST_AT_MOST_S:
            await asyncio.sleep(_LOOK_S)
            before, written = written, (await self.mark()).transactions
            if written != before:
                since_s = time.monotonic()
        return time.monotonic() - begun_s

    async def gauge(self, name: str) -> float:
        """Of the controller; 0 while it does not answer."""
        with contextlib.suppress(OSError):
            return reading(await asyncio.to_thread(get_text, f"http://{self._http}/metrics"), name)
        return 0.0

    async def mark(self) -> Mark:
        metrics = await asyncio.to_thread(get_text, f"http://{self.store.endpoint}/metrics")
        return Mark(
            at_s=time.monotonic(),
            controller_cpu_s=cpu_s(self.controller.pid),
            controller_bytes=psutil.Process(self.controller.pid).memory_info().rss,
            agents_cpu_s=sum(cpu_s(program.pid) for program in self.agents),
            store_cpu_s=sum(cpu_s(pid) for pid in self._store_pids()),
            transactions=int(reading(metrics, "etcd_debugging_mvcc_current_revision")),
            received_bytes=reading(metrics, "etcd_network_client_grpc_received_bytes_total"),
        )

    async def probe(self) -> float:
        """Submit one task; the seconds until it runs, as whoever watches its job sees them."""
        self._probes += 1
        namespace = f"probe{self._probes}"
        seen = asyncio.Event()
        running = asyncio.create_task(self._until_runs(namespace, seen))
        await seen.wait()
        begun_s = time.monotonic()
        await self.client.apply(namespace, [spec(namespace, "one", 1)])
        await running
        took_s = time.monotonic() - begun_s
        await self.client.remove(namespace, ["one"])
        return took_s

    async def _until_runs(self, namespace: str, seen: asyncio.Event) -> None:
        async with asyncio.timeout(WAIT_S):
            async for details in self.client.watch(namespace):
                seen.set()
                if any(view.state is TaskState.RUNNING for detail in details for view in live(detail)):
                    return

    def _store_pids(self) -> Iterable[int]:
        return (
            process.pid
            for process in psutil.Process().children()
            if any(str(self.store.port) in word for word in process.cmdline()) and process.name() == "etcd"
        )

    def _check(self) -> None:
        for program in (self.controller, *self.agents):
            if program.ended:
                raise RuntimeError(f"{program.name} ended; its log:\n{program.log()[-3000:]}")


def spec(namespace: str, name: str, replicas: int) -> JobSpec:
    task = TaskSpec(container=Container(image="app:1"), reservations=Resources(cpu_millis=100, memory_bytes=64 * MIB))
    return JobSpec(namespace=namespace, name=name, replicas=replicas, task=task)


def percentile_ms(seconds: list[float], percent: int) -> float:
    """0 of nothing."""
    if len(seconds) < 2:
        return round(sum(seconds) * 1000, 1)
    return round(statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1000, 1)


async def probes(crowd: Crowd, times: int, pause_s: float) -> list[float]:
    """One after another."""
    found: list[float] = []
    for _ in range(times):
        found.append(await crowd.probe())
        await asyncio.sleep(pause_s)
    return found


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def get_text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def reading(metrics: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    if found is None:
        say(f"no metric {name}")
        return 0.0
    return float(found[1])
