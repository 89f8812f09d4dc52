"""Whatever is cut, delayed or frozen: before the leader gives an exclusive task up, its node has stopped it."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import self_fence
from agent.core.self_fence import FenceMemory
from agent.guard.watchman import LATE_S, LOOK_S
from controller.core.exclusive import ExclusiveTimers
from controller.core.liveness import LivenessTimers, Seen, judge

TIMERS = ExclusiveTimers()
GRACE_S = TIMERS.grace_limit_s
LOST_S = TIMERS.lost_after_s(GRACE_S)
PERIOD_S = 1.0


class Beat(msgspec.Struct, frozen=True):
    """One heartbeat: how long it took, and how long its acknowledgement did; infinite: it was lost on the way."""

    up_s: float
    down_s: float


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    beats: tuple[Beat, ...]
    rate: float
    """How fast the node's clock runs against the leader's."""
    asleep: tuple[tuple[float, float], ...]
    """From when, and for how long, the agent does nothing: frozen, or dead with its successor yet to come."""
    grace_s: float


delays = st.one_of(st.floats(0.0, 0.05), st.floats(0.0, 90.0), st.just(math.inf))
schedules = st.builds(
    Schedule,
    beats=st.lists(st.builds(Beat, delays, delays), min_size=1, max_size=40).map(tuple),
    rate=st.floats(0.998, 1.002),
    asleep=st.lists(st.tuples(st.floats(0.0, 60.0), st.floats(0.0, 120.0)), max_size=2).map(tuple),
    grace_s=st.floats(0.0, GRACE_S),
)


@given(schedules)
@settings(max_examples=400)
def test_a_task_has_ended_before_its_slot_is_free(schedule: Schedule) -> None:
    assert last_moment_s(schedule) < slot_free_s(schedule)


def heard(schedule: Schedule) -> list[tuple[float, float, float]]:
    """(sent, heard, acknowledgement read) of each heartbeat that the leader heard, by true time."""
    found = []
    for number, beat in enumerate(schedule.beats):
        sent_s = number * PERIOD_S
        if math.isfinite(beat.up_s) and not _asleep(schedule, sent_s):
            found.append((sent_s, sent_s + beat.up_s, _awake(schedule, sent_s + beat.up_s + beat.down_s)))
    return found


def slot_free_s(schedule: Schedule) -> float:
    """When, first, the leader would take the task for gone; its loop looks a hundred times a second here."""
    arrivals = sorted([0.0, *(at_s for _, at_s, _ in heard(schedule))])
    for last_s, next_s in zip(arrivals, [*arrivals[1:], math.inf], strict=True):
        if next_s - last_s >= LOST_S:
            seen = {"n": Seen(last_heard_s=last_s, connected=False)}
            for silent_s, gone in ((LOST_S - 0.01, False), (LOST_S, True)):
                silence_s = judge(seen, {}, last_s + silent_s, LivenessTimers()).silence_s["n"]
                assert (silence_s + 1e-6 >= LOST_S) is gone
            return last_s + LOST_S
    raise AssertionError("the last silence is endless")


def last_moment_s(schedule: Schedule) -> float:
    """Until when, by true time, the task runs: its agent stops it at a look, or the guard does at its own."""
    memory = self_fence.watch(FenceMemory(acknowledged_s=0.0), "t", TIMERS.self_s, 0.0).memory
    events = sorted((read_s, sent_s) for sent_s, _, read_s in heard(schedule) if math.isfinite(read_s))
    guard_s = LATE_S + LOOK_S
    for read_s, sent_s in [*events, (math.inf, 0.0)]:
        ends_s = self_fence.next_look_s(memory) / schedule.rate
        if read_s >= ends_s:
            # The agent would have looked; asleep, or slow, the guard does. Then the grace runs out.
            return ends_s + guard_s + schedule.grace_s / schedule.rate
        step = self_fence.acknowledge(memory, sent_s * schedule.rate, read_s * schedule.rate)
        assert not step.lapsed
        memory = step.memory
    raise AssertionError("the last permission is not endless")


def _asleep(schedule: Schedule, at_s: float) -> bool:
    return any(begin_s <= at_s < begin_s + long_s for begin_s, long_s in schedule.asleep)


def _awake(schedule: Schedule, at_s: float) -> float:
    """When what arrives then is read."""
    for begin_s, long_s in sorted(schedule.asleep):
        if begin_s <= at_s < begin_s + long_s:
            at_s = begin_s + long_s
    return at_s


moments = st.floats(0.0, 1_000.0)


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 30.0)), max_size=30), st.floats(1.0, 20.0))
def test_what_has_lapsed_never_comes_back(steps: list[tuple[float, float]], after_s: float) -> None:
    memory = self_fence.watch(FenceMemory(acknowledged_s=0.0), "t", after_s, 0.0).memory
    now_s, lapsed = 0.0, False
    for wait_s, age_s in steps:
        due_s = self_fence.next_look_s(memory)
        now_s += wait_s
        step = self_fence.acknowledge(memory, max(0.0, now_s - age_s), now_s)
        lapsed |= now_s >= due_s
        memory = step.memory
        assert ("t" in memory.lapsed) is lapsed
        assert ("t" in memory.watched) is not lapsed
