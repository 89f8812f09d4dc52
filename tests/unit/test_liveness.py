"""Who is judged silent, and when the judge stops believing itself."""

from __future__ import annotations

import pytest

from common.model.node import NodeStatus
from controller.core.liveness import Judgement, LivenessTimers, Seen, judge

TIMERS = LivenessTimers()
READY, DISCONNECTED, UNREACHABLE, DOWN = NodeStatus


def judged(silences: list[float], *, before: NodeStatus = READY, connected: bool = True, **doubts: object) -> Judgement:
    """The judgement of nodes n0, n1, ... that were silent for so many seconds."""
    seen = {f"n{i}": Seen(last_heard_s=100.0 - silent_s, connected=connected) for i, silent_s in enumerate(silences)}
    return judge(seen, dict.fromkeys(seen, before), 100.0, TIMERS, **doubts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("silent_s", "connected", "status"),
    [
        (0.0, True, READY),
        (2.4, True, READY),
        (0.5, False, DISCONNECTED),
        (2.5, True, UNREACHABLE),
        (2.5, False, UNREACHABLE),
        (4.9, True, UNREACHABLE),
        (5.0, True, DOWN),
    ],
)
def test_silence_is_judged_by_its_length(silent_s: float, connected: bool, status: NodeStatus) -> None:
    assert judged([silent_s, 0, 0], connected=connected).statuses["n0"] is status


def test_the_next_look_is_when_a_threshold_would_be_crossed() -> None:
    assert judged([1.0, 0.0]).wake_at_s == pytest.approx(101.5)
    assert judged([3.0, 1.0]).wake_at_s == pytest.approx(101.5)


class TestBrake:
    def test_more_than_a_third_silent_at_once_stops_replacement(self) -> None:
        judgement = judged([9.0] * 4 + [0.0] * 6)
        assert "4 of 10 nodes" in judgement.brake
        assert judgement.statuses["n0"] is UNREACHABLE

    def test_a_third_is_not_more_than_a_third(self) -> None:
        assert judged([9.0] * 3 + [0.0] * 6).statuses["n0"] is DOWN

    def test_two_nodes_of_five_are_too_few(self) -> None:
        judgement = judged([9.0] * 2 + [0.0] * 3)
        assert judgement.brake == ""
        assert judgement.statuses["n0"] is DOWN

    def test_nodes_that_were_gone_before_the_term_began_neither_brake_nor_make_the_cluster_large(self) -> None:
        silences = [9.0, 9.0, 9.0, 0.0, 0.0]
        assert judged(silences).brake
        judgement = judged(silences, strangers=frozenset({"n0", "n1"}))
        assert judgement.brake == ""
        assert judgement.statuses["n2"] is DOWN

    def test_in_a_small_cluster_only_all_together_brake(self) -> None:
        assert judged([9.0, 9.0, 0.0]).statuses["n0"] is DOWN
        assert judged([9.0, 9.0, 9.0]).brake

    def test_what_is_left_of_a_large_cluster_is_a_small_one(self) -> None:
        """Of ten nodes seven died one by one long ago: that the three others are gone is our fault, not theirs."""
        silences = [99.0] * 7 + [9.0] * 3
        seen = {f"n{i}": Seen(last_heard_s=100.0 - silent_s, connected=False) for i, silent_s in enumerate(silences)}
        before = {name: DOWN if place < 7 else READY for place, name in enumerate(seen)}
        judgement = judge(seen, before, 100.0, TIMERS)
        assert "3 of 3 nodes" in judgement.brake
        assert judgement.statuses["n9"] is UNREACHABLE

    def test_a_leader_that_was_late_itself_distrusts_itself_first(self) -> None:
        judgement = judged([99.0, 0.0, 0.0], loop_late_s=2.5)
        assert "this controller itself was 2.5 s late" in judgement.brake
        assert judgement.statuses["n0"] is UNREACHABLE
        assert judged([99.0, 0.0, 0.0], loop_late_s=2.4).statuses["n0"] is DOWN

    def test_a_release_does_not_make_a_late_leader_right(self) -> None:
        assert judged([99.0] * 4, loop_late_s=2.5, brake_released=True).statuses["n0"] is UNREACHABLE

    def test_nodes_that_were_down_before_neither_brake_nor_rise(self) -> None:
        judgement = judged([9.0] * 6 + [0.0] * 4, before=DOWN)
        assert judgement.brake == ""
        assert judgement.statuses["n0"] is DOWN
        assert judgement.statuses["n9"] is READY

    def test_the_operator_can_release_it(self) -> None:
        judgement = judged([9.0] * 10, brake_released=True)
        assert judgement.brake == ""
        assert judgement.statuses["n0"] is DOWN


def test_silence_that_the_judge_slept_through_does_not_count() -> None:
    assert judged([6.0, 0.0, 0.0], loop_late_s=4.0).statuses["n0"] is READY
