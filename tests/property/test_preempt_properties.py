"""Who gives way: never an equal, higher or exclusive one, no more than it takes; and never is too much set aside."""

from __future__ import annotations

import asyncio
from itertools import combinations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.device import Device, DeviceGrant, DeviceRequest
from common.model.job import DesiredState, JobSpec, TaskSpec
from common.model.node import Node
from common.model.task import Task, TaskState
from controller.core.pending import requests_for
from controller.core.preemption import why_not
from controller.scheduler.filters import feasible
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.preempt import Occupant, Preemption, Rival, preempt
from controller.scheduler.values import Request
from tests.builders import GIB, condition, job_spec, node, task_spec
from tests.preemption_rig import Stage, batch, job, stage
from tests.virtual_time import VirtualLoop

UNITS = ("0", "1")

occupant_parts = st.tuples(
    st.integers(0, 3),  # halves of a core
    st.integers(0, 4),  # GiB
    st.sampled_from([10, 20, 20, 30, 80, 90]),
    st.sampled_from(["", "", "", "exclusive", "leaving", "stays"]),
    st.sampled_from(["", "", "0", "1"]),
    st.integers(0, 2),
    st.sampled_from([False, False, False, True]),  # port 80 of its node
)
nodes_parts = st.lists(st.lists(occupant_parts, max_size=6), min_size=1, max_size=3)
needs = st.tuples(st.integers(0, 8), st.integers(0, 8), st.booleans(), st.booleans())


class Cluster:
    """Full or half full nodes, made of what hypothesis chose."""

    def __init__(self, parts: list[list[tuple[int, int, int, str, str, int, bool]]]) -> None:
        self.occupants: dict[str, list[Occupant]] = {}
        nodes = [self._node(f"n{place}") for place in range(len(parts))]
        self.table = build_table((each, condition(each)) for each in nodes)
        for each, held in zip(nodes, parts, strict=True):
            self.occupants[each.id] = []
            for number, part in enumerate(held):
                self._occupy(each, number, part)

    @staticmethod
    def _node(name: str) -> Node:
        made = node(name, cpu=4, memory_bytes=8 * GIB)
        devices = tuple(Device(kind="gpu", id=unit) for unit in UNITS)
        return msgspec.structs.replace(made, description=msgspec.structs.replace(made.description, devices=devices))

    def _occupy(self, on: Node, number: int, part: tuple[int, int, int, str, str, int, bool]) -> None:
        halves, gib, priority, kind, unit, disturbance, port = part
        spec = task_spec(cpu=halves / 2, memory_bytes=gib * GIB, host_ports=[80] if port else [])
        grants = (DeviceGrant(kind="gpu", id=unit),) if unit else ()
        row = self.table.row_of(on.id)
        assert row is not None
        trial = self.table.copy()
        request = Request(job_id="x", task_ids=("x",), spec=msgspec.structs.replace(job_spec(), task=spec))
        taken = any(unit and unit == grant.id for each in self.occupants[on.id] for grant in each.devices)
        if taken or not feasible(trial, request)[row]:
            return
        made = Occupant(
            task_id=f"{on.name}-{number}",
            job_id=f"job-{priority}",
            spec=msgspec.structs.replace(spec, exclusive=kind == "exclusive"),
            devices=grants,
            priority=priority,
            disturbance=disturbance,
            leaving=kind == "leaving",
            stays=kind == "stays",
        )
        self.occupants[on.id].append(made)
        self.table.add_task(on.id, made.spec, made.job_id, made.devices)

    def rivals(self, priority: int) -> list[Rival]:
        every = [one for held in self.occupants.values() for one in held if one.priority < priority]
        most = task_spec(cpu=4, memory_bytes=8 * GIB).reservations
        return [Rival(job_id=job_id, most=most) for job_id in sorted({one.job_id for one in every})]

    def fits_without(self, request: Request, node_id: str, gone: list[Occupant]) -> bool:
        trial = self.table.copy()
        for one in gone:
            trial.remove_task(node_id, one.spec, one.job_id, one.devices)
        row = trial.row_of(node_id)
        return bool(feasible(trial, request)[row])

    def leaving(self, node_id: str) -> list[Occupant]:
        return [one for one in self.occupants[node_id] if one.leaving]

    def displaceable(self, node_id: str, priority: int) -> list[Occupant]:
        return [one for one in self.occupants[node_id] if one.displaceable and one.priority < priority]


def asked(need: tuple[int, int, bool, bool]) -> Request:
    halves, gib, gpu, port = need
    spec = task_spec(cpu=halves / 2, memory_bytes=gib * GIB, host_ports=[80] if port else [])
    task: TaskSpec = msgspec.structs.replace(spec, devices=(DeviceRequest(kind="gpu"),) if gpu else ())
    return Request(
        job_id="new", task_ids=("new-1",), spec=msgspec.structs.replace(job_spec("shop/new"), task=task), priority=80
    )


def found_in(cluster: Cluster, request: Request) -> Preemption | None:
    return preempt(cluster.table, request, cluster.rivals(80), lambda node_id: cluster.occupants[node_id])


def books(table: NodeTable) -> list[object]:
    return [table.load_of(each.id) for each, _ in table.nodes()]


@settings(max_examples=300, deadline=None)
@given(nodes_parts, needs)
def test_only_lower_ones_go_no_more_than_it_takes_and_there_is_room_without_them(
    parts: list[list[tuple[int, int, int, str, str, int, bool]]], need: tuple[int, int, bool, bool]
) -> None:
    cluster, request = Cluster(parts), asked(need)
    before = books(cluster.table)
    found = found_in(cluster, request)
    assert books(cluster.table) == before
    if found is None:
        return
    node_id, leaving = found.node_id, cluster.leaving(found.node_id)
    victims = [one for one in cluster.occupants[node_id] if one.task_id in found.victims]
    assert len(victims) == len(found.victims)
    assert all(one in cluster.displaceable(node_id, 80) for one in victims)
    assert cluster.fits_without(request, node_id, [*leaving, *victims])
    for kept in victims:
        others = [one for one in victims if one is not kept]
        assert not cluster.fits_without(request, node_id, [*leaving, *others])
    for grant in found.devices:
        assert grant.id not in {
            held.id for one in cluster.occupants[node_id] if one not in (*leaving, *victims) for held in one.devices
        }


@settings(max_examples=150, deadline=None)
@given(nodes_parts, needs)
def test_the_highest_victim_is_as_low_as_can_be_and_one_or_two_are_found_where_they_are_enough(
    parts: list[list[tuple[int, int, int, str, str, int, bool]]], need: tuple[int, int, bool, bool]
) -> None:
    cluster, request = Cluster(parts), asked(need)
    found = found_in(cluster, request)
    sets = [
        (max((one.priority for one in some), default=-1), count)
        for node_id in cluster.occupants
        if cluster.displaceable(node_id, 80) or cluster.fits_without(request, node_id, cluster.leaving(node_id))
        for count in range(len(cluster.displaceable(node_id, 80)) + 1)
        for some in combinations(cluster.displaceable(node_id, 80), count)
        if any(one.priority < 80 for one in cluster.occupants[node_id])
        and cluster.fits_without(request, node_id, [*cluster.leaving(node_id), *some])
    ]
    if found is None:
        assert not sets
        return
    victims = [one for one in cluster.occupants[found.node_id] if one.task_id in found.victims]
    best = min(sets)
    assert max((one.priority for one in victims), default=-1) == best[0]
    if best[1] <= 2:
        assert len(victims) == best[1]


@settings(max_examples=60, deadline=None)
@given(nodes_parts, needs, st.randoms(use_true_random=False))
def test_the_answer_does_not_depend_on_how_the_books_came_about(
    parts: list[list[tuple[int, int, int, str, str, int, bool]]], need: tuple[int, int, bool, bool], chance: object
) -> None:
    cluster, request = Cluster(parts), asked(need)
    again = build_table(reversed([(each, state) for each, state in cluster.table.nodes()]))
    for node_id in reversed(list(cluster.occupants)):
        for one in reversed(cluster.occupants[node_id]):
            again.add_task(node_id, one.spec, one.job_id, one.devices)
    turned = {node_id: list(reversed(held)) for node_id, held in cluster.occupants.items()}
    other = preempt(again, request, list(reversed(cluster.rivals(80))), lambda node_id: turned[node_id])
    assert other == found_in(cluster, request)


# --- the whole of it

jobs = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.integers(1, 4),
        st.sampled_from([0, 10, 50, 50, 90, 100]),
        st.integers(0, 3),
        st.sampled_from(["service", "service", "service", "exclusive", "batch"]),
    ),
    min_size=2,
    max_size=6,
)


def spec_of(name: str, halves: int, priority: int, replicas: int, kind: str) -> JobSpec:
    if kind == "batch":
        return batch(f"{name}-work", cpu=halves / 2, priority=priority, replicas=replicas)
    made = job(f"{name}-{kind}", cpu=halves / 2, priority=priority, replicas=replicas)
    return msgspec.structs.replace(made, task=msgspec.structs.replace(made.task, exclusive=kind == "exclusive"))


async def play_out(cores: list[int], wanted: list[tuple[str, int, int, int, str]], pause_s: float) -> None:
    async with stage(node(f"n{place}", cpu=each) for place, each in enumerate(cores)) as play:
        watch_victims(play)
        for each in wanted:
            await play.up(spec_of(*each), within_s=pause_s)
        await asyncio.sleep(1_300)  # whoever waits has missed its progress deadline (600 s) by then, and said so
        commits = len(play.world.store.commits)
        await asyncio.sleep(600)
        assert len(play.world.store.commits) == commits, "it comes to rest: nobody displaces to and fro"
        assert not play.state.nominated
        for task in waiting(play):
            (request,) = requests_for(play.state, [task.id])
            said = why_not(play.state, play.placement.table, request, play.world.now_s)
            assert "can make room" not in said, f"{task.job_name} waits although {said}"


def waiting(play: Stage) -> list[Task]:
    return [task for task in play.state.tasks.values() if not task.node_id and task.desired is DesiredState.RUN]


def watch_victims(play: Stage) -> None:
    """Every displacement that is ever committed is of a lower priority, and of nothing exclusive."""

    def look(_committed: object) -> None:
        for task in play.state.tasks.values():
            if task.displaced is not None and task.displaced.task_id:
                spec = play.state.spec_of_task(task)
                assert not spec.task.exclusive
                waits = play.state.tasks.get(task.displaced.task_id)
                if waits is not None and not task.ended and task.displaced.at_s == play.world.now_s:
                    assert play.state.priority_of(waits) > play.state.priority_of(task)

    play.world.ledger.subscribe(look)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), jobs, st.sampled_from([0.3, 3.0, 30.0]))
def test_whatever_is_asked_for_it_comes_to_rest_with_the_important_ones_placed(
    cores: list[int], wanted: list[tuple[str, int, int, int, str]], pause_s: float
) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play_out(cores, wanted, pause_s))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), jobs)
def test_the_same_requests_end_in_the_same_places(
    cores: list[int], wanted: list[tuple[str, int, int, int, str]]
) -> None:
    async def places() -> list[tuple[str, int, str, TaskState]]:
        async with stage(node(f"n{place}", cpu=each) for place, each in enumerate(cores)) as play:
            for each in wanted:
                await play.up(spec_of(*each), within_s=10)
            await asyncio.sleep(300)
            found = [(task.job, task.slot, task.node_id, task.state) for task in play.state.tasks.values()]
            return sorted(found, key=str)

    results = []
    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            results.append(runner.run(places()))
    assert results[0] == results[1]
