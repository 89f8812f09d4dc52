"""Placement: pending tasks get nodes that fit, the others a verdict and another try when something changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from common.model.job import Affinity, DesiredState, Job
from common.model.node import Availability, NodeStatus
from common.model.resources import Resources
from common.model.task import Task, TaskState
from controller.loops.convergence import ConvergenceLoop
from controller.loops.placement import PlacementLimits, PlacementLoop
from controller.state import Erase
from tests.builders import GIB, job, job_spec, node, task, task_spec
from tests.loops_rig import LoopsRig, rig, running


@asynccontextmanager
async def placing(limits: PlacementLimits | None = None) -> AsyncIterator[tuple[LoopsRig, PlacementLoop]]:
    async with rig() as world:
        loop = PlacementLoop(
            world.ledger, world.presence, clock=lambda: world.now_s, limits=limits or PlacementLimits()
        )
        async with running(loop.run):
            yield world, loop


async def wanted(world: LoopsRig, count: int, *, cpu: float = 1, name: str = "shop/web") -> list[Task]:
    """That many pending tasks of a new job."""
    record, version = job(job_spec(name, task=task_spec(cpu=cpu), replicas=count))
    tasks = [task(record, slot) for slot in range(1, count + 1)]
    await world.write(record, version, *tasks)
    return tasks


def placed(world: LoopsRig) -> dict[str, str]:
    return {task.id: task.node_id for task in world.state.tasks.values() if task.node_id}


async def test_pending_tasks_are_spread_over_ready_nodes() -> None:
    async with placing() as (world, loop):
        await world.ready(node("n1"), node("n2"), node("n3"))
        await wanted(world, 6)
        await world.until(lambda: len(placed(world)) == 6)
        assert sorted(placed(world).values()) == sorted(["id-n1", "id-n2", "id-n3"] * 2)
        assert loop.pending == 0
        assert loop.verdicts == {}


@asynccontextmanager
async def making() -> AsyncIterator[tuple[LoopsRig, PlacementLoop]]:
    """With the loop that makes the tasks beside the one that places them, as in a controller."""
    async with placing() as (world, loop):
        converging = ConvergenceLoop(
            world.ledger, world.presence, clock=lambda: world.now_s, rng=world.rng, place=loop.newborn
        )
        async with running(converging.run):
            yield world, loop


def writes_of_tasks(world: LoopsRig) -> list[str]:
    return [
        operation.key for commit in world.store.commits for operation in commit if operation.key.startswith("tasks/")
    ]


async def test_a_new_task_is_made_with_its_node_in_one_write_and_the_rest_waits_with_a_verdict() -> None:
    async with making() as (world, loop):
        await world.ready(node("n1", cpu=2), node("n2", cpu=2))
        await world.up(job_spec("shop/web", task=task_spec(cpu=1), replicas=6))
        await world.at_rest()
        assert len(loop.verdicts) == 2
        assert sorted(placed(world).values()) == sorted(["id-n1", "id-n2"] * 2), "no node gets more than it has"
        assert len(writes_of_tasks(world)) == 6
        await world.ready(node("n3", cpu=2))
        await world.until(lambda: len(placed(world)) == 6)


async def test_while_others_wait_new_tasks_do_not_overtake_them() -> None:
    async with making() as (world, loop):
        await world.ready(node("n1", cpu=2))
        await world.up(job_spec("shop/large", task=task_spec(cpu=3)))
        await world.at_rest()
        assert len(loop.verdicts) == 1
        before = len(writes_of_tasks(world))
        await world.up(job_spec("shop/small", task=task_spec(cpu=1)))
        await world.until(lambda: len(placed(world)) == 1)
        assert len(writes_of_tasks(world)) - before == 2, "it was made, then placed beside those that wait"


async def test_what_the_term_before_left_counts_and_is_gone_on_with() -> None:
    async with rig() as world:
        await world.ready(node("n1", cpu=2))
        record, version = job(job_spec(task=task_spec(cpu=1)))
        old, new, third = task(record, 1, node_id="id-n1"), task(record, 2), task(record, 3)
        await world.write(record, version, old, new, third)
        loop = PlacementLoop(world.ledger, world.presence, clock=lambda: world.now_s)
        async with running(loop.run):
            await world.until(lambda: len(placed(world)) == 2)
            await world.at_rest()
            assert list(loop.verdicts) == [third.id]


async def test_no_node_gets_more_than_it_has_and_the_rest_learns_why() -> None:
    async with placing() as (world, loop):
        await world.ready(node("n1", cpu=2), node("n2", cpu=1))
        tasks = await wanted(world, 5)
        await world.until(lambda: len(loop.verdicts) == 2)
        assert sorted(placed(world).values()) == ["id-n1", "id-n1", "id-n2"]
        assert set(loop.verdicts) == {task.id for task in tasks} - set(placed(world))
        (verdict,) = {id(verdict): verdict for verdict in loop.verdicts.values()}.values()
        assert any(reason.resource == "cpu_millis" for reason in verdict.reasons)
        assert loop.pending == 2


async def test_unplaced_tasks_are_not_tried_again_while_nothing_changes() -> None:
    async with placing() as (world, loop):
        await world.ready(node("n1", cpu=1))
        await wanted(world, 2)
        await world.until(lambda: len(loop.verdicts) == 1)
        await world.at_rest()
        before = dict(loop.verdicts)
        for _ in range(50):
            await asyncio.sleep(0)
        assert all(loop.verdicts[task_id] is verdict for task_id, verdict in before.items())


async def test_a_node_that_joins_takes_what_had_no_place() -> None:
    async with placing() as (world, loop):
        await wanted(world, 1)
        await world.at_rest()
        assert loop.pending == 1
        await world.ready(node("n1"))
        await world.until(lambda: len(placed(world)) == 1)


async def test_a_node_that_becomes_ready_or_is_uncordoned_takes_what_had_no_place() -> None:
    async with placing() as (world, _loop):
        first, second = node("n1", cpu=1), node("n2", cpu=1, availability=Availability.CORDONED)
        await world.write(first)
        world.presence.expect(first.id)
        await world.ready(second)
        await wanted(world, 2)
        await world.at_rest()
        assert placed(world) == {}
        world.presence.connected(first.id, first.description.runtimes)
        await world.until(lambda: list(placed(world).values()) == ["id-n1"])
        await world.write(msgspec.structs.replace(second, availability=Availability.ACTIVE))
        await world.until(lambda: sorted(placed(world).values()) == ["id-n1", "id-n2"])


async def test_an_ended_task_gives_its_place_to_one_that_waits() -> None:
    async with placing() as (world, loop):
        await world.ready(node("n1", cpu=1))
        await wanted(world, 2)
        await world.until(lambda: len(loop.verdicts) == 1)
        (first_id,) = placed(world)
        await world.see(world.state.tasks[first_id], TaskState.STOPPED)
        await world.until(lambda: len(placed(world)) == 2)


async def test_a_silent_node_gets_nothing() -> None:
    async with placing() as (world, loop):
        await world.ready(node("n1"), node("n2"))
        world.presence.judged("id-n1", NodeStatus.UNREACHABLE)
        await wanted(world, 3)
        await world.until(lambda: len(placed(world)) == 3)
        assert set(placed(world).values()) == {"id-n2"}
        assert loop.verdicts == {}


async def test_what_is_wanted_no_more_is_forgotten() -> None:
    async with placing() as (world, loop):
        first, second = await wanted(world, 2)
        await world.at_rest()
        await world.ledger.submit(lambda _state: [(Erase(first),)])
        await world.write(msgspec.structs.replace(second, desired=DesiredState.STOP))
        assert loop.pending == 0
        assert loop.verdicts == {}
        await world.ready(node("n1"))
        await world.at_rest()
        assert placed(world) == {}


async def test_books_stay_right_when_a_task_leaves_together_with_its_version() -> None:
    async with placing() as (world, loop):
        await world.ready(node("n1"))
        (only,) = await wanted(world, 1, cpu=2)
        await world.until(lambda: len(placed(world)) == 1)
        assert loop.table.load_of("id-n1").reserved == Resources(cpu_millis=2_000)

        record = world.state.jobs[only.job_id]
        versions = world.state.versions_of(record.id).values()
        gone = (world.state.tasks[only.id], *versions, record)
        await world.ledger.submit(lambda _state: [tuple(Erase(one) for one in gone)])
        assert loop.table.load_of("id-n1").reserved == Resources()


async def test_the_choice_is_made_on_what_was_committed_before_it() -> None:
    """While the placement waits behind another commit, that one takes the only place."""
    async with placing() as (world, loop):
        await world.ready(node("n1", cpu=1))
        other, version = job(job_spec("shop/other", task=task_spec(cpu=1)))
        await world.write(other, version)
        world.store.commit_gate.clear()
        rival = asyncio.ensure_future(world.write(task(other, 1, node_id="id-n1")))
        waiting = asyncio.ensure_future(wanted(world, 1))
        await asyncio.sleep(0)
        world.store.commit_gate.set()
        await asyncio.gather(rival, waiting)
        await world.until(lambda: len(loop.verdicts) == 1)
        assert placed(world) == {"other-1": "id-n1"}


async def test_many_are_placed_in_portions() -> None:
    async with placing(PlacementLimits(tasks=10)) as (world, _loop):
        await world.ready(*(node(f"n{number}", cpu=64, memory_bytes=64 * GIB) for number in range(3)))
        await wanted(world, 25)
        await world.until(lambda: len(placed(world)) == 25)
        assert [len(commit) for commit in world.store.commits[-3:]] == [10, 10, 5]


async def test_nodes_where_a_slot_failed_are_avoided() -> None:
    async with placing() as (world, _loop):
        await world.ready(node("n1"), node("n2"))
        record, version = job(job_spec())
        assert isinstance(record, Job)
        slot = msgspec.structs.replace(world.state.slot_of(record.id, 1), failed_nodes=("id-n1",), failures=1)
        for round_number in range(5):
            await world.write(record, version, slot, task(record, 1, suffix=f"-{round_number}"))
        await world.until(lambda: len(placed(world)) == 5)
        assert set(placed(world).values()) == {"id-n2"}


async def test_a_job_that_must_be_beside_another_is_placed_once_that_has_a_node() -> None:
    async with placing() as (world, loop):
        await world.ready(node("n1"), node("n2"))
        rule = Affinity(job="shop/db", required=True)
        record, version = job(job_spec("shop/api", task=task_spec(affinities=[rule])))
        follower = task(record, 1)
        await world.write(record, version, follower)
        await world.at_rest()
        assert list(loop.verdicts) == [follower.id]
        (leader,) = await wanted(world, 1, name="shop/db")
        await world.until(lambda: len(placed(world)) == 2)
        assert placed(world)[follower.id] == placed(world)[leader.id]
