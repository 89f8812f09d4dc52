"""What agents' reports make of the state: one transaction for all of them, within every limit."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.job import DesiredState
from common.model.task import Attempt, Health, Slot, Task, TaskReport, TaskState, TaskStatus
from common.settings import LIMITS
from controller.core.confine import TEXT_CHARACTERS
from controller.dispatcher.statuses import missing_from, status_changes
from controller.state import Group, State
from controller.store.keys import decode, encode, key_of
from tests.dispatcher_rig import NOW_S, job_records, report_of, running_status, task_of, web_spec

WEB = job_records(web_spec())


def changes(state: State, *reports: TaskReport, node_id: str = "n1") -> tuple[Group, ...]:
    return status_changes(state, [(node_id, report) for report in reports], NOW_S)


def after(state: State, *reports: TaskReport) -> State:
    for group in changes(state, *reports):
        for change in group:
            state.apply(change)
    return state


def attempt(number: int, task_id: str = "t1", **fields: object) -> Attempt:
    return msgspec.structs.replace(Attempt(task_id=task_id, number=number), **fields)


def test_what_is_seen_is_dated_by_the_controllers_clock() -> None:
    state = after(State.of((*WEB, task_of("t1"))), report_of("t1", TaskState.RUNNING, started_at_s=5.0))
    assert state.tasks["t1"].observed_at_s == NOW_S
    assert state.tasks["t1"].status.started_at_s == 5.0


def test_an_older_observation_changes_nothing() -> None:
    state = State.of((*WEB, task_of("t1", status=running_status())))
    assert changes(state, report_of("t1", TaskState.PREPARING)) == ()


def test_the_same_report_twice_changes_nothing_the_second_time() -> None:
    report = report_of("t1", TaskState.RESTARTING, attempt(1))
    state = after(State.of((*WEB, task_of("t1"))), report)
    assert changes(state, report) == ()


@pytest.mark.parametrize(
    "report",
    [
        report_of("t1", TaskState.LOST),
        report_of("t1", TaskState.RUNNING, health=Health.UNKNOWN),
        report_of("other", TaskState.RUNNING),
        report_of("unknown", TaskState.RUNNING),
    ],
)
def test_what_an_agent_cannot_say_is_dropped(report: TaskReport) -> None:
    state = State.of((*WEB, task_of("t1"), task_of("other", node_id="n2", slot=2)))
    assert changes(state, report) == ()


def test_two_tasks_of_one_slot_change_it_together() -> None:
    state = State.of((*WEB, task_of("t1"), task_of("t2")))
    reports = [report_of(id_, TaskState.FAILED, attempt(1, id_)) for id_ in ("t1", "t2")]
    (group,) = changes(state, *reports)
    keys = [key_of(change.record) for change in group]
    assert sorted(keys) == ["slots/id-web/000001", "tasks/t1", "tasks/t2"]
    (slot,) = [change.record for change in group if isinstance(change.record, Slot)]
    assert [one.task_id for one in slot.attempts] == ["t1", "t2"]


def test_a_slot_keeps_its_last_attempts_only() -> None:
    many = [attempt(number) for number in range(1, 9)]
    state = after(State.of((*WEB, task_of("t1"))), report_of("t1", TaskState.FAILED, *many, attempt=8))
    assert [one.number for one in state.slot_of("id-web", 1).attempts] == [4, 5, 6, 7, 8]


def test_a_crash_record_of_another_task_is_not_believed() -> None:
    state = after(State.of((*WEB, task_of("t1"))), report_of("t1", TaskState.FAILED, attempt(1, "t9")))
    assert state.slot_of("id-web", 1).attempts == ()


def test_a_crash_record_is_cut_to_its_bounds_from_the_oldest_line() -> None:
    record = attempt(1, log_tail=tuple(f"{place} " + "x" * 400 for place in range(80)), health_output="h" * 9_000)
    state = after(State.of((*WEB, task_of("t1"))), report_of("t1", TaskState.FAILED, record))
    (kept,) = state.slot_of("id-web", 1).attempts
    assert len(msgspec.json.encode(kept)) <= LIMITS.attempt_record_bytes
    assert 5 < len(kept.log_tail) < LIMITS.attempt_log_lines
    assert kept.log_tail[-1].startswith("79 ")


@given(
    log=st.lists(st.text(max_size=3_000), max_size=60),
    message=st.text(max_size=10_000),
    output=st.text(max_size=10_000),
    when=st.floats(),
)
def test_whatever_an_agent_says_can_be_stored_and_read_back(
    log: list[str], message: str, output: str, when: float
) -> None:
    record = attempt(1, log_tail=tuple(log), message=message, health_output=output, ended_at_s=when)
    report = report_of("t1", TaskState.FAILED, record, message=message, ended_at_s=when, started_at_s=when)
    for group in changes(State.of((*WEB, task_of("t1"))), report):
        for change in group:
            stored = encode(change.record)
            assert decode(key_of(change.record), stored) == change.record
            assert len(stored) <= LIMITS.attempt_record_bytes + 6 * TEXT_CHARACTERS


def test_times_that_are_no_numbers_are_unknown() -> None:
    state = after(State.of((*WEB, task_of("t1"))), report_of("t1", TaskState.RUNNING, started_at_s=math.nan))
    assert state.tasks["t1"].status.started_at_s == 0.0


# --- what a node no longer knows


def forgotten(*tasks: Task, inventory: tuple[TaskReport, ...] = ()) -> dict[str, TaskState]:
    reports = missing_from(State.of((*WEB, *tasks)), "n1", inventory)
    return {report.task_id: report.status.state for report in reports}


def test_a_task_the_node_ran_and_no_longer_knows_has_ended() -> None:
    ran = task_of("t1", status=running_status())
    assert forgotten(ran) == {"t1": TaskState.FAILED}
    assert forgotten(msgspec.structs.replace(ran, desired=DesiredState.STOP)) == {"t1": TaskState.STOPPED}


def test_a_task_the_node_knows_never_took_up_or_ended_is_left_alone() -> None:
    ended = task_of("t3", slot=3, status=TaskStatus(attempt=1, state=TaskState.COMPLETE))
    elsewhere = task_of("t4", slot=4, node_id="n2", status=running_status())
    known = task_of("t1", status=running_status())
    report = report_of("t1", TaskState.RUNNING)
    assert forgotten(known, task_of("t2", slot=2), ended, elsewhere, inventory=(report,)) == {}


def test_the_end_of_a_forgotten_task_is_believed() -> None:
    state = State.of((*WEB, task_of("t1", status=running_status())))
    assert after(state, *missing_from(state, "n1", ())).tasks["t1"].ended
