"""Clocks that jump by a day and by years: decisions wait for no moment that another clock had dated."""

from __future__ import annotations

import math

import pytest

from agent.core import health
from common.model.job import HealthCheck
from common.model.task import Health, TaskState
from controller.core.clocks import CLOCKS_DIFFER_S, since_s
from controller.core.decisions import Create, Forgive, Settle
from tests.world import World, kinds, web

DAY_S = 86_400.0


def test_a_date_of_a_wrong_clock_is_long_ago() -> None:
    assert since_s(90.0, 100.0) == 10.0
    assert since_s(100.0 + CLOCKS_DIFFER_S, 100.0) == -CLOCKS_DIFFER_S, "another controller's clock may be ahead"
    assert since_s(100.0 + DAY_S, 100.0) == math.inf


@pytest.mark.parametrize("jump_s", [-DAY_S, -2 * 365 * DAY_S])
def test_a_slot_that_failed_in_the_future_gets_its_next_task(jump_s: float) -> None:
    world = World(web(replicas=1))
    world.now_s = 1_700_000_000.0
    world.settle()
    world.see(world.task(1), TaskState.FAILED, attempt=5)
    world.decide()
    world.settle()
    world.see(world.task(1), TaskState.FAILED, attempt=5)
    assert Create not in kinds(world.decide())
    world.now_s += jump_s
    assert Create in kinds(world.decide())


@pytest.mark.parametrize("jump_s", [-DAY_S, -2 * 365 * DAY_S])
def test_a_task_that_was_seen_to_run_in_the_future_is_good(jump_s: float) -> None:
    world = World(web(replicas=1))
    world.now_s = 1_700_000_000.0
    world.decide()
    world.assign(world.task(1), "n1")
    world.see(world.task(1), TaskState.RUNNING)
    assert Settle not in kinds(world.decide())
    world.now_s += jump_s
    assert Settle in kinds(world.decide())


def test_failures_count_though_the_job_was_changed_in_the_future() -> None:
    world = World(web(replicas=1))
    world.now_s = 1_700_000_000.0
    world.settle()
    world.up(web(replicas=1, image="web:2"))
    world.settle()
    world.now_s -= DAY_S
    world.see(world.task(1), TaskState.FAILED, attempt=5)
    assert Forgive not in kinds(world.decide() + world.decide())


def test_a_container_that_started_in_the_future_still_turns_unhealthy() -> None:
    check = HealthCheck(test=("CMD", "x"), interval_s=30.0, retries=3, start_period_s=60.0)
    memory, now_s = health.begin(check, 1_700_000_000.0), 1_700_000_000.0 - DAY_S
    for _ in range(20):
        now_s += health.next_probe_s(check, memory, now_s)
        memory = health.observe(check, memory, good=False, output="no", now_s=now_s)
    assert memory.health is Health.UNHEALTHY
