"""The brake over a whole controller on virtual time: it shows wherever people look, and a release is bounded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.model.api import BrakeReleased, ClusterRequest, ReleaseBrake
from common.model.node import NodeStatus
from common.model.resources import Usage
from controller.api.cluster import ClusterService
from controller.app import Controller, TermWork
from controller.settings import Timers
from controller.state import Write
from controller.store.interface import LeaderRecord
from controller.store.memory import MemoryDatabase, MemoryStore
from tests.builders import job, job_spec, node, task
from tests.virtual_time import on_virtual_time

NAMES = ("n1", "n2", "n3")


@asynccontextmanager
async def leader(database: MemoryDatabase) -> AsyncIterator[tuple[Controller, TermWork]]:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    controller = Controller(
        MemoryStore(database),
        identity=LeaderRecord(controller_id="c", address="c:7077"),
        timers=Timers(),
        clock=lambda: 1_000_000.0 + loop.time(),
        boottime=loop.time,
        rng=random.Random(1),
        abort=lambda reason: None,
    )
    running = asyncio.create_task(controller.run(stop))
    while controller.work is None:
        await controller.role_changed.wait()
        controller.role_changed.clear()
    yield controller, controller.work
    stop.set()
    await running


async def joined(work: TermWork) -> None:
    """Nodes that each run a task: about those that run nothing nobody need worry."""
    nodes = [node(name) for name in NAMES]
    web, version = job(job_spec(replicas=len(nodes)))
    tasks = [task(web, slot, node_id=each.id) for slot, each in enumerate(nodes, 1)]
    await work.ledger.submit(lambda _state: [tuple(Write(one) for one in (*nodes, web, version, *tasks))])
    for each in nodes:
        work.presence.connected(each.id, ())


def statuses(work: TermWork) -> set[NodeStatus]:
    return {condition.status for condition in work.presence.conditions.values()}


async def release(controller: Controller) -> BrakeReleased:
    return await ClusterService(controller.api).release_brake(ReleaseBrake())


@on_virtual_time
async def test_a_mass_silence_shows_everywhere_and_replaces_nothing_until_it_is_released() -> None:
    async with leader(MemoryDatabase()) as (controller, work):
        assert await controller.ready()["brake"]() == "released"
        await joined(work)
        await asyncio.sleep(60.0)
        assert statuses(work) == {NodeStatus.UNREACHABLE}
        assert "podium_brake 1.0" in controller.metrics.exposition().decode()
        assert (await controller.ready()["brake"]()).startswith("HOLDS: 3 of 3 nodes fell silent together")
        view = await ClusterService(controller.api).status(ClusterRequest(quick=True))
        assert view.brake
        assert "3 of 3 nodes" in view.brake_reason

        released = await release(controller)
        assert released.nodes == NAMES
        await asyncio.sleep(1.0)
        assert statuses(work) == {NodeStatus.DOWN}
        assert "podium_brake 0.0" in controller.metrics.exposition().decode()
        kinds = [event.kind for event in work.events.since(0.0) if event.kind.startswith("brake.")]
        assert kinds == ["brake.engaged", "brake.released", "brake.cleared"]


@on_virtual_time
async def test_a_release_does_not_outlive_the_silence_it_was_for() -> None:
    async with leader(MemoryDatabase()) as (controller, work):
        await joined(work)
        await asyncio.sleep(10.0)
        await release(controller)
        for name in NAMES:
            work.presence.heard(f"id-{name}", Usage(), ())
        await asyncio.sleep(60.0)
        assert statuses(work) == {NodeStatus.UNREACHABLE}, "they fell silent anew, and it brakes anew"
        assert (await release(controller)).held


@on_virtual_time
async def test_the_next_leader_gives_every_node_its_grace_and_judges_for_itself() -> None:
    database = MemoryDatabase()
    async with leader(database) as (controller, work):
        await joined(work)
        await asyncio.sleep(10.0)
        await release(controller)
    async with leader(database) as (_, work):
        await asyncio.sleep(2.0)
        assert statuses(work) == {NodeStatus.DISCONNECTED}
        for name in NAMES:
            work.presence.connected(f"id-{name}", ())
        await asyncio.sleep(60.0)
        assert statuses(work) == {NodeStatus.UNREACHABLE}, "a release dies with its term"
        assert work.presence.brake
