"""Devices: which units fit, who gets which, and that free ones stay of use to the tasks this cluster runs."""

from __future__ import annotations

import random

import msgspec
import pytest

from common.model.device import Device, DeviceGrant, DeviceRequest
from common.model.job import Container, JobSpec, TaskSpec
from common.model.node import Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from common.model.task import Task, TaskState, TaskStatus
from controller.scheduler.explain import explain_placed, explain_unplaced
from controller.scheduler.filters import feasible
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.schedule import schedule
from controller.scheduler.values import Request, SchedulePlan

GIB = 1024**3


def gpus(count: int, model: str = "A10") -> tuple[Device, ...]:
    return tuple(Device(kind="gpu", id=f"g{unit}", model=model) for unit in range(count))


def node(name: str, devices: tuple[Device, ...], cpu: int = 16) -> tuple[Node, NodeCondition]:
    description = NodeDescription(
        id=name,
        name=name,
        address="",
        capacity=Resources(cpu_millis=cpu * 1000, memory_bytes=64 * GIB),
        runtimes=(RuntimeStatus(name="docker"),),
        devices=devices,
    )
    return Node(id=name, description=description), NodeCondition(node_id=name, status=NodeStatus.READY)


def spec(*devices: DeviceRequest, cpu: int = 1) -> TaskSpec:
    return TaskSpec(
        container=Container(image="train:1"), reservations=Resources(cpu_millis=cpu * 1000), devices=devices
    )


def whole(count: int, *models: str) -> DeviceRequest:
    return DeviceRequest(kind="gpu", count=count, models=models)


def share(millis: int) -> DeviceRequest:
    return DeviceRequest(kind="gpu", share_millis=millis)


def request(task: TaskSpec, count: int = 1, name: str = "train") -> Request:
    ids = tuple(f"{name}-{number}" for number in range(count))
    return Request(job_id=name, task_ids=ids, spec=JobSpec(namespace="lab", name=name, task=task))


def placed(table: NodeTable, *requests: Request) -> SchedulePlan:
    return schedule(table, requests, random.Random(1))


def running(name: str, node_id: str, *devices: DeviceGrant) -> Task:
    status = TaskStatus(attempt=1, state=TaskState.RUNNING, sequence=1)
    return Task(
        id=name,
        job_id=name,
        namespace="lab",
        job=name,
        version=1,
        slot=1,
        node_id=node_id,
        devices=devices,
        status=status,
    )


def test_each_task_gets_units_of_its_own() -> None:
    table = build_table([node("n1", gpus(4)), node("n2", ())])
    plan = placed(table, request(spec(whole(2)), 3))
    assert [one.node_id for one in plan.placements] == ["n1", "n1"]
    given = [grant.id for one in plan.placements for grant in one.devices]
    assert sorted(given) == ["g0", "g1", "g2", "g3"]
    assert [len(unplaced.task_ids) for unplaced in plan.unplaced] == [1]


def test_shares_fill_one_unit_before_the_next_and_never_more_than_it_has() -> None:
    table = build_table([node("n1", gpus(2))])
    plan = placed(table, request(spec(share(400)), 5))
    taken: dict[str, int] = {}
    for one in plan.placements:
        (grant,) = one.devices
        taken[grant.id] = taken.get(grant.id, 0) + grant.share_millis
    assert taken == {"g0": 800, "g1": 800}
    assert len(plan.unplaced) == 1


@pytest.mark.parametrize(("models", "expected"), [((), {"n1", "n2"}), (("H100",), {"n2"}), (("T4",), set())])
def test_models_are_any_of_those_asked_for(models: tuple[str, ...], expected: set[str]) -> None:
    table = build_table([node("n1", gpus(1, "A10")), node("n2", gpus(1, "H100"))])
    fitting = feasible(table, request(spec(whole(1, *models))))
    assert set(table.node_ids(fitting.nonzero()[0])) == expected


def test_a_unit_is_free_again_when_its_task_has_ended() -> None:
    table = build_table([node("n1", gpus(1))])
    task = spec(whole(1))
    mine = running("a", "n1", DeviceGrant(kind="gpu", id="g0"))
    table.follow_task(None, mine, task)
    assert placed(table.copy(), request(task)).placements == ()
    ended = msgspec.structs.replace(mine, status=TaskStatus(attempt=1, state=TaskState.FAILED, sequence=2))
    table.follow_task(mine, ended, task)
    assert len(placed(table, request(task)).placements) == 1


def test_a_node_that_registers_again_keeps_what_its_tasks_hold_and_a_lost_unit_may_come_back() -> None:
    table = build_table([node("n1", gpus(2))], [(running("a", "n1", DeviceGrant(kind="gpu", id="g1")), spec(whole(1)))])
    table.set_node(*node("n1", gpus(1)))
    assert [one.devices[0].id for one in placed(table.copy(), request(spec(whole(1)), 2)).placements] == ["g0"]
    table.set_node(*node("n1", gpus(2)))
    assert [one.devices[0].id for one in placed(table, request(spec(whole(1)), 2)).placements] == ["g0"]


def test_a_copy_is_independent() -> None:
    table = build_table([node("n1", gpus(1))])
    placed(table.copy(), request(spec(whole(1))))
    assert len(placed(table, request(spec(whole(1)))).placements) == 1


def test_whole_units_stay_free_for_those_who_need_several() -> None:
    """One GPU is taken from the node that could not serve the frequent need for four anyway."""
    table = build_table([node("n1", gpus(4)), node("n2", gpus(3))])
    for number in range(10):
        table.demand.add(spec(whole(4 if number else 1)))
    plan = placed(table, request(spec(whole(1)), name="small"), request(spec(whole(4)), name="large"))
    assert [one.node_id for one in plan.placements] == ["n2", "n1"]


def test_tasks_without_devices_leave_the_cpu_beside_free_devices_alone() -> None:
    table = build_table([node("n1", gpus(8), cpu=16), node("n2", (), cpu=4)])
    table.demand.add(spec(whole(8), cpu=16))
    plan = placed(table, request(spec(cpu=2), name="web"))
    assert [one.node_id for one in plan.placements] == ["n2"]


def test_the_gradient_learns_from_what_is_placed_and_what_waits() -> None:
    table = build_table([node("n1", gpus(4))])
    waiting = Task(id="w", job_id="w", namespace="lab", job="w", version=1, slot=1)
    task = spec(whole(4))
    table.follow_task(None, waiting, task)
    assert [count for *_, count in table.demand.of_kind("gpu")] == [1]
    table.follow_task(waiting, msgspec.structs.replace(waiting, node_id="n1"), task)
    assert [count for *_, count in table.demand.of_kind("gpu")] == [1]
    gone = msgspec.structs.replace(waiting, node_id="n1", status=TaskStatus(attempt=1, state=TaskState.STOPPED))
    table.follow_task(msgspec.structs.replace(waiting, node_id="n1"), gone, task)
    assert table.demand.of_kind("gpu") == []


def test_a_refusal_says_what_is_needed_and_what_is_free() -> None:
    held = running("a", "n1", DeviceGrant(kind="gpu", id="g0", share_millis=700))
    table = build_table([node("n1", gpus(1))], [(held, spec(share(700)))])
    assert "needs 2 gpu A10, 0 free on node n1" in explain_unplaced(table, request(spec(whole(2, "A10")))).verdict
    assert (
        "needs 0.5 of one gpu, at most 0.3 free on node n1"
        in explain_unplaced(table, request(spec(share(500)))).verdict
    )
    assert "needs 1 fpga, 0 free" in explain_unplaced(table, request(spec(DeviceRequest(kind="fpga")))).verdict


def test_a_missing_device_is_proposed_as_a_node_that_has_it() -> None:
    table = build_table([node("n1", gpus(1))])
    fixes = explain_unplaced(table, request(spec(whole(2, "H100")))).fixes
    assert any("2 gpu H100" in fix.text for fix in fixes), fixes


def test_another_model_is_proposed_where_it_helps() -> None:
    table = build_table([node("n1", gpus(2))])
    fixes = explain_unplaced(table, request(spec(whole(2, "H100")))).fixes
    assert fixes[0].text == "accept any model of gpu, not only H100"


def test_why_a_task_is_where_it_is_counts_its_own_units_as_free() -> None:
    mine = running("train", "n1", DeviceGrant(kind="gpu", id="g0"))
    table = build_table([node("n1", gpus(1)), node("n2", gpus(1))], [(mine, spec(whole(1)))])
    verdict = explain_placed(table, request(spec(whole(1))), "n1", mine.devices)
    assert "no better one among the 2 nodes that fit" in verdict.verdict
