"""What a controller counts: what it is told, and what its state says when it is scraped."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from common.model.job import DesiredState, Job
from common.model.node import NodeStatus
from common.model.task import TaskState
from controller.core.decisions import Fail, Lose, Settle
from controller.metrics import Census, Metrics
from controller.state import Erase
from tests.builders import job, job_spec, node, task
from tests.loops_rig import LoopsRig, rig

TERM_GAUGES = {"podium_nodes", "podium_tasks", "podium_jobs", "podium_agent_sessions", "podium_pending_tasks"}


def scraped(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Values by name and label values."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def census(world: LoopsRig) -> Census:
    made = Census(
        world.state,
        world.presence,
        clock=lambda: world.now_s,
        sessions=lambda: 2,
        pending=lambda: 3,
        survives=lambda: True,
    )
    world.ledger.subscribe(made.committed)
    world.presence.subscribe(made.condition_changed)
    return made


async def test_a_follower_shows_no_numbers_of_a_cluster_it_does_not_know() -> None:
    metrics = Metrics("1.2.3", lambda: 0.5)
    values = scraped(metrics)
    assert values["podium_leader",] == 0
    assert values["podium_loop_lag_seconds",] == 0.5
    assert values["podium_build_info", "1.2.3"] == 1
    assert TERM_GAUGES.isdisjoint(name for name, *_ in values)


async def test_a_term_shows_its_cluster_and_takes_it_away_when_it_ends() -> None:
    metrics = Metrics("", lambda: 0.0)
    async with rig() as world:
        metrics.term_begins(7, census(world))
        await world.ready(node("n1"))
        values = scraped(metrics)
        assert values["podium_leader",] == 1
        assert values["podium_leader_transitions_total",] == 1
        assert values["podium_epoch_term",] == 7
        assert values["podium_nodes", "ready"] == 1
        assert values["podium_nodes", "down"] == 0
        assert values["podium_agent_sessions",] == 2
        assert values["podium_pending_tasks",] == 3
        assert values["podium_brake",] == 0
        world.presence.brake = "too many"
        assert scraped(metrics)["podium_brake",] == 1
    metrics.term_ends()
    assert scraped(metrics)["podium_leader",] == 0
    assert TERM_GAUGES.isdisjoint(name for name, *_ in scraped(metrics))


async def test_a_scrape_looks_at_so_many_tasks_and_the_next_one_at_the_others() -> None:
    async with rig() as world:
        records = [record for name in ("shop/a", "shop/b", "shop/c") for record in job(job_spec(name=name))]
        await world.write(*records, *(task(record, 1) for record in records if isinstance(record, Job)))
        made = Census(
            world.state,
            world.presence,
            clock=lambda: world.now_s,
            sessions=lambda: 0,
            pending=lambda: 0,
            survives=lambda: None,
            tasks_per_scrape=2,
        )
        assert [sum(made.jobs().values()) for _ in range(3)] == [2, 3, 3]


async def test_tasks_and_jobs_are_counted_as_they_change() -> None:
    metrics = Metrics("", lambda: 0.0)
    async with rig() as world:
        record, version = job(job_spec(replicas=2))
        await world.ready(node("n1"))
        await world.write(record, version, task(record, 1, node_id="id-n1"))
        metrics.term_begins(1, census(world))
        values = scraped(metrics)
        assert values["podium_tasks", "running"] == 1
        assert values["podium_jobs", "progressing"] == 1

        second = task(record, 2, node_id="id-n1", state=TaskState.STARTING)
        await world.write(second)
        assert scraped(metrics)["podium_tasks", "starting"] == 1
        await world.see(second, TaskState.RUNNING)
        values = scraped(metrics)
        assert (values["podium_tasks", "starting"], values["podium_tasks", "running"]) == (0, 2)

        await world.write(msgspec.structs.replace(record, desired=DesiredState.STOP))
        assert scraped(metrics)["podium_jobs", "stopped"] == 1
        everything = tuple(Erase(one) for one in world.state.records() if one != node("n1"))
        await world.ledger.submit(lambda _state: [everything])
        values = scraped(metrics)
        assert sum(value for (name, *_), value in values.items() if name in ("podium_tasks", "podium_jobs")) == 0


async def test_a_jobs_status_follows_the_nodes_it_runs_on() -> None:
    metrics = Metrics("", lambda: 0.0)
    async with rig() as world:
        record, version = job(job_spec(replicas=1))
        await world.ready(node("n1"))
        await world.write(record, version, task(record, 1, node_id="id-n1"))
        metrics.term_begins(1, census(world))
        assert scraped(metrics)["podium_jobs", "running"] == 1
        world.presence.judged("id-n1", NodeStatus.UNREACHABLE)
        assert scraped(metrics)["podium_jobs", "running"] == 0


async def test_what_the_rooms_report_is_counted() -> None:
    metrics = Metrics("", lambda: 0.0)
    record, _version = job()
    lost, failed = task(record, 1, node_id="n"), task(record, 1, node_id="n", state=TaskState.REJECTED)
    metrics.committed(0.004, 12)
    metrics.placed(5, 0.001)
    metrics.heard(-0.5)
    metrics.node_failed("n")
    async with rig() as world:
        metrics.decided(Lose(task=lost, reason="its node is down"))
        metrics.decided(Fail(task=failed, slot=world.state.slot_of(record.id, 1), reason="no such image"))
        metrics.decided(Settle(version=1))
    values = scraped(metrics)
    assert values["podium_store_commits_total",] == 1
    assert values["podium_store_operations_total",] == 12
    assert values["podium_store_commit_seconds_count",] == 1
    assert values["podium_placements_total",] == 5
    assert values["podium_schedule_seconds_count",] == 1
    assert values["podium_heartbeats_total",] == 1
    assert values["podium_heartbeat_lateness_seconds_sum",] == 0
    assert values["podium_node_failures_total",] == 1
    assert values["podium_tasks_replaced_total", "node-down"] == 1
    assert values["podium_tasks_replaced_total", "rejected"] == 1
