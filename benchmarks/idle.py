"""What an idle node and an idle controller cost: resident memory and CPU of each process, with 0 and with 20 tasks.

Idle: nothing is asked of the cluster, and the tasks sleep. Resident memory counts shared pages whole (RSS), as `ps`
and `top` do; the proportional share (PSS) is told beside it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import psutil

from agent.network.feed import PID
from benchmarks.guard import guarded
from benchmarks.stage import NAMESPACE, NODE, image, missing, one_node, report, say, watched
from common.model.job import Container, JobSpec, Port, TaskSpec
from tests.cluster.processes import Cluster, free_port

JOB = "idle"
TASKS = (0, 20)
SETTLE_S = 10.0
"""After the last change, before the CPU is measured: rollouts settle, caches are filled, connections idle."""
MEASURE_S = 30.0
MB = 1_000_000


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    rss_mb: float
    pss_mb: float
    cpu_pct: float
    """Of one core."""
    wakeups_per_s: float
    """Voluntary context switches of all its threads: how often it asked for the processor."""
    threads: int


class Gauge:
    """One process, from the beginning of a measurement to its end."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._cpu_s = self._busy_s()
        self._wakeups = self._switches()

    def read(self, elapsed_s: float) -> Cost:
        memory = self._process.memory_full_info()
        return Cost(
            rss_mb=round(memory.rss / MB, 1),
            pss_mb=round(memory.pss / MB, 1),
            cpu_pct=round(100 * (self._busy_s() - self._cpu_s) / elapsed_s, 2),
            wakeups_per_s=round((self._switches() - self._wakeups) / elapsed_s, 1),
            threads=self._process.num_threads(),
        )

    def _switches(self) -> int:
        return sum(psutil.Process(thread.id).num_ctx_switches().voluntary for thread in self._process.threads())

    def _busy_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def job(tag: str, tasks: int) -> JobSpec:
    container = Container(image=tag, command=("sleep", "86400"), stop_signal="SIGKILL")
    ports = (Port(container_port=80, published_port=free_port()),)
    return JobSpec(namespace=NAMESPACE, name=JOB, replicas=tasks, task=TaskSpec(container=container, ports=ports))


def processes(made: Cluster) -> dict[str, int]:
    relay = Path(made.directory, NODE, "relay", PID).read_text()
    return {"controller": made.controller.pid, "agent": made.agents[NODE].pid, "relay": int(relay)}


async def measure(made: Cluster, tag: str, tasks: int) -> None:
    if tasks:
        spec = job(tag, tasks)
        async with watched(made.client) as scene:
            await made.client.apply(NAMESPACE, [spec])
            await scene.until_running(JOB, tasks)
    await asyncio.sleep(SETTLE_S)
    say(f"measuring {MEASURE_S:g} s with {tasks} tasks")
    gauges = {part: Gauge(pid) for part, pid in processes(made).items()}
    await asyncio.sleep(MEASURE_S)
    for part, gauge in gauges.items():
        report("idle", part=part, tasks=tasks, **msgspec.structs.asdict(gauge.read(MEASURE_S)))


async def run() -> None:
    if missing("docker"):
        return
    with image() as tag:
        async with one_node("sqlite", "docker,process") as made:
            for tasks in TASKS:
                await measure(made, tag, tasks)


def main(_arguments: list[str]) -> None:
    """`python -m benchmarks.idle`."""
    with guarded():
        asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1:])
