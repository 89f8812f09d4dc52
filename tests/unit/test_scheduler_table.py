"""The node table's accounting."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from common.model.job import DesiredState
from common.model.resources import Resources
from common.model.task import Task, TaskState, TaskStatus
from controller.scheduler.node_table import NodeLoad, NodeTable, build_table, holds_reservation
from controller.scheduler.schedule import schedule
from controller.scheduler.values import Request
from tests.builders import GIB, condition, job, job_spec, node, task, task_spec

SPEC = task_spec(cpu=1, memory_bytes=GIB)


def test_reservations_and_tasks_add_up() -> None:
    table = build_table([(node("n1", cpu=4), condition(node("n1")))])
    table.add_task("id-n1", SPEC, "a")
    table.add_task("id-n1", SPEC, "b")
    table.remove_task("id-n1", SPEC, "a")
    load = table.load_of("id-n1")
    assert load.reserved == Resources(cpu_millis=1000, memory_bytes=GIB)
    assert load.capacity.cpu_millis == 4000
    assert load.tasks == 1
    assert (table.tasks_of_job("a", "id-n1"), table.tasks_of_job("b", "id-n1")) == (0, 1)


def test_tasks_may_come_before_their_node_and_outlive_it() -> None:
    table = NodeTable()
    table.add_task("id-n1", SPEC, "a")
    assert list(table.nodes()) == []
    table.set_node(node("n1"), condition(node("n1")))
    table.remove_node("id-n1")
    assert table.row_of("id-n1") is None
    table.set_node(node("n1"), condition(node("n1")))
    assert table.load_of("id-n1").reserved == SPEC.reservations


def test_a_forgotten_node_leaves_nothing_to_the_next_one_in_its_row() -> None:
    table = NodeTable(rows=1)
    table.set_node(node("n1"), condition(node("n1")))
    table.add_task("id-n1", SPEC, "a")
    table.remove_node("id-n1")
    table.remove_task("id-n1", SPEC, "a")
    table.set_node(node("n2"), condition(node("n2")))
    assert table.rows == 1
    assert table.load_of("id-n2") == NodeLoad(capacity=node("n2").description.capacity)
    assert table.load_of("id-n1") == NodeLoad()


def test_removing_a_task_that_was_never_added_is_a_bug_found_at_once() -> None:
    table = build_table([(node("n1"), condition(node("n1")))])
    table.add_task("id-n1", SPEC, "a")
    with pytest.raises(AssertionError, match="no task of job b"):
        table.remove_task("id-n1", SPEC, "b")


def test_a_copy_and_its_original_go_their_own_ways() -> None:
    table = build_table([(node("n1"), condition(node("n1")))])
    table.add_task("id-n1", SPEC, "a")
    twin = table.copy()
    twin.add_task("id-n1", SPEC, "a")
    table.remove_task("id-n1", SPEC, "a")
    twin.set_node(node("n2"), condition(node("n2")))
    assert (table.load_of("id-n1").tasks, twin.load_of("id-n1").tasks) == (0, 2)
    assert (table.tasks_of_job("a", "id-n1"), twin.tasks_of_job("a", "id-n1")) == (0, 2)
    assert table.row_of("id-n2") is None


def test_a_copy_keeps_its_own_labels() -> None:
    table = build_table([(node("n1", labels={"zone": "eu"}), condition(node("n1")))])
    wanted = Request(job_id="a", task_ids=("t",), spec=job_spec(task=task_spec(constraints=["node.labels.zone == eu"])))
    schedule(table, [wanted], random.Random(0))
    twin = table.copy()
    twin.set_node(node("n1"), condition(node("n1")))
    assert schedule(table, [wanted], random.Random(0)).placements
    assert not schedule(twin, [wanted], random.Random(0)).placements


RECORD, _ = job()


@pytest.mark.parametrize(
    ("record", "holds"),
    [
        (task(RECORD), False),
        (task(RECORD, node_id="id-n1", state=TaskState.PENDING), True),
        (task(RECORD, node_id="id-n1", state=TaskState.RUNNING), True),
        (task(RECORD, node_id="id-n1", state=TaskState.RESTARTING), True),
        (task(RECORD, node_id="id-n1", state=TaskState.STOPPED), False),
        (task(RECORD, node_id="id-n1", state=TaskState.FAILED), False),
        (task(RECORD, node_id="id-n1", state=TaskState.COMPLETE), False),
        (msgspec.structs.replace(task(RECORD, node_id="id-n1"), desired=DesiredState.STOP), True),
        (msgspec.structs.replace(task(RECORD, node_id="id-n1"), lost_at_s=5.0), True),
        (None, False),
    ],
)
def test_a_task_holds_its_reservation_from_placement_until_it_has_ended(record: Task | None, holds: bool) -> None:
    assert holds_reservation(record) is holds


def test_following_a_task_through_its_life_accounts_it_once() -> None:
    table = build_table([(node("n1"), condition(node("n1")))])
    pending = task(RECORD)
    assigned = msgspec.structs.replace(pending, node_id="id-n1")
    running = msgspec.structs.replace(assigned, status=TaskStatus(attempt=1, state=TaskState.RUNNING))
    stopping = msgspec.structs.replace(running, desired=DesiredState.STOP)
    stopped = msgspec.structs.replace(stopping, status=TaskStatus(attempt=1, state=TaskState.STOPPED))
    life = [None, pending, assigned, running, stopping, stopped, None]
    held = []
    for before, after in itertools.pairwise(life):
        table.follow_task(before, after, SPEC)
        held.append(table.load_of("id-n1").tasks)
    assert held == [0, 1, 1, 1, 0, 0]
