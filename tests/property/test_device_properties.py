"""Whatever tasks with devices come and go: no unit is given twice, no model is wrong, nothing that fits is left."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.device import WHOLE_MILLIS, Device, DeviceGrant, DeviceRequest
from common.model.job import Container, JobSpec, TaskSpec
from common.model.node import Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from common.model.task import Task, TaskState, TaskStatus
from controller.scheduler.demand import Need
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.schedule import schedule
from controller.scheduler.usefulness import CARRIED_WEIGHT, Usefulness
from controller.scheduler.values import Request

MODELS = ("A10", "H100", "")
CPUS = 4
MEMORY_BYTES = 1_000

nodes = st.lists(st.lists(st.sampled_from(MODELS), max_size=3), min_size=1, max_size=4)
parts = st.builds(
    DeviceRequest,
    kind=st.just("gpu"),
    count=st.integers(1, 3),
    models=st.sampled_from([(), ("A10",), ("A10", "H100")]),
) | st.builds(DeviceRequest, kind=st.just("gpu"), share_millis=st.integers(1, WHOLE_MILLIS))
specs = st.builds(
    TaskSpec,
    container=st.just(Container(image="train:1")),
    reservations=st.builds(Resources, cpu_millis=st.integers(0, CPUS * 500)),
    devices=st.lists(parts, max_size=1).map(tuple),
)
counts = st.integers(1, 5)
happenings = st.lists(st.tuples(specs, st.integers(1, 4)) | st.integers(0, 30), max_size=12)
"""A request with so many tasks, or the end of a task by its number."""


class Lab:
    """A table that follows what is placed, and plain books beside it."""

    def __init__(self, models: list[list[str]]) -> None:
        self.models = {f"n{n}": dict(enumerate(units)) for n, units in enumerate(models)}
        self.table = build_table(_node(f"n{n}", units) for n, units in enumerate(models))
        self.tasks: list[tuple[Task, TaskSpec]] = []
        self.rng = random.Random(1)

    def request(self, spec: TaskSpec, count: int) -> None:
        name = f"j{len(self.tasks)}"
        ids = tuple(f"{name}-{number}" for number in range(count))
        request = Request(job_id=name, task_ids=ids, spec=JobSpec(namespace="lab", name=name, task=spec))
        plan = schedule(self.table.copy(), [request], self.rng)
        for one in plan.placements:
            task = Task(id=one.task_id, job_id=name, namespace="lab", job=name, version=1, slot=1, node_id=one.node_id)
            task = msgspec.structs.replace(task, devices=one.devices)
            self.table.follow_task(None, task, spec)
            self.tasks.append((task, spec))
            self.check_grants(spec, one.devices, one.node_id)
        if plan.unplaced:
            assert not any(self.fits(spec, node) for node in self.models)

    def end(self, number: int) -> None:
        if self.tasks:
            task, spec = self.tasks.pop(number % len(self.tasks))
            ended = msgspec.structs.replace(task, status=TaskStatus(attempt=1, state=TaskState.COMPLETE))
            self.table.follow_task(task, ended, spec)

    def check_grants(self, spec: TaskSpec, grants: tuple[DeviceGrant, ...], node: str) -> None:
        assert len(grants) == sum(part.count for part in spec.devices)
        assert len({grant.id for grant in grants}) == len(grants)
        for part in spec.devices:
            for grant in grants:
                assert grant.share_millis == part.share_millis
                assert not part.models or self.models[node][int(grant.id)] in part.models

    def held(self, node: str) -> dict[int, int]:
        held = dict.fromkeys(self.models[node], 0)
        for task, _ in self.tasks:
            for grant in task.devices if task.node_id == node else ():
                held[int(grant.id)] += grant.share_millis
        return held

    def fits(self, spec: TaskSpec, node: str) -> bool:
        used = sum(held.reservations.cpu_millis for task, held in self.tasks if task.node_id == node)
        held = self.held(node)
        return spec.reservations.cpu_millis <= CPUS * 1000 - used and all(
            sum(
                held[unit] + part.share_millis <= WHOLE_MILLIS and (not part.models or model in part.models)
                for unit, model in self.models[node].items()
            )
            >= part.count
            for part in spec.devices
        )


def _node(name: str, models: list[str]) -> tuple[Node, NodeCondition]:
    description = NodeDescription(
        id=name,
        name=name,
        address="",
        capacity=Resources(cpu_millis=CPUS * 1000, memory_bytes=MEMORY_BYTES),
        runtimes=(RuntimeStatus(name="docker"),),
        devices=tuple(Device(kind="gpu", id=str(unit), model=model) for unit, model in enumerate(models)),
    )
    return Node(id=name, description=description), NodeCondition(node_id=name, status=NodeStatus.READY)


def run(models: list[list[str]], events: list[tuple[TaskSpec, int] | int]) -> Lab:
    lab = Lab(models)
    for event in events:
        if isinstance(event, int):
            lab.end(event)
        else:
            lab.request(*event)
        assert all(held <= WHOLE_MILLIS for node in lab.models for held in lab.held(node).values())
    return lab


@settings(max_examples=200, deadline=None)
@given(nodes, happenings)
def test_no_unit_is_given_twice_and_nothing_that_fits_is_left(
    models: list[list[str]], events: list[tuple[TaskSpec, int] | int]
) -> None:
    run(models, events)


@settings(max_examples=100, deadline=None)
@given(nodes, happenings, st.tuples(specs, st.integers(1, 4)))
def test_a_table_that_followed_plans_like_one_from_scratch(
    models: list[list[str]], events: list[tuple[TaskSpec, int] | int], last: tuple[TaskSpec, int]
) -> None:
    lab = run(models, events)
    scratch = build_table((_node(f"n{n}", units) for n, units in enumerate(models)), reversed(lab.tasks))

    def plan(table: NodeTable) -> object:
        spec, count = last
        ids = tuple(f"last-{number}" for number in range(count))
        request = Request(job_id="last", task_ids=ids, spec=JobSpec(namespace="lab", name="last", task=spec))
        return schedule(table, [request], random.Random(2)).placements

    assert plan(lab.table) == plan(scratch)


def plain_fragments(
    model: list[str], free: list[int], cpu: int, memory: int, needs: list[tuple[Need, DeviceRequest, int]]
) -> float:
    """What is of no use of these units beside so much CPU and memory, need by need."""
    useful = 0.0
    for need, part, count in needs:
        fitting = [
            amount
            for unit, amount in zip(model, free, strict=True)
            if amount >= part.share_millis and (not part.models or unit in part.models)
        ]
        carried = min(cpu / max(need.cpu_millis, 1), memory / max(need.memory_bytes, 1))
        if len(fitting) >= part.count and carried >= 1:
            partly = min(sum(fitting), carried * part.total_millis)
            weight = CARRIED_WEIGHT if part.total_millis < WHOLE_MILLIS else 0.0
            useful += count * ((1 - weight) * sum(fitting) + weight * partly)
    return sum(free) - useful / sum(count for *_, count in needs)


@settings(max_examples=100, deadline=None)
@given(nodes, st.data())
def test_use_in_columns_is_use_need_by_need(models: list[list[str]], data: st.DataObject) -> None:
    table = build_table(_node(f"n{n}", units) for n, units in enumerate(models))
    columns = table.devices.kinds.get("gpu")
    asked = data.draw(st.lists(st.tuples(parts, st.integers(0, 2_000), st.integers(0, 900), counts), min_size=1))
    if columns is None:
        return
    needs = [(Need(cpu, memory, (part,)), part, count) for part, cpu, memory, count in asked]
    rows = [table.row_of(f"n{n}") or 0 for n in range(len(models))]
    cpu_millis, memory_bytes = data.draw(st.integers(0, 2_000)), data.draw(st.integers(0, 500))
    of = sorted(data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, max_size=8)))
    width = columns.free.shape[1]
    free = [
        [data.draw(st.sampled_from([0, 300, 500, 1_000])) for _ in models[place]] + [0] * (width - len(models[place]))
        for place in of
    ]
    found = Usefulness(columns, table.free, needs).fragments(
        np.array(rows), cpu_millis, memory_bytes, np.array(of), np.array(free).reshape(len(of), width)
    )
    for place, units, fragments in zip(of, free, found.tolist(), strict=True):
        count = len(models[place])
        cpu, memory = CPUS * 1000 - cpu_millis, MEMORY_BYTES - memory_bytes
        plain = plain_fragments(models[place], units[:count], cpu, memory, needs)
        assert fragments == pytest.approx(plain)
