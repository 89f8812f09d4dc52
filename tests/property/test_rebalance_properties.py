"""Rebalancing only ever makes a cluster more even, comes to an end, and moves no more than it has to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.job import TaskSpec
from common.model.node import Availability, Node, NodeStatus
from controller.scheduler.filters import feasible
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.rebalance import LEAST_GAIN, Movable, Move, rebalance
from controller.scheduler.values import Request
from tests.builders import condition, job_spec, node, task_spec

Placed = list[tuple[str, Movable]]
WILLS = [*[Availability.ACTIVE] * 4, *Availability]
NAMES = ("n0", "n1", "n2", "n3")

nodes = st.lists(
    st.tuples(
        st.integers(2, 8), st.sampled_from(["a", "b"]), st.sampled_from([*[Availability.ACTIVE] * 4, *Availability])
    ),
    min_size=1,
    max_size=4,
).map(
    lambda found: [
        node(NAMES[place], cpu=cores, labels={"rack": rack}, availability=availability)
        for place, (cores, rack, availability) in enumerate(found)
    ]
)
specs = st.builds(
    lambda halves, spread, most, rack: task_spec(
        cpu=halves / 2,
        spread=["node.labels.rack"] if spread else [],
        max_per_node=most,
        constraints=[f"node.labels.rack == {rack}"] if rack else [],
    ),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([0, 0, 2]),
    st.sampled_from(["", "", "", "a"]),
)


class Cluster:
    """Nodes, and tasks where they happen to be."""

    def __init__(self, entries: Sequence[Node], jobs: Sequence[tuple[TaskSpec, Sequence[int]]]) -> None:
        self.entries = list(entries)
        self.tasks: dict[str, tuple[str, TaskSpec, str]] = {}
        for number, (spec, places) in enumerate(jobs):
            for slot, place in enumerate(places):
                self.tasks[f"j{number}-{slot}"] = (self.entries[place % len(self.entries)].id, spec, f"j{number}")
        self._specs = {number: job_spec(f"shop/j{number}", task=spec) for number, (spec, _) in enumerate(jobs)}

    def table(self) -> NodeTable:
        table = build_table((entry, condition(entry, NodeStatus.READY)) for entry in self.entries)
        for node_id, spec, job_id in self.tasks.values():
            table.add_task(node_id, spec, job_id)
        return table

    def movables(self) -> Iterator[Movable]:
        active = {entry.id for entry in self.entries if entry.availability is Availability.ACTIVE}
        for task_id, (node_id, _, job_id) in self.tasks.items():
            if node_id in active:
                request = Request(job_id=job_id, task_ids=(task_id,), spec=self._specs[int(job_id[1:])])
                yield Movable(request=request, node_id=node_id)

    def rebalance(self) -> tuple[Move, ...]:
        return rebalance(self.table(), self.movables(), 1_000)

    def carry_out(self, moves: Sequence[Move]) -> None:
        for move in moves:
            _, spec, job_id = self.tasks[move.movable.task_id]
            self.tasks[move.movable.task_id] = (move.to_id, spec, job_id)

    def unevenness(self) -> tuple[float, ...]:
        """What a move lowers, the most important first: replicas crowded in racks, on nodes, then nodes' shares."""
        racks = {entry.id: entry.description.labels.get("rack", "") for entry in self.entries}
        stays = {entry.id for entry in self.entries if entry.availability is not Availability.DRAINING}
        in_racks = Counter(
            (job_id, racks[node_id])
            for node_id, spec, job_id in self.tasks.values()
            if spec.placement.spread and node_id in stays
        )
        on_nodes = Counter((job_id, node_id) for node_id, _, job_id in self.tasks.values())
        table = self.table()
        loads = sorted((round(float(share), 6) for share in table.share.max(axis=0)[table.known]), reverse=True)
        tasks = sorted(table.tasks[table.known].tolist(), reverse=True)
        return (_squares(in_racks), _squares(on_nodes), *loads, *tasks)


def _squares(counts: Counter[tuple[str, str]]) -> float:
    return float(sum(count * count for count in counts.values()))


clusters = st.builds(Cluster, nodes, st.lists(st.tuples(specs, st.lists(st.integers(0, 3), max_size=6)), max_size=4))


@settings(max_examples=150, deadline=None)
@given(clusters)
def test_every_round_makes_it_more_even_and_there_is_a_last_one(cluster: Cluster) -> None:
    for _ in range(10):
        before = cluster.unevenness()
        moves = cluster.rebalance()
        if not moves:
            return
        cluster.carry_out(moves)
        assert cluster.unevenness() < before
    raise AssertionError("it goes on and on")


@settings(max_examples=150, deadline=None)
@given(clusters)
def test_every_move_has_room_beside_all_that_runs(cluster: Cluster) -> None:
    surge = cluster.table()
    for move in cluster.rebalance():
        request = move.movable.request
        row = surge.row_of(move.to_id)
        assert row is not None
        assert feasible(surge, request)[row]
        assert move.to_id != move.movable.node_id
        surge.add_task(move.to_id, request.spec.task, request.job_id)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 3), st.lists(st.integers(0, 2), min_size=1, max_size=5), st.booleans())
def test_no_fewer_moves_do_for_replicas_of_one_job(count: int, places: list[int], one_job: bool) -> None:
    """All ways to put so few tasks anywhere are tried: none that is as even needs fewer moves."""
    entries = [node(name, cpu=8) for name in NAMES[:count]]
    jobs = [(task_spec(), places)] if one_job else [(task_spec(cpu=1), [one]) for one in places]
    cluster = Cluster(entries, jobs)
    before = dict(cluster.tasks)
    moves = cluster.rebalance()
    cluster.carry_out(moves)
    reached = cluster.unevenness()
    ids = [entry.id for entry in entries]
    for choice in product(ids, repeat=len(before)):
        cluster.tasks = {
            task_id: (place, spec, job_id)
            for place, (task_id, (_, spec, job_id)) in zip(choice, before.items(), strict=True)
        }
        if cluster.unevenness() <= reached:
            assert sum(cluster.tasks[id_][0] != before[id_][0] for id_ in before) >= len(moves)


def test_an_empty_node_gets_its_share_and_no_more() -> None:
    cluster = Cluster([node(name, cpu=8) for name in NAMES], [(task_spec(cpu=1), [0, 0, 1, 1, 2, 2, 0, 1, 2, 0, 1, 2])])
    moves = cluster.rebalance()
    assert [move.to_id for move in moves] == ["id-n3"] * 3
    assert Counter(move.movable.node_id for move in moves) == {"id-n0": 1, "id-n1": 1, "id-n2": 1}
    assert moves[0].text == "4 tasks of shop/j0 on one node become 3, 0 elsewhere become 1"


def test_different_jobs_share_nodes_by_what_they_reserve() -> None:
    cluster = Cluster([node("n0", cpu=8), node("n1", cpu=8)], [(task_spec(cpu=2), [0]), (task_spec(cpu=2), [0])])
    (move,) = cluster.rebalance()
    assert (move.movable.node_id, move.to_id) == ("id-n0", "id-n1")
    assert move.text == "node n0 has 50% reserved, node n1 would have 25%"


def test_a_little_unevenness_is_not_worth_a_move() -> None:
    small = LEAST_GAIN * 8 * 0.45
    cluster = Cluster(
        [node("n0", cpu=8), node("n1", cpu=8)], [(task_spec(cpu=small), [0]), (task_spec(cpu=small), [0])]
    )
    assert cluster.rebalance() == ()


def test_the_less_important_task_is_moved() -> None:
    cluster = Cluster([node("n0", cpu=8), node("n1", cpu=8)], [(task_spec(cpu=2), [0]), (task_spec(cpu=2), [0])])
    ranked = [
        msgspec.structs.replace(movable, priority=priority)
        for movable, priority in zip(cluster.movables(), (80, 20), strict=True)
    ]
    (move,) = rebalance(cluster.table(), ranked, 10)
    assert move.movable.priority == 20


def test_no_more_than_asked_for() -> None:
    cluster = Cluster([node(name, cpu=8) for name in NAMES], [(task_spec(), [0] * 8)])
    assert len(rebalance(cluster.table(), cluster.movables(), 2)) == 2


def test_a_node_where_the_slot_failed_is_no_better_place() -> None:
    cluster = Cluster([node("n0"), node("n1")], [(task_spec(), [0, 0])])
    wary = [
        msgspec.structs.replace(one, request=msgspec.structs.replace(one.request, avoid=("id-n1",)))
        for one in cluster.movables()
    ]
    assert rebalance(cluster.table(), wary, 10) == ()
