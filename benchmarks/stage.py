"""What benchmarks run on and how they report: real clusters in a directory of their own, one JSON line per case.

Owns that everything begun for a benchmark is gone after it. Measures nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from client.client import Client
from common.model.api import JobDetail
from common.model.task import TaskState
from tests.cluster.processes import Cluster, cluster, live
from tests.docker_images import DEFAULT_HOST, ensure_image, remove_image
from tests.etcd import EtcdServer

NAMESPACE = "bench"
NODE = "bench-node"
ADDRESS = "127.0.0.1"
WAIT_S = 120.0
"""Bound on every wait: 50 containers take 10 to 20 s to start and as long to remove."""


def report(bench: str, **figures: object) -> None:
    """The one line of a case."""
    print(json.dumps({"bench": bench, **figures}), flush=True)


def median_ms(seconds: Iterable[float]) -> float:
    return round(statistics.median(seconds) * 1000, 1)


def say(text: str) -> None:
    """For whoever watches; never on stdout."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def missing(*programs: str) -> bool:
    """Whether a case must be left out because this machine cannot run it; says so."""
    for program in programs:
        if shutil.which(program) is None:
            say(f"left out: needs the program {program}")
            return True
    if "docker" in programs and (not Path("/var/run/docker.sock").exists() or os.geteuid() != 0):
        say("left out: needs a Docker Engine at /var/run/docker.sock, and to be root")
        return True
    return False


@contextmanager
def image() -> Iterator[str]:
    """A small image of this run's own: imported, so that no registry is asked."""
    tag = f"podium-bench-{uuid.uuid4().hex[:8]}:1"
    try:
        yield ensure_image(tag)
    finally:
        remove_image(tag, DEFAULT_HOST)


@asynccontextmanager
async def one_node(store: str, runtime: str) -> AsyncIterator[Cluster]:
    """A controller on `store` (`sqlite` or `etcd`) and one agent, as separate processes."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podium-bench-")))
        url = f"sqlite://{directory}/controller.db"
        if store == "etcd":
            (directory / "etcd").mkdir()
            server = EtcdServer(directory / "etcd")
            stack.callback(server.kill)
            server.start()
            url = f"etcd://{server.endpoint}"
        async with cluster(directory, url, runtime, [(NODE, ADDRESS)]) as made:
            yield made


class Scene:
    """The jobs of the benchmarks' namespace as the watch stream shows them: what `podium up` looks at."""

    def __init__(self) -> None:
        self._jobs: dict[str, JobDetail] = {}
        self._changed = asyncio.Event()

    def job(self, name: str) -> JobDetail:
        return self._jobs[name]

    async def follow(self, client: Client) -> None:
        """Until cancelled."""
        async for details in client.watch(NAMESPACE):
            self._jobs = {detail.view.job.name: detail for detail in details}
            self._changed.set()
            self._changed = asyncio.Event()

    async def until(self, holds: Callable[[dict[str, JobDetail]], bool]) -> float:
        """When (loop time) what was seen first held."""
        async with asyncio.timeout(WAIT_S):
            while not holds(self._jobs):
                await self._changed.wait()
        return asyncio.get_running_loop().time()

    async def until_running(self, name: str, count: int) -> float:
        return await self.until(lambda jobs: name in jobs and running(jobs[name]) == count)

    async def until_gone(self, name: str) -> float:
        return await self.until(lambda jobs: name not in jobs)


@asynccontextmanager
async def watched(client: Client) -> AsyncIterator[Scene]:
    scene = Scene()
    following = asyncio.create_task(scene.follow(client))
    try:
        yield scene
    finally:
        following.cancel()
        await asyncio.wait([following])


def running(detail: JobDetail) -> int:
    return sum(view.state is TaskState.RUNNING for view in live(detail))
