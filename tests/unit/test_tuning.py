"""The timers that an operator sets by name: each arrives where it belongs; what cannot work is refused with reasons."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from common.errors import Invalid
from controller.settings import ControllerSettings, Timers
from controller.tuning import KNOBS, tuned

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


def checked(*given: str) -> Timers:
    timers = tuned(Timers(), given)
    ControllerSettings(store="memory:", timers=timers).check()
    return timers


def test_thresholds_given_in_seconds_stay_what_they_are_in_whatever_order() -> None:
    for given in itertools.permutations(("heartbeat=2", "down=12", "unreachable=5")):
        liveness = checked(*given).liveness
        assert (liveness.period_s, liveness.unreachable_s, liveness.down_s) == (2.0, 5.0, 12.0)


def test_a_slower_heartbeat_alone_moves_no_threshold() -> None:
    liveness = checked("heartbeat=1.5").liveness
    assert (liveness.period_s, liveness.unreachable_s, liveness.down_s) == (1.5, 2.5, 5.0)


@pytest.mark.parametrize("name", KNOBS)
def test_each_changes_the_timers_and_is_documented(name: str) -> None:
    knob = KNOBS[name]
    assert tuned(Timers(), [f"{name}={knob.least:g}"]) != tuned(Timers(), [f"{name}={knob.most:g}"])
    assert f"`{name}`" in DOCS.read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["heartbeat=3"], "timers.unreachable: 2.5 s is too short: at least 1.5 heartbeats (4.5 s)"),
        (["down=1.5", "unreachable=1.5"], "timers.down: 1.5 s is too short: at least 2 heartbeats (2 s)"),
        (["down=2.5"], "timers.down: 2.5 s is not later than unreachable (2.5 s)"),
        (["acknowledge=5"], "timers.acknowledge: 5 s is not before down (5 s)"),
        (["exclusive-lost=20"], "timers.exclusive.lost_s: 20 s is too short"),
        (["hartbeat=1"], "'hartbeat=1' is not NAME=VALUE of a known name: did you mean heartbeat?"),
        (["zzz"], "there are heartbeat, unreachable, down"),
        (["down=soon"], "down: 'soon' is not a number from 0.5 to 3600"),
        (["down=nan"], "down: 'nan' is not a number"),
        (["lease=2.5"], "lease: '2.5' is not a whole number from 2 to 60"),
        (["lease=1"], "lease: '1' is not a whole number from 2 to 60"),
        (["down=6", "down=7"], "down is given twice"),
    ],
)
def test_what_cannot_work_is_refused_and_says_why(given: list[str], said: str) -> None:
    with pytest.raises(Invalid) as raised:
        checked(*given)
    assert said in str(raised.value)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(Invalid) as raised:
        tuned(Timers(), ["down=soon", "lease=0"])
    assert len(raised.value.faults) == 2


@pytest.mark.parametrize(("nodes", "period_s"), [(10, 1.0), (1_000, 1.0), (5_000, 5.0)])
def test_the_leader_gets_at_most_a_thousand_heartbeats_a_second(nodes: int, period_s: float) -> None:
    stretched = Timers().stretched(nodes)
    assert stretched.period_s == period_s
    assert nodes / stretched.period_s <= 1_000
    assert (stretched.unreachable_s, stretched.down_s) == (2.5 * period_s, 5 * period_s)
