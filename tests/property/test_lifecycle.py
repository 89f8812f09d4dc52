"""Observation is a clock that never runs back, whatever way the reports come."""

from __future__ import annotations

import itertools
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from common.lifecycle import ORDER, STEPS, ended, legal, merge, rank
from common.model.task import ENDED_STATES, Health, TaskState, TaskStatus

statuses = st.builds(
    TaskStatus,
    attempt=st.integers(min_value=0, max_value=3),
    state=st.sampled_from(TaskState),
    sequence=st.integers(min_value=0, max_value=3),
    health=st.sampled_from(Health),
)


@given(st.lists(statuses, min_size=1, max_size=5))
def test_reports_may_come_in_any_order_and_repeated(reports: list[TaskStatus]) -> None:
    outcomes = {reduce(merge, order) for order in itertools.permutations(reports)}
    outcomes |= {reduce(merge, [*reports, *reports])}
    assert len(outcomes) == 1


@given(statuses, statuses)
def test_merging_never_goes_back(known: TaskStatus, seen: TaskStatus) -> None:
    merged = merge(known, seen)
    assert merged in (known, seen)
    assert rank(merged) == max(rank(known), rank(seen))


@given(statuses, statuses)
def test_an_ended_task_stays_ended(known: TaskStatus, seen: TaskStatus) -> None:
    if ended(known.state):
        assert ended(merge(known, seen).state)


def test_steps_go_forward_except_from_a_restart_to_the_next_attempt() -> None:
    backwards = {
        (before, after) for before, afters in STEPS.items() for after in afters if ORDER[after] < ORDER[before]
    }
    assert backwards == {(TaskState.RESTARTING, TaskState.PREPARING), (TaskState.RESTARTING, TaskState.STARTING)}


def test_nothing_follows_an_end() -> None:
    assert {state for state, after in STEPS.items() if not after} == ENDED_STATES
    assert legal(TaskState.STOPPED, TaskState.STOPPED)
    assert not legal(TaskState.STOPPED, TaskState.RUNNING)


def test_every_state_an_agent_reports_can_be_stopped() -> None:
    live = set(TaskState) - ENDED_STATES - {TaskState.PENDING}
    assert all(TaskState.STOPPED in STEPS[state] for state in live)
