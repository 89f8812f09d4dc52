"""Decisions per second of the scheduler alone, in memory: one JSON line per case.

`python -m benchmarks.place [NODES TASKS]...`; without arguments the cases of docs/benchmarks.md.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections.abc import Callable

from common.model.job import Constraint, ConstraintOperator, Container, JobSpec, Placement, TaskSpec
from common.model.node import Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.schedule import schedule
from controller.scheduler.values import Request

CASES = ((1_000, 10_000), (1_000, 100_000), (5_000, 10_000), (5_000, 100_000), (100_000, 100_000))
REPETITIONS = 3
"""The best is reported: the others are disturbed by the machine, not by the scheduler."""
MIB = 1024 * 1024
_ZONE = "node.labels.zone"


def cluster(nodes: int) -> NodeTable:
    """Empty nodes of 64 cores and 256 GiB in 3 zones and 40 racks."""

    def entry(number: int) -> tuple[Node, NodeCondition]:
        description = NodeDescription(
            id=f"node-{number:06d}",
            name=f"n{number}",
            address="",
            labels={"zone": f"z{number % 3}", "rack": f"r{number % 40}"},
            capacity=Resources(cpu_millis=64_000, memory_bytes=256 * 1024 * MIB),
            runtimes=(RuntimeStatus(name="docker"),),
        )
        node = Node(id=description.id, description=description)
        return node, NodeCondition(node_id=node.id, status=NodeStatus.READY)

    return build_table(entry(number) for number in range(nodes))


def spec(name: str, rng: random.Random, placement: Placement) -> JobSpec:
    need = Resources(cpu_millis=rng.randrange(100, 1_000, 50), memory_bytes=rng.randrange(64, 1_024, 32) * MIB)
    return JobSpec(
        namespace="bench",
        name=name,
        task=TaskSpec(container=Container(image="app:1"), reservations=need, placement=placement),
    )


def batch(tasks: int, rng: random.Random, placement: Placement) -> list[Request]:
    ids = tuple(f"t{number}" for number in range(tasks))
    return [Request(job_id="job", task_ids=ids, spec=spec("job", rng, placement))]


def singles(tasks: int, rng: random.Random, placement: Placement) -> list[Request]:
    return [
        Request(job_id=f"job{number}", task_ids=(f"t{number}",), spec=spec(f"job{number}", rng, placement))
        for number in range(tasks)
    ]


def constrained() -> Placement:
    return Placement(constraints=(Constraint(attribute=_ZONE, operator=ConstraintOperator.EQUAL, value="z1"),))


KINDS: dict[str, tuple[Callable[[int, random.Random, Placement], list[Request]], Placement]] = {
    "identical": (batch, Placement()),
    "different": (singles, Placement()),
    "constraint": (singles, constrained()),
    "spread": (batch, Placement(spread=(_ZONE, "node.labels.rack"))),
}


def measure(nodes: int, tasks: int, kind: str) -> tuple[float, float]:
    """Decisions per second, and per second of processor time, each of its best repetition."""
    make, placement = KINDS[kind]
    fresh, requests = cluster(nodes), make(tasks, random.Random(1), placement)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as the controller has it, with what it loaded out of the collector's rounds
    best_s = best_cpu_s = float("inf")
    for _ in range(REPETITIONS):
        table = fresh.copy()
        gc.collect()
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        plan = schedule(table, requests, random.Random(2))
        best_s = min(best_s, time.perf_counter() - started_s)
        best_cpu_s = min(best_cpu_s, time.process_time() - started_cpu_s)
        assert len(plan.placements) + sum(len(left.task_ids) for left in plan.unplaced) == tasks
    return tasks / best_s, tasks / best_cpu_s


def main(arguments: list[str]) -> None:
    numbers = [int(argument) for argument in arguments]
    cases = tuple(zip(numbers[::2], numbers[1::2], strict=True)) or CASES
    for nodes, tasks in cases:
        for kind in KINDS:
            line = {"bench": "place", "nodes": nodes, "tasks": tasks, "kind": kind}
            per_second, per_cpu_second = measure(nodes, tasks, kind)
            figures = {"per_second": round(per_second), "per_cpu_second": round(per_cpu_second)}
            print(json.dumps({**line, **figures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
