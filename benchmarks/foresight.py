"""What a look ahead takes at size, in memory: plans, what-if and rebalancing on a settled cluster; one JSON line each.

`python -m benchmarks.foresight [NODES TASKS]...`. Beside the whole time the longest piece of it: so long does
everything else on a leader wait for its turn.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import msgspec

from benchmarks.crowd import spec
from benchmarks.place import cluster
from benchmarks.stage import report, say
from common.model.api import ApplyRequest, Plan, WhatIfRequest
from common.model.node import NodeCondition
from controller.core.apply import apply_specs
from controller.core.attention import Attention
from controller.core.balance import plan_rebalance
from controller.core.imagine import Imagination
from controller.core.plan import TablePlacer, plan, plan_drain
from controller.core.reconcile import reconcile
from controller.core.turns import Turns
from controller.core.what_if import what_if
from controller.scheduler.node_table import NodeTable
from controller.state import State, Write

SIZES = ((1_000, 20_000), (5_000, 100_000))
TASKS_PER_JOB = 1_000
NOW_S = 2_000.0


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster in which everything runs and was looked at, as a leader has it."""

    state: State
    table: NodeTable
    conditions: dict[str, NodeCondition]
    attention: Attention


def settled(nodes: int, tasks: int) -> Settled:
    rng = random.Random(1)
    table, state = cluster(nodes), State()
    conditions = {node.id: condition for node, condition in table.nodes()}
    for node, _ in table.nodes():
        state.apply(Write(node))
    specs = tuple(spec("bench", f"job{number}", TASKS_PER_JOB) for number in range(tasks // TASKS_PER_JOB))
    placer = TablePlacer(table)
    imagined = Imagination(state, conditions, 0.0, rng, placer)
    imagined.take(apply_specs(state, ApplyRequest(namespace="bench", specs=specs), 0.0, rng).groups)
    imagined.run(list(imagined.state.jobs))
    attention = Attention()
    for job in imagined.state.jobs.values():
        attention.saw(job.id, reconcile(imagined.state, job, conditions, NOW_S, rng).seen)
    return Settled(state=imagined.state, table=placer.table, conditions=conditions, attention=attention)


def looks(there: Settled) -> dict[str, Callable[[], Turns[Plan]]]:
    """Each of them as an engineer would ask for it."""
    state, conditions, table, attention = there.state, there.conditions, there.table, there.attention
    apply = ApplyRequest(namespace="bench", specs=(spec("bench", "one", 100),))
    node = min(state.nodes.values(), key=lambda node: node.id)
    rng = random.Random(2)
    return {
        "plan of 100 tasks": lambda: plan(state, conditions, table, apply, NOW_S, rng, attention),
        "plan of a drain": lambda: plan_drain(state, conditions, table, [node], NOW_S, rng, attention),
        "what-if a node is killed": lambda: what_if(
            state, conditions, table, WhatIfRequest(kill=(node.name,)), [node], NOW_S, rng, attention
        ),
        "plan of a rebalancing": lambda: plan_rebalance(
            state, conditions, table, NOW_S, rng, limit=0, held="", attention=attention
        ),
    }


def timed(work: Turns[Plan]) -> tuple[float, float]:
    """The whole time, and that of the longest piece, in seconds."""
    longest_s, whole_s = 0.0, 0.0
    while True:
        begun_s = time.perf_counter()
        over = next(work, _OVER) is _OVER
        piece_s = time.perf_counter() - begun_s
        longest_s, whole_s = max(longest_s, piece_s), whole_s + piece_s
        if over:
            return whole_s, longest_s


_OVER = object()


def main(arguments: list[str]) -> None:
    numbers = [int(argument) for argument in arguments]
    for nodes, tasks in tuple(zip(numbers[::2], numbers[1::2], strict=True)) or SIZES:
        there = settled(nodes, tasks)
        say(f"{nodes} nodes, {tasks} tasks: settled")
        for what, work in looks(there).items():
            whole_s, longest_s = min(timed(work()) for _ in range(3))
            report(
                "foresight",
                nodes=nodes,
                tasks=tasks,
                what=what,
                whole_ms=round(whole_s * 1e3),
                longest_piece_ms=round(longest_s * 1e3),
            )


if __name__ == "__main__":
    main(sys.argv[1:])
