"""The suite bites: with one safeguard switched off, the cheapest scenario that should notice does."""

from __future__ import annotations

import pytest

from tests.sim import plays_leader
from tests.sim.record import Violation
from tests.sim.scenario import Play, play
from tests.sim.switches import SWITCHES, switched_off
from tests.sim.test_faults import SIZES

NOTICES: dict[str, tuple[Play, str]] = {
    "the fence compare of a commit": (plays_leader.frozen_with_a_commit_on_its_way, "I1"),
    "the agent's epoch check": (plays_leader.a_controller_of_the_past, "I2"),
    "the new leader's grace": (plays_leader.takeover_while_an_agent_is_away, "I6|nothing was evicted"),
    "the brake": (plays_leader.cut_from_most_agents, "nothing was evicted"),
    "commit, then act": (plays_leader.slow_commits, "I8"),
}
"""Which scenario notices what, and by which invariant."""


def test_every_switch_has_a_scenario() -> None:
    assert NOTICES.keys() == SWITCHES.keys()


@pytest.mark.parametrize("what", NOTICES)
def test_without_it_a_scenario_goes_red(what: str) -> None:
    scenario, invariant = NOTICES[what]
    with switched_off(what), pytest.raises(Violation, match=invariant):
        play(scenario, size=SIZES.get(scenario))
    play(scenario, size=SIZES.get(scenario))
