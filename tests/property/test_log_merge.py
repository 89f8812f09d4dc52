"""Merged logs: nothing lost, each source in its own order, and by time whenever all sources are there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.model.session import LogLine
from controller.core.log_merge import FOLLOWING, READING, LogMerge

TIMES = st.lists(st.floats(1, 1000), max_size=20).map(sorted)


def line(source: str, time_s: float, text: str = "") -> LogLine:
    return LogLine(task_id=source, time_s=time_s, text=text)


@given(st.dictionaries(st.sampled_from("abcd"), TIMES, min_size=1), st.integers(1, 7))
def test_whole_logs_come_in_the_order_of_their_times(logs: dict[str, list[float]], limit: int) -> None:
    merge = LogMerge(READING)
    for source, times in logs.items():
        merge.open(source, 0.0)
        merge.add(source, [line(source, time_s) for time_s in times], 0.0)
        merge.close(source)
    merged: list[LogLine] = []
    while some := merge.take(0.0, limit)[0]:
        merged += some
    assert [one.time_s for one in merged] == sorted(time_s for times in logs.values() for time_s in times)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100), st.floats(0, 1)), max_size=40), st.sampled_from("abc")
)
def test_nothing_is_lost_and_each_source_keeps_its_order(said: list[tuple[str, float, float]], ends: str) -> None:
    merge, now_s = LogMerge(FOLLOWING), 0.0
    for source in "abc":
        merge.open(source, now_s)
    merged: list[LogLine] = []
    for number, (source, time_s, later_s) in enumerate(said):
        now_s += later_s
        merge.add(source, [line(source, time_s, str(number))], now_s)
        merged += merge.take(now_s, 100)[0]
    merge.close(ends)
    merged += merge.take(now_s + FOLLOWING.opening_s, 100)[0]
    for source in "abc":
        given_order = [str(number) for number, (whose, _, _) in enumerate(said) if whose == source]
        assert [one.text for one in merged if one.task_id == source] == given_order


def test_a_silent_source_holds_others_up_for_a_moment_only() -> None:
    merge = LogMerge(FOLLOWING)
    merge.open("a", 0.0)
    merge.open("b", 0.0)
    merge.add("a", [line("a", 10.0)], 1.0)
    assert merge.take(1.0, 10) == ([], FOLLOWING.opening_s)
    merge.add("b", [line("b", 9.0)], 1.5)
    lines, again_s = merge.take(1.5, 10)
    # b's came later and is older; a's now waits for b's next, but not longer than since it came.
    assert ([one.task_id for one in lines], again_s) == (["b", "a"], None)
    merge.add("a", [line("a", 11.0)], 5.0)
    assert merge.take(5.0, 10) == ([], 5.0 + FOLLOWING.line_s)
    assert merge.waiting("a") == 1
    assert [one.time_s for one in merge.take(5.0 + FOLLOWING.line_s, 10)[0]] == [11.0]


def test_one_source_alone_waits_for_nobody() -> None:
    merge = LogMerge(FOLLOWING)
    merge.open("a", 0.0)
    merge.add("a", [line("a", 1.0), line("a", 0.0)], 0.0)
    assert [one.time_s for one in merge.take(0.0, 10)[0]] == [1.0, 0.0]
