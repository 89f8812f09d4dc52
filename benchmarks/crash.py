"""From kill -9 of a container to its replacement running, as a watching client sees it: one JSON line per runtime.

The container's own start, measured beside each crash without Podium, is told and taken off: what is left is noticing,
recording how it ended (exit, last lines of output), the back-off of 100 ms, and telling the client.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from benchmarks.guard import guarded
from benchmarks.raw_engine import RawEngine, raw_engine
from benchmarks.stage import NAMESPACE, Scene, image, median_ms, missing, one_node, report, say, watched
from client.client import Client
from common.model.api import JobDetail
from common.model.job import Container, JobSpec, TaskSpec
from common.model.task import TaskState
from tests.cluster.processes import live

JOB = "crash"
CRASHES = 10
"""Each of another task: a second crash of one would wait twice as long."""
COMMAND = ("sleep", "86400")
SETTLE_S = 2.0
"""Before the first crash: a rollout that has just ended still writes."""

OwnStart = Callable[[JobSpec], Awaitable[float]]
PidOf = Callable[[str], Awaitable[int]]


def spec(tag: str) -> JobSpec:
    task = TaskSpec(container=Container(image=tag, command=COMMAND, stop_signal="SIGKILL"))
    return JobSpec(namespace=NAMESPACE, name=JOB, replicas=CRASHES, task=task)


async def crash_s(scene: Scene, slot: int, pid_of: PidOf) -> float:
    """Kill one container; the seconds until its task runs again in another."""
    (before,) = [view for view in live(scene.job(JOB)) if view.task.slot == slot]
    pid = await pid_of(before.task.status.runtime_id)
    killed_s = asyncio.get_running_loop().time()
    os.kill(pid, signal.SIGKILL)

    def again(jobs: dict[str, JobDetail]) -> bool:
        return any(
            view.task.slot == slot
            and view.state is TaskState.RUNNING
            and view.task.status.runtime_id != before.task.status.runtime_id
            for view in live(jobs[JOB])
        )

    return await scene.until(again) - killed_s


async def measure(runtime: str, client: Client, job: JobSpec, own_start: OwnStart, pid_of: PidOf) -> None:
    async with watched(client) as scene:
        await client.apply(NAMESPACE, [job])
        await scene.until_running(JOB, job.replicas)
        await asyncio.sleep(SETTLE_S)
        crashes, starts = [], []
        for slot in range(1, job.replicas + 1):
            starts.append(await own_start(job))
            crashes.append(await crash_s(scene, slot, pid_of))
            say(f"{runtime}: crash to running {crashes[-1]:.3f} s, own start {starts[-1]:.3f} s")
        await client.remove(NAMESPACE, [JOB])
        await scene.until_gone(JOB)
    beyond = [crash - start for crash, start in zip(crashes, starts, strict=True)]
    report(
        "crash",
        runtime=runtime,
        crashes=len(crashes),
        crash_to_running_ms=median_ms(crashes),
        own_start_ms=median_ms(starts),
        difference_ms=median_ms(beyond),
        worst_difference_ms=round(max(beyond) * 1000, 1),
    )


async def docker() -> None:
    if missing("docker"):
        return
    with image() as tag:
        async with one_node("sqlite", "docker") as made, raw_engine() as raw:
            await measure("docker", made.client, spec(tag), _one_container(raw), raw.pid_of)


def _one_container(raw: RawEngine) -> OwnStart:
    async def start(job: JobSpec) -> float:
        took_s = await raw.start_all(job, 1)
        await raw.remove_all()
        return took_s

    return start


async def process() -> None:
    async def start(job: JobSpec) -> float:
        begun_s = asyncio.get_running_loop().time()
        program = await asyncio.create_subprocess_exec(*job.task.container.command)
        took_s = asyncio.get_running_loop().time() - begun_s
        program.kill()
        await program.wait()
        return took_s

    async def pid_of(runtime_id: str) -> int:
        return int(runtime_id)

    async with one_node("sqlite", "process") as made:
        await measure("process", made.client, spec(""), start, pid_of)


RUNTIMES = {"docker": docker, "process": process}


def main(arguments: list[str]) -> None:
    """`python -m benchmarks.crash [docker|process]...`."""
    for name in arguments or RUNTIMES:
        with guarded():
            asyncio.run(RUNTIMES[name]())


if __name__ == "__main__":
    main(sys.argv[1:])
