"""How many replicas a job should have: formula, bounds, what is not known, pace, stabilisation, schedule and sleep."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from common.model.autoscale import Autoscale, Pace, Query, ScheduledReplicas
from common.model.job import DesiredState
from common.model.rollout import Rollout, RolloutPhase
from controller.core.autoscale import scaled, with_replicas
from controller.core.load import Answer, Traffic
from tests.scaling import NOW_S, QUIET, UNKNOWN, Follower, cpu, scaled_job

BY_CPU = Autoscale(least=2, most=10, cpu_percent=70)
FREE = Pace(percent=10_000)
"""No pace at all."""


def test_load_above_the_target_adds_what_the_formula_says() -> None:
    web = Follower(BY_CPU, replicas=2)
    assert web.look(cpu(1_400, 1_400)) == 4
    assert web.job.scaling.reason == "cpu is 140 % of the reservation, 70 % is wanted: 4 replicas"


@pytest.mark.parametrize("millis", [640, 700, 765])
def test_load_near_the_target_moves_nothing(millis: float) -> None:
    assert Follower(BY_CPU, replicas=4).look(cpu(*[millis] * 4)) == 4


def test_the_greatest_of_several_metrics_counts() -> None:
    both = replace(BY_CPU, requests_per_second=100)
    assert Follower(both, replicas=2).look(cpu(700, 700), traffic=Traffic(per_second=390)) == 4
    assert Follower(both, replicas=2).look(cpu(1_750, 1_750), traffic=Traffic(per_second=150)) == 5


def test_it_never_leaves_its_bounds() -> None:
    web = Follower(replace(BY_CPU, up=FREE, down=FREE), replicas=5)
    assert web.look(cpu(*[9_000] * 5)) == 10
    assert "65 is beyond its bounds of 2 to 10" in web.texts
    assert web.look(cpu(*[0] * 10)) == 2


def test_it_grows_at_its_pace() -> None:
    web = Follower(replace(BY_CPU, most=1_000), replicas=10)
    assert web.look(cpu(*[70_000] * 10)) == 20
    assert "at most 4 or 100 % are added in 15 s: 1000 must wait" in web.texts
    assert web.look(cpu(*[70_000] * 20), after_s=5) == 20  # the period is not over
    assert web.look(cpu(*[70_000] * 20), after_s=11) == 40


def test_it_shrinks_only_when_nothing_within_the_window_asked_for_more() -> None:
    web = Follower(BY_CPU, replicas=6)
    for _ in range(20):
        assert web.look(cpu(*[100] * 6)) == 6
    assert "2 must have been asked for throughout 300 s" in web.texts
    assert web.look(cpu(*[100] * 6)) == 2


def test_a_new_leader_shrinks_nothing_before_it_has_seen_a_whole_window() -> None:
    web = Follower(BY_CPU, replicas=6)
    for _ in range(19):
        web.look(cpu(*[100] * 6))
    web.another_leader()
    assert [web.look(cpu(*[100] * 6)) for _ in range(20)] == [6] * 20
    assert web.look(cpu(*[100] * 6)) == 2


def test_a_new_leader_keeps_the_pace_of_the_one_before() -> None:
    web = Follower(replace(BY_CPU, most=100), replicas=10)
    assert web.look(cpu(*[7_000] * 10)) == 20
    web.another_leader()
    assert web.look(cpu(*[7_000] * 20), after_s=5) == 20


def test_a_number_set_by_hand_stands_for_a_window() -> None:
    web = Follower(BY_CPU, replicas=2)
    web.look(cpu(100, 100), after_s=400)
    web.job = replace(web.job, replicas=8)
    assert web.look(cpu(*[100] * 8)) == 8
    assert [web.look(cpu(*[100] * 8)) for _ in range(19)][-1] == 8
    assert web.look(cpu(*[100] * 8)) == 2


# --- what is not known


def test_tasks_without_a_figure_count_as_idle_when_more_are_asked_for() -> None:
    eager = replace(BY_CPU, down=FREE)
    assert Follower(eager, replicas=3).look(cpu(1_400)) == 3  # over the target, and only 2 of 3 at it: no change
    assert Follower(eager, replicas=3).look(cpu(700)) == 3
    assert Follower(BY_CPU, replicas=3).look(cpu(2_800, 1_400)) == 6


def test_tasks_without_a_figure_count_as_busy_when_fewer_are_asked_for() -> None:
    web = Follower(replace(BY_CPU, down=FREE), replicas=4)
    assert web.look(cpu(70, 70)) == 3
    assert "2 of 4 tasks are not known" in web.texts[0]


def test_a_metric_that_disappears_changes_nothing_and_says_so() -> None:
    queue = Autoscale(least=1, most=10, query=Query(prometheus="q", target=10), down=FREE)
    web = Follower(queue, replicas=5)
    gone = Answer(problem="Prometheus did not answer within 5 s")
    assert [web.look(answer=gone) for _ in range(30)] == [5] * 30
    assert web.texts == ("query: Prometheus did not answer within 5 s",)


def test_while_a_metric_is_not_known_others_only_make_it_larger() -> None:
    both = replace(BY_CPU, requests_per_second=100, down=FREE)
    web = Follower(both, replicas=4)
    assert web.look(cpu(*[70] * 4), traffic=UNKNOWN) == 4
    assert "it is not made smaller while requests is not known" in web.texts
    assert web.look(cpu(*[1_400] * 4), traffic=UNKNOWN) == 8


def test_requests_of_some_nodes_that_are_too_many_already_are_enough_to_know() -> None:
    web = Follower(Autoscale(most=10, requests_per_second=10), replicas=1)
    assert web.look(traffic=replace(UNKNOWN, per_second=35)) == 4


def test_a_query_counts_for_each_replica() -> None:
    web = Follower(Autoscale(most=10, query=Query(prometheus="q", target=10)), replicas=2)
    assert web.look(answer=Answer(value=48)) == 5


# --- beside rollouts


def test_a_rollout_may_grow_and_is_not_made_smaller() -> None:
    web = Follower(replace(BY_CPU, down=FREE), replicas=4)
    going = Rollout(version=1, phase=RolloutPhase.MOVING, advanced_at_s=NOW_S)
    web.job = replace(web.job, rollout=going)
    assert web.look(cpu(*[10] * 4)) == 4
    assert web.texts[-1].startswith("a rollout is under way")
    assert web.look(cpu(*[1_400] * 4)) == 8
    stuck = replace(web.job, rollout=replace(going, advanced_at_s=web.now_s - 120))
    paused = replace(web.job, paused="somebody asked for it")
    for other in (stuck, paused):
        web.job, web.memory = other, None
        assert web.look(cpu(*[10] * 8)) < 8


def test_a_stopped_job_is_left_alone() -> None:
    job, spec = scaled_job(BY_CPU, replicas=2)
    assert scaled(job, spec)
    assert not scaled(replace(job, desired=DesiredState.STOP), spec)
    assert not scaled(replace(job, autoscale=None), spec)


# --- sleep


def test_it_sleeps_when_nobody_came_for_the_whole_window() -> None:
    web = Follower(Autoscale(least=0, most=3, down=Pace(stabilise_s=60)), replicas=1)
    assert [web.look(traffic=QUIET) for _ in range(4)] == [1, 1, 1, 1]
    assert web.look(traffic=Traffic(per_second=0.1)) == 1
    assert [web.look(traffic=QUIET) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert web.texts == ("it sleeps: the next connection wakes it",)


def test_an_open_connection_keeps_it_awake() -> None:
    web = Follower(Autoscale(least=0, most=3, down=FREE), replicas=1)
    assert web.look(traffic=Traffic(open=1)) == 1
    assert web.look(traffic=QUIET) == 0


def test_traffic_that_is_not_known_keeps_it_awake() -> None:
    web = Follower(Autoscale(least=0, most=3, down=FREE), replicas=1)
    assert web.look(traffic=UNKNOWN) == 1


def test_load_that_is_not_known_keeps_it_awake() -> None:
    web = Follower(Autoscale(least=0, most=3, cpu_percent=70, down=FREE), replicas=2)
    assert web.look(traffic=QUIET) == 2
    assert web.look(cpu(0, 0), traffic=QUIET) == 0


def test_a_query_wakes_and_keeps_awake() -> None:
    queue = Autoscale(least=0, most=5, query=Query(prometheus="q", target=10), down=FREE)
    web = Follower(queue, replicas=0)
    assert web.look(answer=Answer(value=0)) == 0
    assert web.look(answer=Answer(value=31)) == 4
    assert web.look(answer=Answer(value=1), traffic=QUIET) == 1
    assert web.look(answer=Answer(value=0), traffic=QUIET) == 0


def test_one_that_may_not_sleep_any_more_is_brought_back() -> None:
    assert Follower(BY_CPU, replicas=0).look() == 2


# --- schedule

NIGHT = ScheduledReplicas(at="0 20 * * *", replicas=0)
DAY = ScheduledReplicas(at="0 7 * * *", replicas=3)


def at(hour: int, minute: int = 0, day: int = 10) -> float:
    return datetime(2030, 1, day, hour, minute, tzinfo=UTC).timestamp()


def calendar(*entries: ScheduledReplicas, now_s: float, replicas: int = 2, **fields: object) -> Follower:
    web = Follower(replace(Autoscale(most=10, schedule=entries), **fields), replicas=replicas, now_s=now_s)
    web.job = replace(web.job, scaling=replace(web.job.scaling, schedule_from_s=now_s))
    return web


def test_a_schedule_puts_it_to_sleep_and_brings_it_back() -> None:
    web = calendar(NIGHT, DAY, now_s=at(19, 59))
    assert web.look(after_s=30) == 2
    assert web.outlook is not None
    assert web.outlook.wake_at_s == at(20)
    assert web.look(after_s=30) == 0
    assert web.job.scaling.reason == "the schedule says 0 from 2030-01-10 20:00 UTC on"
    assert web.look(after_s=3600) == 0
    assert web.look(after_s=10 * 3600) == 3


def test_what_was_due_before_the_schedule_was_given_is_not_its_business() -> None:
    assert calendar(NIGHT, now_s=at(21)).look() == 2


def test_what_was_due_while_nobody_led_is_carried_out_once() -> None:
    web = calendar(NIGHT, DAY, now_s=at(19))
    assert web.look(after_s=2 * 3600) == 0
    written = web.job
    web.another_leader()
    web.look()
    assert web.job is written


def test_by_day_the_load_moves_it_above_the_schedule() -> None:
    web = calendar(NIGHT, DAY, now_s=at(6, 59), cpu_percent=70, down=FREE)
    assert web.look(cpu(70, 70), after_s=61) == 3
    assert web.look(cpu(1_400, 1_400, 1_400)) == 6
    assert web.look(cpu(*[10] * 6)) == 3


def test_woken_at_night_it_stays_while_it_is_used() -> None:
    web = calendar(NIGHT, DAY, now_s=at(19, 59), down=FREE)
    assert web.look(after_s=60) == 0
    web.job = with_replicas(web.job, 1, "a connection waits", web.now_s)
    assert web.look(traffic=Traffic(open=1)) == 1
    assert web.look(traffic=QUIET) == 0


def test_the_schedule_goes_by_the_clocks_of_its_zone() -> None:
    web = calendar(NIGHT, now_s=at(18, 59), timezone="Europe/Berlin")
    assert web.look(after_s=61) == 0


def test_a_clock_that_was_years_ahead_does_not_hold_the_schedule_up() -> None:
    web = calendar(NIGHT, now_s=at(19))
    web.job = replace(web.job, scaling=replace(web.job.scaling, taken_s=NOW_S * 2, floor=5))
    assert web.look() == 0  # as yesterday's entry has it
