"""A removed node has no record, no task and no right; its tasks are placed anew, unless they may still run."""

from __future__ import annotations

import msgspec
import pytest

from common.errors import Conflict
from common.model.node import Node
from common.model.task import Task, TaskState
from common.model.trust import Enrolment, Issued, Kind
from controller.core.removal import removed
from controller.state import State
from tests.builders import job, task
from tests.dispatcher_rig import description

NOW_S = 100.0
NODE = Node(id="n1", description=description("n1"))
MEMBER = Enrolment(kind=Kind.AGENT, id="n1", key_digest="k", certificates=(Issued(serial="a", until_s=200.0),))


def state(*tasks: Task) -> State:
    record, version = job()
    return State.of([record, version, NODE, MEMBER, *tasks])


def running(**fields: object) -> Task:
    record, _ = job()
    return msgspec.structs.replace(task(record, 1, node_id="n1", state=TaskState.RUNNING), **fields)


def after(before: State, *, force: bool = False) -> State:
    for group in removed(before, [NODE], NOW_S, force=force):
        for change in group:
            before.apply(change)
    return before


def test_it_is_gone_with_its_certificates_and_its_key() -> None:
    found = after(state())
    assert (found.nodes, found.enrolments) == ({}, {})
    assert found.denied["a"].until_s == 200.0
    assert found.denied["a"].reason == "its node was removed"


def test_with_tasks_it_is_refused_with_what_to_do_first() -> None:
    with pytest.raises(Conflict, match=r"n1 has 1 tasks: `podium drain n1` first, or --force"):
        after(state(running()))


def test_by_force_its_tasks_are_forgotten_so_that_others_take_their_place() -> None:
    assert after(state(running()), force=True).tasks == {}


def test_an_exclusive_task_that_may_run_is_not_given_up() -> None:
    with pytest.raises(Conflict, match="exclusive tasks: drain it, or wait"):
        after(state(running(fence_after_s=10.0)), force=True)
    lost = running(fence_after_s=10.0, lost_at_s=90.0)
    assert after(state(lost)).nodes == {}
