"""A ladder finds the very row that a look at all of them finds, or says that it cannot tell."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.job import Strategy, TaskSpec
from common.model.node import Node
from common.model.resources import Resources
from controller.scheduler.filters import feasible, standing
from controller.scheduler.gradient import Gradient
from controller.scheduler.ladder import Ladder
from controller.scheduler.ladders import WORTH_BUILDING
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.schedule import schedule
from controller.scheduler.scoring import Ranking
from controller.scheduler.values import Request
from tests.builders import MIB, condition, job_spec, node, task_spec

CAPACITIES = ((2, 4), (4, 4), (4, 16), (0, 4), (3, 7))
"""Cores and mebibytes: in thirds and sevenths too, so that shares are not exact."""
strategies = st.sampled_from([Strategy.SPREAD, Strategy.BINPACK])
clusters = st.lists(st.tuples(st.sampled_from(CAPACITIES), st.sampled_from("xy")), min_size=1, max_size=9)
needs = st.tuples(st.sampled_from([0, 100, 100, 300, 333, 1_000]), st.sampled_from([0, MIB // 3, MIB, 3 * MIB]))
overfull = st.lists(st.integers(0, 8), max_size=2)
"""Nodes that shrank under their tasks."""
happenings = st.lists(st.tuples(needs, st.integers(0, 3), st.integers(0, 2**64 - 1)) | st.integers(0, 40), max_size=40)
"""A task of such a need of one of four jobs with its salt, or the end of one."""


def table_of(cluster: list[tuple[tuple[int, int], str]]) -> NodeTable:
    entries: list[Node] = [
        node(f"n{number}", cpu=cores, memory_bytes=mebibytes * MIB, labels={"zone": zone})
        for number, ((cores, mebibytes), zone) in enumerate(cluster)
    ]
    return build_table((entry, condition(entry)) for entry in entries)


def spec_of(need: tuple[int, int], strategy: Strategy, constraints: tuple[str, ...] = ()) -> TaskSpec:
    cpu, memory_bytes = need
    return task_spec(cpu=cpu / 1000, memory_bytes=memory_bytes, strategy=strategy, constraints=constraints)


def request_of(name: str, task: TaskSpec) -> Request:
    return Request(job_id=name, task_ids=(f"{name}-task",), spec=job_spec(f"shop/{name}", task=task))


def best_of_all(table: NodeTable, request: Request, salt: int) -> int | None:
    """The best row without a task of the job, by a look at all."""
    rows = feasible(table, request).copy()
    rows[list(table.rows_of_job(request.job_id))] = False
    return Ranking(table, request, salt, Gradient(table)).best_row(rows) if rows.any() else None


@settings(max_examples=300, deadline=None)
@given(clusters, strategies, st.sampled_from([(), ("node.labels.zone == x",)]), overfull, happenings)
def test_a_ladder_finds_what_a_look_at_all_rows_finds(
    cluster: list[tuple[tuple[int, int], str]],
    strategy: Strategy,
    constraints: tuple[str, ...],
    shrunk: list[int],
    events: list[tuple[tuple[int, int], int, int] | int],
) -> None:
    table = table_of(cluster)
    first = request_of("j0", spec_of((100, MIB), strategy, constraints))
    for number in shrunk:
        table.add_task(f"id-n{number % len(cluster)}", spec_of((5_000, 20 * MIB), strategy), "before")
    asked = [event[0] for event in events if not isinstance(event, int)] or [(0, 0)]
    least = Resources(cpu_millis=min(cpu for cpu, _ in asked), memory_bytes=min(memory for _, memory in asked))
    ladder = Ladder(table, standing(table, first), strategy, least)
    placed: list[tuple[int, Request]] = []
    for event in events:
        if isinstance(event, int):
            if placed:
                row, request = placed.pop(event % len(placed))
                table.remove_task(table.node_id(row), request.spec.task, request.job_id)
                ladder.changed(row)
            continue
        need, job, salt = event
        request = request_of(f"j{job}", spec_of(need, strategy, constraints))
        others = table.rows_of_job(request.job_id)
        found = ladder.best_row(request.spec.task.reservations, salt, others)
        assert found == best_of_all(table, request, salt)
        if found is not None:
            table.add_task_at(found, request.spec.task, request.job_id)
            ladder.changed(found)
            placed.append((found, request))


def test_a_ladder_that_would_have_to_look_at_too_many_rows_says_so() -> None:
    """Each row is best by one of its shares and bad by the other, so nothing bounds the rest."""
    table = table_of([((4, 4), "x")] * 200)
    for number in range(200):
        need = (10 * number, (199 - number) * MIB // 100)
        table.add_task(f"id-n{number}", spec_of(need, Strategy.SPREAD), "before")
    request = request_of("j", spec_of((100, MIB // 10), Strategy.SPREAD))
    ladder = Ladder(table, standing(table, request), Strategy.SPREAD, Resources())
    assert ladder.best_row(request.spec.task.reservations, 1) is None
    assert best_of_all(table, request, 1) is not None


def test_too_many_kinds_of_nodes_are_left_to_a_look_at_all() -> None:
    table = table_of([((4, number), "x") for number in range(1, 30)])
    request = request_of("j", spec_of((100, MIB // 10), Strategy.SPREAD))
    assert Ladder(table, standing(table, request), Strategy.SPREAD, Resources()).best_row(Resources(), 1) is None


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32), strategies)
def test_a_pass_of_many_requests_is_what_its_requests_are_one_by_one(seed: int, strategy: Strategy) -> None:
    """With jobs that come twice, rules about nodes, batches between, and more than there is room for."""
    rng = random.Random(seed)
    table = table_of([(rng.choice(CAPACITIES), rng.choice("xy")) for _ in range(60)])
    asked: list[Request] = []
    for number in range(3 * WORTH_BUILDING):
        rules = rng.choice([(), (), ("node.labels.zone == x",)])
        task = spec_of((rng.randrange(100, 900, 100), rng.randrange(1, 6) * MIB // 8), strategy, rules)
        name = f"j{rng.randrange(number + 1)}"
        ids = tuple(f"{number}-{one}" for one in range(rng.choice([1, 1, 1, 1, 3])))
        asked.append(Request(job_id=name, task_ids=ids, spec=job_spec(f"shop/{name}", task=task)))
    alone = table.copy()
    plans = [schedule(alone, [request]) for request in asked]
    plan = schedule(table, asked)
    assert plan.placements == tuple(placement for each in plans for placement in each.placements)
    assert plan.unplaced == tuple(unplaced for each in plans for unplaced in each.unplaced)
    assert np.array_equal(table.reserved, alone.reserved)
