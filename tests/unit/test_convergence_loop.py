"""Convergence: jobs are looked at when something happened to them or their time has come, and not otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from common.model.api import JobsRequest
from common.model.job import Dependency, DependencyCondition, DesiredState, UpdatePolicy
from common.model.node import NodeStatus
from common.model.task import TaskState
from controller.core.apply import remove
from controller.core.decisions import Create, Decision, Fail, Lose
from controller.loops.convergence import ConvergenceLimits, ConvergenceLoop
from tests.builders import node
from tests.loops_rig import LoopsRig, renamed, rig, running
from tests.virtual_time import on_virtual_time
from tests.world import web


@asynccontextmanager
async def converging(limits: ConvergenceLimits | None = None) -> AsyncIterator[tuple[LoopsRig, list[Decision]]]:
    decided: list[Decision] = []
    async with rig() as world:
        loop = ConvergenceLoop(
            world.ledger,
            world.presence,
            clock=lambda: world.now_s,
            rng=world.rng,
            limits=limits or ConvergenceLimits(),
            observe=decided.append,
        )
        async with running(loop.run):
            yield world, decided


async def place(world: LoopsRig, node_id: str) -> None:
    """Give every pending task this node."""
    pending = [task for task in world.tasks() if not task.node_id]
    await world.write(*(msgspec.structs.replace(task, node_id=node_id) for task in pending))


async def test_a_new_job_gets_its_tasks() -> None:
    async with converging() as (world, decided):
        await world.up(web(replicas=3))
        await world.until(lambda: len(world.tasks()) == 3)
        assert [task.slot for task in world.tasks()] == [1, 2, 3]
        await world.at_rest()
    assert [type(decision) for decision in decided] == [Create] * 3


@on_virtual_time
async def test_a_leader_that_is_behind_gives_way_to_heartbeats_but_not_for_ever() -> None:
    behind = True
    async with rig() as world:
        loop = ConvergenceLoop(
            world.ledger, world.presence, clock=lambda: world.now_s, rng=world.rng, behind=lambda: behind
        )
        async with running(loop.run):
            await world.up(web(replicas=1))
            await asyncio.sleep(ConvergenceLimits().give_way_s - 0.1)
            assert not world.tasks()
            await asyncio.sleep(0.2)
            assert len(world.tasks()) == 1
            await world.up(web(replicas=2))
            await asyncio.sleep(0.1)
            assert len(world.tasks()) == 1
            behind = False
            await asyncio.sleep(ConvergenceLimits().look_s + 0.01)
            assert len(world.tasks()) == 2


async def test_jobs_of_the_term_before_are_looked_at_from_the_start() -> None:
    async with rig() as world:
        await world.up(web(replicas=2))
        loop = ConvergenceLoop(world.ledger, world.presence, clock=lambda: world.now_s, rng=world.rng)
        async with running(loop.run):
            await world.until(lambda: len(world.tasks()) == 2)


async def test_at_rest_nothing_is_written() -> None:
    async with converging() as (world, _decided):
        await world.up(web(replicas=3))
        await world.at_rest()
        commits = len(world.store.commits)
        world.presence.expect("n")
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(world.store.commits) == commits


async def test_a_failed_task_is_replaced_when_its_report_is_committed() -> None:
    async with converging() as (world, decided):
        await world.ready(node("n1"))
        await world.up(web(replicas=1))
        await world.until(lambda: len(world.tasks()) == 1)
        await place(world, "id-n1")
        (first,) = world.tasks()
        await world.see(first, TaskState.FAILED)
        await world.until(lambda: len(world.tasks()) == 2)
        await world.at_rest()
    assert [type(decision) for decision in decided] == [Create, Fail, Create]


async def test_tasks_of_a_node_that_is_down_are_lost_and_of_one_that_returns_kept() -> None:
    async with converging() as (world, decided):
        await world.ready(node("n1"))
        await world.up(web(replicas=2))
        await world.until(lambda: len(world.tasks()) == 2)
        await place(world, "id-n1")
        await world.at_rest()
        world.presence.judged("id-n1", NodeStatus.DOWN)
        await world.until(lambda: len(world.tasks()) == 4)
        await world.at_rest()
        assert sum(isinstance(decision, Lose) for decision in decided) == 2
        world.presence.connected("id-n1", ())
        await world.until(lambda: len(world.tasks()) == 2)
        await world.at_rest()
        assert all(task.node_id == "id-n1" and not task.lost_at_s for task in world.tasks())


@on_virtual_time
async def test_a_job_starts_when_what_it_depends_on_has_come_far_enough() -> None:
    waits = (Dependency(job="db", condition=DependencyCondition.SERVICE_STARTED),)
    async with converging() as (world, _decided):
        await world.ready(node("n1"))
        await world.up(renamed(web(), "db", replicas=1), web(replicas=1, depends_on=waits))
        await world.at_rest()
        assert world.tasks("web") == []
        (database,) = world.tasks("db")
        await world.write(msgspec.structs.replace(database, node_id="id-n1"))
        await world.see(database, TaskState.RUNNING)
        seen_s = world.now_s
        await world.until(lambda: len(world.tasks("web")) == 1)
        assert world.now_s == seen_s, "only something else that happened later made it look"


async def test_a_dependency_that_was_dropped_is_waited_for_no_more() -> None:
    waits = (Dependency(job="db", condition=DependencyCondition.SERVICE_STARTED),)
    async with converging() as (world, _decided):
        await world.up(web(replicas=1, depends_on=waits))
        await world.at_rest()
        assert world.tasks() == []
        await world.up(web(replicas=1))
        await world.until(lambda: len(world.tasks()) == 1)


@on_virtual_time
async def test_time_alone_brings_the_next_decision() -> None:
    """A task without a health check counts as good after a while; only a timer can notice."""
    async with converging() as (world, _decided):
        await world.ready(node("n1"))
        await world.up(web(replicas=1, update=UpdatePolicy(monitor_s=0.01)))
        await world.until(lambda: len(world.tasks()) == 1)
        await place(world, "id-n1")
        await world.see(world.tasks()[0], TaskState.RUNNING)
        await world.at_rest()
        assert world.job().good_version == 0
        await world.until(lambda: world.job().good_version == 1)


async def test_a_huge_job_is_created_in_portions_and_whole() -> None:
    async with converging(ConvergenceLimits(groups=10)) as (world, _decided):
        await world.up(web(replicas=35), renamed(web(), "other", replicas=2))
        await world.until(lambda: len(world.state.tasks) == 37)
        assert [len(commit) for commit in world.store.commits[1:]] == [10, 10, 10, 7]


async def test_a_removed_job_of_more_records_than_a_commit_holds_disappears() -> None:
    async with converging() as (world, _decided):
        await world.ready(node("n1"))
        await world.up(web(replicas=150))
        await world.until(lambda: len(world.tasks()) == 150)
        await place(world, "id-n1")
        for task in world.tasks():
            await world.see(task, TaskState.RUNNING)
        await world.ledger.submit(lambda state: remove(state, JobsRequest(namespace="shop", jobs=("web",))).groups)
        await world.until(lambda: all(task.desired is DesiredState.STOP for task in world.state.tasks.values()))
        for task in list(world.state.tasks.values()):
            await world.see(task, TaskState.STOPPED)
        await world.until(lambda: not world.state.jobs)
        await world.at_rest()
        assert list(world.store.values) == ["nodes/id-n1"]
