"""The indexes of the state follow what is applied."""

from __future__ import annotations

import msgspec

from common.model.task import Slot
from controller.state import Erase, State, Write
from tests.builders import job, job_spec, node, task


def test_nodes_are_found_by_the_name_that_they_have_now() -> None:
    first, second = node("a"), msgspec.structs.replace(node("a"), id="other")
    state = State.of([first, second])
    assert {one.id for one in state.nodes_named("a")} == {first.id, "other"}
    renamed = msgspec.structs.replace(first.description, name="b")
    state.apply(Write(msgspec.structs.replace(first, description=renamed)))
    assert [one.id for one in state.nodes_named("a")] == ["other"]
    assert [one.id for one in state.nodes_named("b")] == [first.id]
    state.apply(Erase(second))
    assert not list(state.nodes_named("a"))


def test_tasks_are_found_by_their_slot_in_the_order_they_were_made() -> None:
    record, version = job(job_spec(replicas=2))
    first, second, other = task(record, 1), task(record, 1, suffix="b"), task(record, 2)
    state = State.of([record, version, first, second, other])
    later = msgspec.structs.replace(first, reason="later")
    state.apply(Write(later))
    assert state.tasks_in_slot(record.id, 1) == (later, second)
    assert sorted(state.slots_with_tasks(record.id)) == [1, 2]
    state.apply(Erase(later))
    state.apply(Erase(other))
    assert state.tasks_in_slot(record.id, 1) == (second,)
    assert list(state.slots_with_tasks(record.id)) == [1]


def test_what_happens_to_a_fork_leaves_the_original_as_it_was() -> None:
    record, version = job(job_spec(replicas=2))
    first, second = task(record, 1, node_id="a"), task(record, 2)
    records = [record, version, node("a"), first, second, Slot(job_id=record.id, slot=1, failures=1)]
    state = State.of(records)
    assert state.usage_of(record.namespace)["tasks"] == 2
    fork = state.fork()
    assert list(fork.records()) == list(state.records())
    assert fork.usage_of(record.namespace) == state.usage_of(record.namespace)
    fork.apply(Write(task(record, 1, suffix="b")))
    for change in records[1:]:
        fork.apply(Erase(change))
    fork.apply(Write(msgspec.structs.replace(record, replicas=5)))
    assert list(state.records()) == list(State.of(records).records())
    assert state.tasks_in_slot(record.id, 1) == (first,)
    assert list(state.tasks_of_job(record.id)) == [first.id, second.id]
    assert list(state.tasks_of_node(first.node_id)) == [first.id]
    assert state.slot_of(record.id, 1).failures == 1
    assert state.versions_of(record.id)
    assert list(state.nodes_named("a"))
    assert state.usage_of(record.namespace)["tasks"] == 2
