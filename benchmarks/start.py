"""From `up` accepted to all running, beside the same containers started by aiodocker alone: one JSON line per case.

Both sides take turns within one run, so that a slow moment of the machine meets both; medians are told.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from typing import TypeAlias

import msgspec

from benchmarks.guard import guarded
from benchmarks.raw_engine import RawEngine, raw_engine
from benchmarks.stage import NAMESPACE, Scene, image, median_ms, missing, one_node, report, say, watched
from client.client import Client
from common.model.job import Container, JobSpec, Port, TaskSpec
from common.model.resources import Resources

MIB = 1024 * 1024
JOB = "start"

Round: TypeAlias = tuple[float, float]
"""Seconds: ours, the raw engine's."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    store: str
    replicas: int
    ports: int = 0
    """Of each container, unpublished to the outside: the engine chooses the host's port."""
    rounds: int


CASES = (
    Case(store="sqlite", replicas=1, rounds=21),
    Case(store="sqlite", replicas=1, ports=1, rounds=11),
    Case(store="sqlite", replicas=50, rounds=5),
    Case(store="etcd", replicas=1, rounds=11),
    Case(store="etcd", replicas=50, rounds=5),
)


def spec(tag: str, case: Case) -> JobSpec:
    container = Container(image=tag, command=("sleep", "86400"), stop_signal="SIGKILL")
    ports = tuple(Port(container_port=8000 + number) for number in range(case.ports))
    task = TaskSpec(container=container, ports=ports, limits=Resources(cpu_millis=500, memory_bytes=64 * MIB))
    return JobSpec(namespace=NAMESPACE, name=JOB, replicas=case.replicas, task=task)


async def podium_s(client: Client, scene: Scene, job: JobSpec) -> float:
    await client.apply(NAMESPACE, [job])
    accepted_s = asyncio.get_running_loop().time()
    took_s = await scene.until_running(JOB, job.replicas) - accepted_s
    await client.remove(NAMESPACE, [JOB])
    await scene.until_gone(JOB)
    return took_s


async def raw_s(raw: RawEngine, job: JobSpec) -> float:
    took_s = await raw.start_all(job)
    await raw.remove_all()
    return took_s


async def compare(client: Client, scene: Scene, raw: RawEngine, job: JobSpec, rounds: int) -> list[Round]:
    """`rounds` of both sides in turn, after one that only warms both up."""
    found = []
    for number in range(rounds + 1):
        if number % 2:
            ours = await podium_s(client, scene, job)
            peers = await raw_s(raw, job)
        else:
            peers = await raw_s(raw, job)
            ours = await podium_s(client, scene, job)
        say(f"{job.replicas} replicas, round {number}: podium {ours:.3f} s, raw engine {peers:.3f} s")
        found.append((ours, peers))
    return found[1:]


async def run(cases: tuple[Case, ...]) -> None:
    with image() as tag:
        for store in dict.fromkeys(case.store for case in cases):
            if missing("docker", *(["etcd"] if store == "etcd" else [])):
                continue
            async with one_node(store, "docker") as made, watched(made.client) as scene, raw_engine() as raw:
                for case in cases:
                    if case.store == store:
                        tell(case, await compare(made.client, scene, raw, spec(tag, case), case.rounds))


def tell(case: Case, rounds: list[Round]) -> None:
    """Ratio and difference are medians over rounds, not of medians: a slow minute of the machine meets both sides."""
    report(
        "start",
        **msgspec.structs.asdict(case),
        podium_s=round(statistics.median(ours for ours, _ in rounds), 4),
        raw_engine_s=round(statistics.median(peer for _, peer in rounds), 4),
        ratio=round(statistics.median(ours / peer for ours, peer in rounds), 3),
        difference_ms=median_ms(ours - peer for ours, peer in rounds),
    )


def main(arguments: list[str]) -> None:
    """`python -m benchmarks.start [STORE REPLICAS ROUNDS]`; without arguments the cases of docs/benchmarks.md."""
    if arguments:
        store, replicas, rounds = arguments
        cases: tuple[Case, ...] = (Case(store=store, replicas=int(replicas), rounds=int(rounds)),)
    else:
        cases = CASES
    with guarded():
        asyncio.run(run(cases))


if __name__ == "__main__":
    main(sys.argv[1:])
