"""Every named fault, alone, on a small cluster."""

from __future__ import annotations

import pytest

from tests.sim import plays_leader, plays_long, plays_nodes, plays_store
from tests.sim.cluster import Size
from tests.sim.scenario import Play, play

SIZES: dict[Play, Size] = {
    plays_leader.killed_in_a_submission: Size(machines=10),
    plays_leader.cut_from_all_agents: Size(machines=5),
    plays_leader.cut_from_most_agents: Size(machines=5),
    plays_leader.takeover_while_an_agent_is_away: Size(machines=5),
    plays_leader.a_controller_of_the_past: Size(machines=3, strangers=(plays_leader.STRANGER,)),
    plays_nodes.many_die_and_return: Size(machines=50),
    plays_nodes.many_reconnect: Size(machines=500),
    plays_nodes.many_crash: Size(machines=5),
}
PLAYS: tuple[Play, ...] = (
    plays_leader.killed_idle,
    plays_leader.killed_silently,
    plays_leader.killed_while_it_commits,
    plays_leader.killed_in_a_rollout,
    plays_leader.killed_in_a_rollout_that_never_gets_healthy,
    plays_leader.killed_while_a_job_crashes,
    plays_leader.killed_in_a_submission,
    plays_leader.stopped_cleanly,
    plays_leader.frozen_and_woken_three_times,
    plays_leader.frozen_with_a_commit_on_its_way,
    plays_leader.cut_from_the_store,
    plays_leader.slow_commits,
    plays_leader.cut_from_all_agents,
    plays_leader.cut_from_most_agents,
    plays_leader.takeover_while_an_agent_is_away,
    plays_leader.a_controller_of_the_past,
    plays_leader.restored,
    plays_store.members_elect,
    plays_store.frozen,
    plays_store.restarted,
    plays_store.full,
    plays_nodes.cut_below_grace,
    plays_nodes.cut_beyond_grace,
    plays_nodes.cut_one_way,
    plays_nodes.half_open,
    plays_nodes.agents_frozen,
    plays_nodes.agents_restarted,
    plays_nodes.agents_upgraded,
    plays_nodes.agents_state_deleted,
    plays_nodes.disk_cloned,
    plays_nodes.engine_frozen,
    plays_nodes.clocks_jump,
    plays_nodes.many_die_and_return,
    plays_nodes.many_reconnect,
    plays_nodes.many_crash,
    plays_nodes.drained_while_the_leader_dies,
    plays_long.steady_work,
)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", PLAYS, ids=lambda scenario: scenario.__name__)
def test_fault(scenario: Play) -> None:
    play(scenario, size=SIZES.get(scenario))
