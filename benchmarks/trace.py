"""How full the production scheduler packs a real cluster's GPUs, by the protocol of the published comparison.

`python -m benchmarks.trace FOLDER [--workloads a,b] [--seeds 10] [--policies ...]`; the folder holds
`openb_node_list_gpu_node.csv`, `openb_pod_list_NAME.csv` and, for the peers, `published_at_130.csv`. Tasks are drawn
with replacement until their GPU requests total 130 % of the cluster's, shuffled, and arrive one by one; none leaves,
and what fits nowhere is skipped. One JSON line per workload and policy: what share of the GPUs is allocated in the end.
(Protocol and published figures: Weng et al., "Beware of Fragmentation", USENIX ATC 2023.)
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.stage import report, say
from common.model.device import WHOLE_MILLIS, Device, DeviceRequest
from common.model.job import Container, JobSpec, Strategy, TaskSpec
from common.model.node import Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from controller.scheduler.gradient import Gradient
from controller.scheduler.node_table import build_table
from controller.scheduler.schedule import choose
from controller.scheduler.values import Request

MIB = 1024 * 1024
OVERLOAD = 1.3
POLICIES = {"podium": True, "podium-spread": False, "podium-binpack": False}
"""Whether devices are placed by the gradient of their use (the default), or as if nothing were known of other tasks."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workloads", default="", help="names, separated by commas; default: all in the folder")
    parser.add_argument("--policies", default="podium", help=f"of {', '.join(POLICIES)}")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    found = sorted(path.stem.removeprefix("openb_pod_list_") for path in given.folder.glob("openb_pod_list_*.csv"))
    names = given.workloads.split(",") if given.workloads else found
    unknown = [name for name in names if name not in found]
    if unknown or not found:
        parser.error(f"{given.folder} has no workload {', '.join(unknown) or 'at all'}; there are {', '.join(found)}")
    nodes = tuple(read_nodes(given.folder / "openb_node_list_gpu_node.csv"))
    published = read_published(given.folder / "published_at_130.csv")
    for name in names:
        specs = read_specs(given.folder / f"openb_pod_list_{name}.csv")
        for policy in given.policies.split(","):
            measure(name, policy, nodes, specs, given.seeds, published.get(name, {}))
    return 0


def measure(
    workload: str,
    policy: str,
    nodes: Sequence[Node],
    specs: Sequence[TaskSpec],
    seeds: int,
    published: dict[str, float],
) -> None:
    shares: list[float] = []
    seconds: list[float] = []
    for seed in range(seeds):
        begun_s = time.perf_counter()
        shares.append(allocated_pct(policy, nodes, specs, seed))
        seconds.append(time.perf_counter() - begun_s)
        say(f"{workload} {policy} seed {seed}: {shares[-1]:.3f} % in {seconds[-1]:.1f} s")
    best = max(published, key=lambda name: published[name], default="")
    report(
        "trace",
        workload=workload,
        policy=policy,
        gpu_allocated_pct_mean=round(statistics.mean(shares), 3),
        gpu_allocated_pct_sd=round(statistics.pstdev(shares), 3),
        seeds=seeds,
        seconds_per_run=round(statistics.mean(seconds), 1),
        peer=best,
        peer_gpu_allocated_pct_mean=published.get(best),
    )


def allocated_pct(policy: str, nodes: Sequence[Node], specs: Sequence[TaskSpec], seed: int) -> float:
    """One run: GPUs allocated after the last arrival, in percent."""
    total = sum(len(node.description.devices) for node in nodes) * WHOLE_MILLIS
    table = build_table((node, NodeCondition(node_id=node.id, status=NodeStatus.READY)) for node in nodes)
    table.strategy = Strategy.SPREAD if policy == "podium-spread" else Strategy.BINPACK
    gradient, learn_at, allocated = Gradient(table), 1, 0  # in production every pass learns
    rng = random.Random(seed)
    for number, spec in enumerate(arrivals(specs, total, rng), 1):
        if POLICIES[policy]:
            table.demand.add(spec)
            if number >= learn_at:
                gradient, learn_at = Gradient(table), 2 * number
        job = JobSpec(namespace="trace", name=f"t{number}", task=spec)
        request = Request(job_id=f"t{number}", task_ids=(f"t{number}",), spec=job)
        if len(choose(table, request, rng.getrandbits(64), gradient).rows):
            allocated += _gpu_millis(spec)
    return 100 * allocated / total


def arrivals(specs: Sequence[TaskSpec], total_millis: int, rng: random.Random) -> list[TaskSpec]:
    drawn: list[TaskSpec] = []
    asked = 0
    while asked < OVERLOAD * total_millis:
        drawn.append(rng.choice(specs))
        asked += _gpu_millis(drawn[-1])
    rng.shuffle(drawn)
    return drawn


def _gpu_millis(spec: TaskSpec) -> int:
    return sum(part.total_millis for part in spec.devices)


def read_nodes(path: Path) -> Iterator[Node]:
    for line in _lines(path):
        gpus = tuple(Device(kind="gpu", id=str(unit), model=line["model"]) for unit in range(int(line["gpu"])))
        description = NodeDescription(
            id=line["sn"],
            name=line["sn"],
            address="",
            capacity=Resources(cpu_millis=int(line["cpu_milli"]), memory_bytes=int(line["memory_mib"]) * MIB),
            runtimes=(RuntimeStatus(name="fake"),),
            devices=gpus,
        )
        yield Node(id=description.id, description=description)


def read_specs(path: Path) -> list[TaskSpec]:
    return [_spec(line) for line in _lines(path)]


def _spec(line: dict[str, str]) -> TaskSpec:
    count, share = int(line["num_gpu"]), int(line["gpu_milli"])
    models = tuple(sorted(filter(None, line.get("gpu_spec", "").split("|"))))
    gpu = DeviceRequest(kind="gpu", count=count, share_millis=share if count == 1 else WHOLE_MILLIS, models=models)
    return TaskSpec(
        container=Container(image="trace:1"),
        reservations=Resources(cpu_millis=int(line["cpu_milli"]), memory_bytes=int(line["memory_mib"]) * MIB),
        devices=(gpu,) if count else (),
    )


def read_published(path: Path) -> dict[str, dict[str, float]]:
    """Percent allocated by workload and policy; empty where there is no such file."""
    found: dict[str, dict[str, float]] = {}
    for line in _lines(path) if path.exists() else ():
        found.setdefault(line["workload"], {})[line["policy"]] = float(line["gpu_allocated_pct_mean"])
    return found


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


if __name__ == "__main__":
    sys.exit(main())
