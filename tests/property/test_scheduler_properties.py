"""What must hold of every plan, whatever the cluster: checked against a plain reading of the rules, node by node.

`Bench` is that reading: dictionaries and loops, no columns, no water-filling.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.model.job import Affinity, Constraint, ConstraintOperator, Port, Strategy, TaskSpec
from common.model.node import Availability, Node, NodeCondition, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from controller.scheduler.explain import explain_unplaced
from controller.scheduler.filters import feasible, refusals, room
from controller.scheduler.fixes import verified_fixes
from controller.scheduler.gradient import Gradient
from controller.scheduler.neighbours import about_itself
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.rebalance import Movable
from controller.scheduler.relief import MOVES_LIMIT, relief
from controller.scheduler.schedule import schedule
from controller.scheduler.scoring import Ranking
from controller.scheduler.values import Placement, Request
from tests.builders import MIB, condition, constraint, job_spec, node, task_spec

NAMES = [f"n{number}" for number in range(6)]
ZONE, RACK, SIZE, KERNEL = "node.labels.zone", "node.labels.rack", "node.labels.size", "node.attributes.kernel"
SIZES, KERNELS = ["9", "9.25", "10", "large"], ["5.9", "5.9.1-amd64", "5.10.0-28", "6.1"]
MEETING = {
    (SIZE, ConstraintOperator.AT_LEAST, "9"): ["9", "9.25", "10"],
    (SIZE, ConstraintOperator.LESS, "9.5"): ["9", "9.25"],
    (KERNEL, ConstraintOperator.MORE, "5.9"): ["5.9.1-amd64", "5.10", "5.10.0-28", "6.1"],
    (KERNEL, ConstraintOperator.AT_MOST, "5.10"): ["5.9", "5.9.1-amd64", "5.10", "5.10.0-28"],
}
"""Which of them meet an ordering, looked up."""
JOBS = ["a", "b"]


size_labels = st.sampled_from([{}, *({"size": size} for size in SIZES)])
kernels = st.sampled_from([{}, *({"kernel": kernel} for kernel in KERNELS)])


@st.composite
def nodes(draw: st.DrawFn, name: str) -> tuple[Node, NodeCondition]:
    labels = draw(st.dictionaries(st.sampled_from(["zone", "rack"]), st.sampled_from(["x", "y", "z"])))
    labels |= draw(size_labels)
    described = node(
        name,
        cpu=draw(st.integers(0, 8)) / 2,
        memory_bytes=draw(st.integers(0, 8)) * MIB,
        labels=labels,
        attributes=draw(kernels),
        availability=draw(st.sampled_from([Availability.ACTIVE, Availability.ACTIVE, *Availability])),
        runtimes=draw(st.sampled_from([("docker", "process"), ("docker",), ("fake",), ("process",)])),
    )
    away = draw(st.sampled_from([(), (), (RuntimeStatus(name="docker", ready=False),)]))
    status = draw(st.sampled_from([NodeStatus.READY, NodeStatus.READY, NodeStatus.READY, *NodeStatus]))
    return described, condition(described, status, runtimes=away)


clusters = st.integers(1, 6).flatmap(lambda count: st.tuples(*(nodes(name) for name in NAMES[:count])))


@st.composite
def roomy_nodes(draw: st.DrawFn, name: str) -> tuple[Node, NodeCondition]:
    """Nodes on which only preferences decide, but for a full one now and then."""
    labels = {"zone": draw(st.sampled_from("xy")), "rack": draw(st.sampled_from("xy"))}
    described = node(name, cpu=draw(st.sampled_from([1, 40, 40])), labels=labels)
    return described, condition(described)


roomy_clusters = st.integers(3, 6).flatmap(lambda count: st.tuples(*(roomy_nodes(name) for name in NAMES[:count])))
plain_specs = st.builds(
    task_spec, cpu=st.sampled_from([0, 1]), spread=st.sampled_from([(ZONE, RACK), (RACK, ZONE), (ZONE,), ()])
)
plain_tasks = st.lists(st.tuples(st.sampled_from(NAMES), plain_specs, st.just("a")), min_size=3, max_size=8)


goings = st.sampled_from([(), (), (("id-n0", 1),), (("id-gone", 1), ("id-n0", 2), ("id-n1", 1))])
"""More may be said to leave than there is: the table and the state are read at the same moment, but by two."""


@st.composite
def plain_requests(draw: st.DrawFn) -> Request:
    task_ids = tuple(f"0-{task}" for task in range(draw(st.integers(1, 12))))
    spec = job_spec("shop/a", task=draw(plain_specs))
    return Request(job_id="a", task_ids=task_ids, spec=spec, leaving=draw(goings))


constraints = st.sampled_from(
    [
        f"{ZONE} == x",
        f"{ZONE} != x",
        f"{RACK} in (y, z)",
        f"{RACK} not in (x, z)",
        "node.name == n1",
        "node.id != id-n0",
        f"{SIZE} >= 9",
        f"{SIZE} < 9.5",
        f"{KERNEL} > 5.9",
        f"{KERNEL} <= 5.10",
    ]
)
affinities = st.builds(
    lambda job, within, apart, required, weight: Affinity(
        job=job, within=within, apart=apart, required=required, weight=weight
    ),
    st.sampled_from(["shop/a", "shop/b"]),
    st.sampled_from(["", "", ZONE]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([10, 50]),
) | st.builds(
    lambda rule, apart: Affinity(constraint=constraint(rule), apart=apart, weight=30),
    st.sampled_from([f"{ZONE} == x", f"{RACK} in (y, z)"]),
    st.booleans(),
)
task_specs = st.builds(
    task_spec,
    image=st.sampled_from(["app:1", "app:1", ""]),
    cpu=st.integers(0, 4).map(lambda halves: halves / 2),
    memory_bytes=st.integers(0, 4).map(lambda mebibytes: mebibytes * MIB),
    constraints=st.one_of(st.just(()), st.lists(constraints, max_size=2)),
    spread=st.sampled_from([(), (ZONE,), (ZONE, RACK), (RACK, ZONE)]),
    max_per_node=st.sampled_from([0, 0, 1, 2]),
    strategy=st.sampled_from(Strategy),
    host_ports=st.sampled_from([(), (), (), (80,), (81,), (80, 81)]),
    affinities=st.one_of(st.just(()), st.just(()), st.lists(affinities, max_size=2)),
)


@st.composite
def requests(draw: st.DrawFn, number: int = 0, limit: int = 12) -> Request:
    job = draw(st.sampled_from(JOBS))
    return Request(
        job_id=job,
        task_ids=tuple(f"{number}-{task}" for task in range(draw(st.integers(1, limit)))),
        spec=job_spec(f"shop/{job}", task=draw(task_specs)),
        avoid=draw(st.sampled_from([(), (), ("id-n0",), ("id-n1", "id-n2"), ("id-gone",)])),
        leaving=draw(goings),
    )


held_tasks = st.lists(st.tuples(st.sampled_from(NAMES), task_specs, st.sampled_from(JOBS)), max_size=12)
seeds = st.integers(0, 2**32)
anything = st.one_of(
    st.tuples(clusters, held_tasks, requests()), st.tuples(roomy_clusters, plain_tasks, plain_requests())
)
"""A cluster, what runs on it, and what is asked for."""


class Bench:
    """The rules, read plainly."""

    def __init__(self, cluster: Iterable[tuple[Node, NodeCondition]]) -> None:
        self.nodes = {entry.id: entry for entry, _ in cluster}
        self.conditions = {of.node_id: of for _, of in cluster}
        self.reserved = {node_id: Resources() for node_id in self.nodes}
        self.tasks: Counter[tuple[str, str]] = Counter()
        """By job and node."""
        self.leaving: Counter[tuple[str, str]] = Counter()
        """Of those, the ones that go by the rollout that asks: in the way of hard rules, but nothing for evenness."""
        self.ports: set[tuple[str, Port]] = set()
        self.rules: list[tuple[str, str, Affinity]] = []
        """Of the tasks that are there: where, of which job, and what must be."""

    def add(self, node_id: str, spec: TaskSpec, job_id: str) -> None:
        if node_id in self.nodes:
            self.reserved[node_id] += spec.reservations
            self.tasks[job_id, node_id] += 1
            self.ports |= {(node_id, port) for port in spec.ports}
            self.rules += [(node_id, job_id, rule) for rule in spec.placement.affinities if rule.required]

    def meets(self, node_id: str, rule: Constraint) -> bool:
        entry = self.nodes[node_id]
        value = {
            "node.id": entry.id,
            "node.name": entry.name,
            ZONE: entry.description.labels.get("zone"),
            RACK: entry.description.labels.get("rack"),
            SIZE: entry.description.labels.get("size"),
            KERNEL: entry.description.attributes.get("kernel"),
        }[rule.attribute]
        match rule.operator:
            case ConstraintOperator.EQUAL:
                return value == rule.value
            case ConstraintOperator.NOT_EQUAL:
                return value != rule.value
            case ConstraintOperator.IN:
                return value in rule.values
            case ConstraintOperator.NOT_IN:
                return value not in rule.values
            case _:
                return value in MEETING[rule.attribute, rule.operator, rule.value]

    def around(self, node_id: str, other: str, within: str) -> bool:
        """Whether one node is beside another one, as `within` has it."""
        if node_id == other or not within:
            return node_id == other
        label = within.removeprefix("node.labels.")
        here, there = (self.nodes[each].description.labels.get(label) for each in (node_id, other))
        return here is not None and here == there

    def beside(self, node_id: str, rule: Affinity) -> bool:
        held = [other for other in self.nodes if self.tasks[rule.job.removeprefix("shop/"), other]]
        return any(self.around(node_id, other, rule.within) for other in held)

    def agrees(self, node_id: str, request: Request) -> bool:
        """Whether the task would be where it must be beside others, and apart from them and they from it."""
        name = request.spec.full_name
        for rule in request.spec.task.placement.affinities:
            nobody = not any(self.tasks[rule.job.removeprefix("shop/"), other] for other in self.nodes)
            first = not rule.apart and rule.job == name and nobody
            if rule.required and not first and self.beside(node_id, rule) is rule.apart:
                return False
        return not any(
            rule.apart and rule.job == name and job_id != request.job_id and self.around(node_id, other, rule.within)
            for other, job_id, rule in self.rules
        )

    def missed(self, node_id: str, request: Request) -> int:
        """The weight of wishes that would not be fulfilled."""
        wishes = [wish for wish in request.spec.task.placement.affinities if not wish.required]
        return sum(
            wish.weight
            for wish in wishes
            if wish.apart is (self.meets(node_id, wish.constraint) if wish.constraint else self.beside(node_id, wish))
        )

    def takes(self, node_id: str, request: Request) -> bool:
        """Whether the node could take one task of the request now."""
        entry, of, task = self.nodes[node_id], self.conditions[node_id], request.spec.task
        ready = {runtime.name for runtime in of.runtimes if runtime.ready}
        free, need = entry.description.capacity - self.reserved[node_id], task.reservations
        limit = task.placement.max_replicas_per_node
        return (
            of.status is NodeStatus.READY
            and entry.availability is Availability.ACTIVE
            and bool(ready & ({"docker", "fake"} if task.container.image else {"process", "fake"}))
            and all(self.meets(node_id, rule) for rule in task.placement.constraints)
            and (not need.cpu_millis or need.cpu_millis <= free.cpu_millis)
            and (not need.memory_bytes or need.memory_bytes <= free.memory_bytes)
            and not any((node_id, port) in self.ports for port in task.ports)
            and self.agrees(node_id, request)
            and (not limit or self.tasks[request.job_id, node_id] < limit)
        )

    def groups(self, node_id: str, request: Request) -> list[tuple[str | None, ...]]:
        """The nested groups of the spread preferences that a node is in, outermost first."""
        labels = self.nodes[node_id].description.labels
        values = [
            labels.get(attribute.removeprefix("node.labels.")) for attribute in request.spec.task.placement.spread
        ]
        return [tuple(values[: depth + 1]) for depth in range(len(values))]

    def stays(self, node_id: str) -> bool:
        away = self.nodes[node_id].availability is Availability.DRAINING
        return not away and self.conditions[node_id].status is not NodeStatus.DOWN

    def standing(self, node_id: str, request: Request) -> list[int]:
        """Tasks of the job in each group the node is in, and on the node: what evenness is about."""
        counts = [
            sum(
                self.lasting(request.job_id, other)
                for other in self.nodes
                if self.stays(other) and group in self.groups(other, request)
            )
            for group in self.groups(node_id, request)
        ]
        return [*counts, self.lasting(request.job_id, node_id)]

    def lasting(self, job_id: str, node_id: str) -> int:
        return self.tasks[job_id, node_id] - self.leaving[job_id, node_id]

    def leave(self, request: Request) -> None:
        """Take note of what leaves, as far as it is there."""
        for node_id, count in request.leaving:
            self.leaving[request.job_id, node_id] = min(count, self.tasks[request.job_id, node_id])

    def could_be_evener(self, giver: str, taker: str, request: Request) -> bool:
        """Whether moving one task of the request from one node to the other would even out the first difference."""
        missed = self.missed(giver, request), self.missed(taker, request)
        if missed[0] != missed[1]:
            return missed[1] < missed[0]
        together = [
            mine == theirs
            for mine, theirs in zip(self.groups(giver, request), self.groups(taker, request), strict=True)
        ]
        depth = together.index(False) if False in together else len(together)
        return self.standing(giver, request)[depth] - 1 > self.standing(taker, request)[depth]


def bench_and_table(
    cluster: Iterable[tuple[Node, NodeCondition]], held: Iterable[tuple[str, TaskSpec, str]]
) -> tuple[Bench, NodeTable]:
    bench, table = Bench(cluster), build_table(cluster)
    for job in JOBS:
        table.name_job(job, f"shop/{job}")
    for name, spec, job_id in held:
        bench.add(f"id-{name}", spec, job_id)
        table.add_task(f"id-{name}", spec, job_id)
    return bench, table


@settings(deadline=None)
@given(clusters, held_tasks, st.tuples(requests(0), requests(1), requests(2)), seeds)
def test_every_placement_keeps_every_rule_and_nothing_that_fits_is_left(
    cluster: tuple[tuple[Node, NodeCondition], ...],
    held: list[tuple[str, TaskSpec, str]],
    wanted: tuple[Request, ...],
    seed: int,
) -> None:
    bench, table = bench_and_table(cluster, held)
    plan = schedule(table, wanted, random.Random(seed))
    node_of = {placement.task_id: placement.node_id for placement in plan.placements}
    left = {task_id for unplaced in plan.unplaced for task_id in unplaced.task_ids}
    for request in wanted:
        for task_id in request.task_ids:
            assert (task_id in node_of) is not (task_id in left)
            if task_id in node_of:
                assert bench.takes(node_of[task_id], request)
                bench.add(node_of[task_id], request.spec.task, request.job_id)
        if left & set(request.task_ids):
            assert not any(bench.takes(node_id, request) for node_id in bench.nodes)
    assert all(table.load_of(node_id).reserved == reserved for node_id, reserved in bench.reserved.items())


@settings(deadline=None)
@given(anything, seeds, st.integers(0, 12))
def test_every_beginning_of_a_batch_is_as_even_as_room_allows(
    case: tuple[tuple[tuple[Node, NodeCondition], ...], list[tuple[str, TaskSpec, str]], Request],
    seed: int,
    length: int,
) -> None:
    cluster, held, request = case
    assume(not about_itself(request.spec.task.placement, request.spec.full_name))
    bench, table = bench_and_table(cluster, held)
    bench.leave(request)
    placements = schedule(table, [request], random.Random(seed)).placements[:length]
    avoided = set(request.avoid)
    placements = tuple(placement for placement in placements if placement.node_id not in avoided)
    for placement in placements:
        bench.add(placement.node_id, request.spec.task, request.job_id)
    for giver in {placement.node_id for placement in placements}:
        for taker in bench.nodes:
            if taker not in avoided and bench.takes(taker, request):
                assert not bench.could_be_evener(giver, taker, request)


@settings(deadline=None)
@given(clusters, held_tasks, requests(), seeds)
def test_avoided_nodes_get_only_what_fits_nowhere_else(
    cluster: tuple[tuple[Node, NodeCondition], ...],
    held: list[tuple[str, TaskSpec, str]],
    request: Request,
    seed: int,
) -> None:
    bench, table = bench_and_table(cluster, held)
    for placement in schedule(table, [request], random.Random(seed)).placements:
        if placement.node_id in request.avoid:
            others = set(bench.nodes) - set(request.avoid)
            assert not any(bench.takes(node_id, request) for node_id in others)
        bench.add(placement.node_id, request.spec.task, request.job_id)


@settings(max_examples=400, deadline=None)
@given(anything, st.integers(0, 2**64 - 1))
def test_a_single_task_goes_where_a_batch_of_one_would_and_none_is_better(
    case: tuple[tuple[tuple[Node, NodeCondition], ...], list[tuple[str, TaskSpec, str]], Request], salt: int
) -> None:
    cluster, held, request = case
    _, table = bench_and_table(cluster, held)
    candidates = feasible(table, request)
    if not candidates.any():
        return
    ranking = Ranking(table, request, salt, Gradient(table))
    best = ranking.best_row(candidates)
    rows = np.flatnonzero(next(ranking.tiers(candidates)))
    assert ranking.share_out(rows, room(table, request, rows), 1).tolist() == [best]
    standings = {row: [float(criterion.values[row]) for criterion in ranking.criteria()] for row in rows.tolist()}
    assert standings[best] == min(standings.values())


@settings(deadline=None)
@given(clusters, held_tasks, requests())
def test_a_node_passes_exactly_when_nothing_refuses_it(
    cluster: tuple[tuple[Node, NodeCondition], ...], held: list[tuple[str, TaskSpec, str]], request: Request
) -> None:
    bench, table = bench_and_table(cluster, held)
    refused = np.zeros(table.rows, np.bool_)
    for refusal in refusals(table, request):
        refused |= refusal.nodes
    passing = feasible(table, request)
    for node_id in bench.nodes:
        row = table.row_of(node_id)
        assert row is not None
        assert bool(passing[row]) is not bool(refused[row])
        assert bool(passing[row]) is bench.takes(node_id, request)


@settings(deadline=None)
@given(clusters, held_tasks, st.tuples(requests(0), requests(1)), seeds)
def test_same_content_and_seed_same_plan_whatever_the_history(
    cluster: tuple[tuple[Node, NodeCondition], ...],
    held: list[tuple[str, TaskSpec, str]],
    wanted: tuple[Request, ...],
    seed: int,
) -> None:
    _, table = bench_and_table(cluster, held)
    _, other = bench_and_table(cluster[::-1], held[::-1])
    twin = table.copy()
    plan = schedule(table, wanted, random.Random(seed))
    assert schedule(other, wanted, random.Random(seed)) == plan
    assert schedule(twin, wanted, random.Random(seed)) == plan


# --- the table, after any sequence of changes

changes = st.one_of(
    st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just("node"), nodes(name))),
    st.tuples(st.just("gone"), st.sampled_from(NAMES)),
    st.tuples(st.just("task"), st.tuples(st.sampled_from(NAMES), task_specs, st.sampled_from(JOBS))),
    st.tuples(st.just("ended"), st.integers(0, 100)),
    st.tuples(st.just("copy"), st.none()),
    st.tuples(st.just("ask"), requests()),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(changes, max_size=20), requests(limit=4), seeds)
def test_a_table_kept_up_to_date_equals_one_built_from_scratch(
    steps: list[tuple[str, object]], probe: Request, seed: int
) -> None:
    table = NodeTable(rows=1)
    for job in JOBS:
        table.name_job(job, f"shop/{job}")
    cluster: dict[str, tuple[Node, NodeCondition]] = {}
    held: list[tuple[str, TaskSpec, str]] = []
    for step in steps:
        match step:
            case ("node", (Node() as entry, NodeCondition() as of)):
                cluster[entry.name] = (entry, of)
                table.set_node(entry, of)
            case ("gone", str() as name):
                cluster.pop(name, None)
                table.remove_node(f"id-{name}")
            case ("task", (str() as name, TaskSpec() as spec, str() as job_id)):
                held.append((name, spec, job_id))
                table.add_task(f"id-{name}", spec, job_id)
            case ("ended", int() as place) if held:
                name, spec, job_id = held.pop(place % len(held))
                table.remove_task(f"id-{name}", spec, job_id)
            case ("copy", None):
                table, abandoned = table.copy(), table
                for name, spec, job_id in held:
                    abandoned.remove_task(f"id-{name}", spec, job_id)
            case ("ask", Request() as request):
                schedule(table.copy(), [request], random.Random(0))
            case _:
                assert step[0] == "ended"
    _, fresh = bench_and_table(tuple(cluster.values()), held)
    assert list(table.nodes()) == list(fresh.nodes())
    for name in NAMES:
        assert table.load_of(f"id-{name}") == fresh.load_of(f"id-{name}")
        for job_id in JOBS:
            assert table.tasks_of_job(job_id, f"id-{name}") == fresh.tasks_of_job(job_id, f"id-{name}")
    assert explain_unplaced(table, probe, per_node=True) == explain_unplaced(fresh, probe, per_node=True)
    assert schedule(table, [probe], random.Random(seed)) == schedule(fresh, [probe], random.Random(seed))


# --- fixes


@settings(max_examples=200, deadline=None)
@given(clusters, held_tasks, requests(limit=5))
def test_every_fix_offered_makes_all_of_it_fit(
    cluster: tuple[tuple[Node, NodeCondition], ...], held: list[tuple[str, TaskSpec, str]], request: Request
) -> None:
    crowding = any(
        rule.required and not rule.apart and rule.job == request.spec.full_name
        for rule in request.spec.task.placement.affinities
    )
    assume(not crowding)  # where the first task goes decides how many others there is room for
    _, table = bench_and_table(cluster, held)
    if not schedule(table.copy(), [request], random.Random(0)).unplaced:
        return
    for proposal in verified_fixes(table, request):
        bench = Bench(tuple(proposal.table.nodes()))
        for name, spec, job_id in held:
            bench.add(f"id-{name}", spec, job_id)
        placed: list[Placement] = []
        for task_id in request.task_ids:
            taker = next(node_id for node_id in bench.nodes if bench.takes(node_id, proposal.request))
            bench.add(taker, proposal.request.spec.task, request.job_id)
            placed.append(Placement(task_id, taker))
        assert len(placed) == len(request.task_ids)


@settings(deadline=None)
@given(roomy_clusters | clusters, held_tasks, requests(limit=3))
def test_moves_that_are_offered_each_have_room_and_make_all_of_it_fit(
    cluster: tuple[tuple[Node, NodeCondition], ...], held: list[tuple[str, TaskSpec, str]], request: Request
) -> None:
    assume(not about_itself(request.spec.task.placement, request.spec.full_name))
    surge, table = bench_and_table(cluster, held)
    there = [
        Movable(
            request=Request(job_id=job_id, task_ids=(f"held-{place}",), spec=job_spec(f"shop/{job_id}", task=spec)),
            node_id=f"id-{name}",
        )
        for place, (name, spec, job_id) in enumerate(held)
    ]
    moves = relief(table, request, lambda node_id: [one for one in there if one.node_id == node_id])
    assert len(moves) <= MOVES_LIMIT
    target = {movable.task_id: node_id for movable, node_id in moves}
    assert len(target) == len(moves)
    for movable, node_id in moves:
        assert node_id != movable.node_id
        assert surge.takes(node_id, movable.request)
        surge.add(node_id, movable.request.spec.task, movable.request.job_id)
    if moves:
        after = Bench(cluster)
        for one in there:
            after.add(target.get(one.task_id, one.node_id), one.request.spec.task, one.request.job_id)
        for _ in request.task_ids:
            taker = next(node_id for node_id in after.nodes if after.takes(node_id, request))
            after.add(taker, request.spec.task, request.job_id)


@settings(deadline=None)
@given(clusters, held_tasks, requests(limit=5))
def test_uncordoning_and_only_that_is_what_the_fix_says(
    cluster: tuple[tuple[Node, NodeCondition], ...], held: list[tuple[str, TaskSpec, str]], request: Request
) -> None:
    """Every node whose uncordoning alone makes it fit is offered, and no other."""
    _, table = bench_and_table(cluster, held)
    if not schedule(table.copy(), [request], random.Random(0)).unplaced:
        return
    helping = set()
    for entry, of in cluster:
        if entry.availability is not Availability.ACTIVE:
            active = node(
                entry.name,
                cpu=entry.description.capacity.cpu_millis / 1000,
                memory_bytes=entry.description.capacity.memory_bytes,
                labels=entry.description.labels,
                attributes=entry.description.attributes,
            )
            changed = table.copy()
            changed.set_node(active, of)
            if not schedule(changed, [request], random.Random(0)).unplaced:
                helping.add(f"podium uncordon {entry.name}")
    commands = {proposal.fix.command for proposal in verified_fixes(table, request)}
    offered = {command for command in commands if command.startswith("podium uncordon")}
    assert offered == helping
