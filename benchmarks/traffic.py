"""What passes through a node's proxy beside direct and beside Docker's published port, and how fast all proxies know.

Throughput: wrk with 32 kept-alive connections against one small answer, each way in turn, in several rounds. The server
is a HAProxy that answers by itself, so that it is never the slowest part; Docker's is the same program in a container.
Knowledge: 100 agents in this process, whose data planes only note when they were told, on a controller of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from agent.app import Agent
from agent.journal import Journal
from agent.network.haproxy.plane import HaproxyPlane
from agent.network.haproxy.program import find_program
from agent.network.haproxy.site import Web
from agent.network.interface import NO_CERTIFICATES, Certificates, DataPlane
from agent.network.pretended import PretendedDataPlane
from agent.network.relay_plane import RelayPlane
from agent.runtime.fake import FakeEngine, FakeRuntime
from agent.runtime.interface import ExecResult
from agent.session_grpc import GrpcDialer
from agent.settings import AgentSettings
from benchmarks.guard import guarded
from benchmarks.stage import image, missing, report, say
from common.model.endpoint import Endpoint, Service
from common.model.ids import new_id
from common.model.job import Container, HealthCheck, HttpRoute, JobSpec, Port, RestartPolicy, TaskSpec
from common.model.resources import Usage
from tests.cluster.processes import Cluster, end_cluster, healthy
from tests.ports import free_port

HOST, ROUTED = "127.0.0.1", "bench.test"
ROUNDS, SECONDS, CONNECTIONS = 3, 4, 32
AGENTS, CHANGES = 100, 20
CHECK_S = 0.1
WAIT_S = 60.0

SERVER = """
global
    maxconn 4000
defaults
    mode http
    timeout client 1m
    timeout server 1m
    timeout connect 1s
frontend answers
    bind {address}
    http-request return status 200 content-type text/plain string "hello"
"""


# --- throughput


def main() -> int:
    with guarded():
        if not missing("haproxy" if not find_program() else find_program(), "wrk"):
            asyncio.run(throughput())
        logging.disable(logging.WARNING)  # a hundred agents, each saying that the controller is not up yet
        asyncio.run(knowledge())
    return 0


async def throughput() -> None:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podium-traffic-")))
        port = stack.enter_context(server(scratch))
        ways = {"direct": (port, "")}
        if not missing("docker"):
            ways["docker"] = (stack.enter_context(in_a_container(scratch)), "")
        async with proxies(scratch, port) as through:
            ways |= through
            await compare(ways)


@contextmanager
def server(scratch: Path) -> Iterator[int]:
    """The server as a process of this machine; its port."""
    port, file = free_port(), scratch / "server.cfg"
    file.write_text(SERVER.format(address=f"{HOST}:{port}"))
    process = subprocess.Popen([find_program(), "-db", "-f", str(file)])
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def in_a_container(scratch: Path) -> Iterator[int]:
    """The same program in a container behind a port that Docker publishes; this port."""
    port, file = free_port(), scratch / "container.cfg"
    file.write_text(SERVER.format(address="0.0.0.0:80"))
    mounts = [f"--volume={path}:{path}:ro" for path in ("/usr", "/lib", "/lib64") if Path(path).exists()]
    with image() as tag:
        command = ["docker", "run", "--detach", "--rm", f"--publish={HOST}:{port}:80", *mounts]
        command += [f"--volume={file}:/server.cfg:ro", tag, find_program(), "-db", "-f", "/server.cfg"]
        container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        try:
            yield port
        finally:
            subprocess.run(["docker", "rm", "--force", container], check=False, capture_output=True)


@asynccontextmanager
async def proxies(scratch: Path, port: int) -> AsyncIterator[dict[str, tuple[int, str]]]:
    """Relay and HAProxy before the server: the port and the host name of each way."""
    endpoint = Endpoint(task_id="t", slot=1, node_id="n", address=HOST, port=port)
    web = Web(address=HOST, http_port=free_port(), https_port=free_port())
    planes: dict[str, DataPlane] = {
        "relay": RelayPlane(scratch / "relay", HOST, random.Random()),
        "haproxy": HaproxyPlane(scratch / "haproxy", web, None, random.Random()),
    }
    ways = {"haproxy_http": (web.http_port, ROUTED)}
    try:
        for name, plane in planes.items():
            ways[name] = (free_port(), "")
            await plane.start()
            await plane.apply(1, services(name, ways[name][0], endpoint))
        yield ways
    finally:
        for plane in planes.values():
            await plane.close(stop=True)


def services(name: str, port: int, endpoint: Endpoint) -> tuple[Service, ...]:
    by_port = Service(namespace="b", job=name, container_port=80, published_port=port, endpoints=(endpoint,))
    routed = msgspec.structs.replace(by_port, published_port=0, http=HttpRoute(host=ROUTED))
    return (by_port, routed) if name == "haproxy" else (by_port,)


async def compare(ways: dict[str, tuple[int, str]]) -> None:
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(ROUNDS):
        for way, (port, host) in ways.items():
            found[way].append(await asyncio.to_thread(load, port, host))
            say(f"round {turn + 1}, {way}: {found[way][-1][0]:.0f}/s, p99 {found[way][-1][1]:.2f} ms")
    direct = statistics.median(rate for rate, _ in found["direct"])
    for way, rounds in found.items():
        rate = statistics.median(rate for rate, _ in rounds)
        p99_ms = round(statistics.median(p99 for _, p99 in rounds), 2)
        report("traffic", way=way, requests_per_second=round(rate), p99_ms=p99_ms, ratio=round(rate / direct, 2))


def load(port: int, host: str) -> tuple[float, float]:
    """Requests a second, and the 99th percentile of their times in milliseconds."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", f"http://{HOST}:{port}/"]
    command[1:1] = ["-H", f"Host: {host}"] if host else []
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    rate, p99 = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    assert rate, said
    assert p99, said
    assert "Non-2xx" not in said, said
    return float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]


# --- how fast all proxies know


class Noting(PretendedDataPlane):
    """Notes when it was told that a task may get traffic, and when that it may not."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: frozenset[str] = frozenset()
        self.at_s = 0.0

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        await super().apply(revision, services)
        self.tasks = frozenset(endpoint.task_id for service in services for endpoint in service.endpoints)
        self.at_s = time.monotonic()


class Moody(FakeRuntime):
    """Whose health checks answer as `well` says; `judged_s` is when one did so for the first time since."""

    well = True
    judged_s = 0.0

    async def exec(self, container_id: str, argv: tuple[str, ...], timeout_s: float) -> ExecResult:
        self.judged_s = self.judged_s or time.monotonic()
        return ExecResult(code=0 if self.well else 1, output="")

    def turn(self, *, well: bool) -> None:
        self.well, self.judged_s = well, 0.0


async def knowledge() -> None:
    with tempfile.TemporaryDirectory(prefix="podium-traffic-") as scratch:
        made = Cluster(Path(scratch), f"sqlite://{scratch}/controller.db", "fake")
        stop = asyncio.Event()
        try:
            made.controller.start()
            planes, runtimes, agents = crowd(made)
            async with made.client, asyncio.TaskGroup() as group:
                for agent in agents:
                    group.create_task(agent.run(stop=stop))
                await made.until_ready(AGENTS)
                await made.client.apply("b", [job()])
                (detail,) = await made.until("b", lambda found: len(found) == 1 and healthy(found[0], 2))
                task = detail.tasks[0].task
                await measure(planes, runtimes[task.node_id], task.id)
                stop.set()
        finally:
            stop.set()
            await asyncio.to_thread(end_cluster, made)


def crowd(made: Cluster) -> tuple[list[Noting], dict[str, Moody], list[Agent]]:
    planes, runtimes, agents = [], {}, []
    dialer = GrpcDialer(None, insecure=True, timeout_s=3.0)
    for number in range(AGENTS):
        rng = random.Random(number)
        node_id = new_id(rng)
        planes.append(Noting())
        runtimes[node_id] = Moody(node_id, FakeEngine(time.time))
        name = f"n{number}"
        settings = AgentSettings(
            controllers=(made.grpc,), data_dir="none", name=name, runtimes=("fake",), insecure=True, find_devices=False
        )
        agents.append(
            Agent(
                settings,
                address=HOST,
                journal=Journal.in_memory(node_id),
                runtimes=[runtimes[node_id]],
                dialer=dialer,
                data_plane=planes[-1],
                clock=time.time,
                rng=rng,
                usage=lambda _tasks: Usage(),
            )
        )
    return planes, runtimes, agents


def job() -> JobSpec:
    check = HealthCheck(test=("CMD", "ask"), interval_s=CHECK_S, start_interval_s=CHECK_S, retries=1)
    ports = (Port(container_port=80, published_port=8080),)
    restart = RestartPolicy(max_attempts=0, window_s=0.001)  # for ever, and soon
    task = TaskSpec(container=Container(image="x:1"), ports=ports, health_check=check, restart=restart)
    return JobSpec(namespace="b", name="web", replicas=2, task=task)


async def measure(planes: list[Noting], runtime: Moody, task_id: str) -> None:
    """Turn one task sick and well again, and see how long after its check each proxy follows."""
    for well, text in ((False, "unhealthy to out of every balancer"), (True, "healthy to in every balancer")):
        every: list[float] = []
        last: list[float] = []
        for _ in range(CHANGES):
            await follow(planes, runtime, task_id, well=not well)
            delays = await follow(planes, runtime, task_id, well=well)
            every += delays
            last.append(max(delays))
        p50, p99 = (round(1000 * quantile, 1) for quantile in (statistics.median(every), _p99(every)))
        figures = {"p50_ms": p50, "p99_ms": p99, "slowest_proxy_median_ms": round(1000 * statistics.median(last), 1)}
        report("propagation", change=text, agents=len(planes), changes=CHANGES, **figures)


async def follow(planes: list[Noting], runtime: Moody, task_id: str, *, well: bool) -> list[float]:
    """Seconds from the check's verdict until each proxy was told."""
    runtime.turn(well=well)
    async with asyncio.timeout(WAIT_S):
        while any((task_id in plane.tasks) != well for plane in planes):  # noqa: ASYNC110  a hundred tell
            await asyncio.sleep(0.01)
    return [plane.at_s - runtime.judged_s for plane in planes]


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


if __name__ == "__main__":
    sys.exit(main())
