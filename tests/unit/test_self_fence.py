"""Exclusive tasks on one node: when they may start, when they must stop, and what a returning agent does first."""

from __future__ import annotations

import asyncio
import math

import msgspec
import pytest

from agent.core import self_fence
from agent.core.environment import identity_environment
from agent.core.self_fence import FenceMemory
from agent.guard.interface import HeldContainer
from common.model.epoch import Epoch
from common.model.session import Assignment, HeartbeatAck
from common.model.task import TaskState
from tests.agent_builders import assignment, restart, stopped
from tests.agent_rig import Machine, orders
from tests.virtual_time import on_virtual_time

AFTER_S = 15.0


def alone(task_id: str = "t1", **task: object) -> Assignment:
    return msgspec.structs.replace(assignment(task_id, **task), fence_after_s=AFTER_S, fencing_token=7)


def test_nothing_is_permitted_before_the_first_acknowledgement() -> None:
    assert not self_fence.may_start(FenceMemory(), AFTER_S, 0.0)
    memory = self_fence.acknowledge(FenceMemory(), 100.0, 101.0).memory
    assert self_fence.may_start(memory, AFTER_S, 114.9)
    assert not self_fence.may_start(memory, AFTER_S, 115.0), "it counts from the sending"


def test_each_task_has_its_own_time() -> None:
    memory = self_fence.acknowledge(FenceMemory(), 100.0, 100.0).memory
    for task_id, after_s in (("short", 5.0), ("long", 50.0)):
        memory = self_fence.watch(memory, task_id, after_s, 100.0).memory
    look = self_fence.look(memory, 105.0)
    assert look.lapsed == ("short",)
    assert self_fence.next_look_s(look.memory) == 150.0
    assert self_fence.look(look.memory, 149.9).lapsed == ()


def test_an_older_acknowledgement_takes_nothing_away() -> None:
    memory = self_fence.acknowledge(FenceMemory(), 100.0, 100.0).memory
    assert self_fence.acknowledge(memory, 90.0, 101.0).memory.acknowledged_s == 100.0


def test_a_task_taken_up_without_any_acknowledgement_known_has_lapsed() -> None:
    look = self_fence.watch(FenceMemory(), "t", AFTER_S, 5.0)
    assert look.lapsed == ("t",)
    assert look.memory.acknowledged_s == -math.inf


def test_the_token_is_told_to_exclusive_tasks_only() -> None:
    assert identity_environment(alone(), "n1", "10.0.0.1")["PODIUM_FENCING_TOKEN"] == "7"
    assert "PODIUM_FENCING_TOKEN" not in identity_environment(assignment("t2"), "n1", "10.0.0.1")


class Notebook:
    """A guard that notes what it is told, and remembers across agents."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.acknowledged = -math.inf
        self.held: dict[str, HeldContainer] = {}

    def acknowledged_s(self) -> float:
        return self.acknowledged

    async def begin(self, task_ids: object) -> None: ...

    async def hold(self, container: HeldContainer, acknowledged_s: float) -> None:
        assert not self._machine.engine.containers[container.container_id].started, "before it starts"
        self.held[container.task_id] = container
        self.extend(acknowledged_s)

    def release(self, task_id: str) -> None:
        self.held.pop(task_id, None)

    def extend(self, acknowledged_s: float) -> None:
        self.acknowledged = acknowledged_s

    async def close(self) -> None: ...


class Node:
    """A machine with a guard."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.guard = self.machine.guard = Notebook(self.machine)
        self.controller = self.machine.controller

    def running(self, task_id: str = "t1") -> bool:
        return any(one.running for one in self.machine.engine.containers.values() if one.identity.task_id == task_id)


@on_virtual_time
async def test_it_is_held_before_it_starts_and_starts_with_the_first_acknowledgement() -> None:
    node = Node()
    node.controller.acknowledges_beats = False
    node.controller.first = orders(alone())
    async with node.machine.running() as controller:
        await controller.until_state("t1", TaskState.STARTING)
        assert not node.running()
        controller.acknowledges_beats = True
        await controller.until_state("t1", TaskState.RUNNING)
        assert node.guard.held["t1"].fence_after_s == AFTER_S


@on_virtual_time
async def test_without_acknowledgements_it_is_stopped_for_good_and_says_why() -> None:
    node = Node()
    node.controller.first = orders(alone())
    async with node.machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        controller.acknowledges_beats = False
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await node.machine.engine.by_task("t1").ended.wait()
        assert AFTER_S - 1.1 <= loop.time() - begun_s <= AFTER_S + 0.6
        controller.acknowledges_beats = True
        status = await controller.until_state("t1", TaskState.STOPPED)
        assert "exclusive" in status.message
        await controller.beats(3)
        assert not node.running()
        assert node.guard.held == {}


@on_virtual_time
async def test_an_ordinary_task_goes_on_without_any_controller() -> None:
    node = Node()
    node.controller.first = orders(assignment("t1"))
    async with node.machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        controller.acknowledges_beats = False
        await asyncio.sleep(10 * AFTER_S)
        assert node.running()


@on_virtual_time
async def test_one_that_waits_for_its_permission_and_is_stopped_never_starts() -> None:
    node = Node()
    node.controller.acknowledges_beats = False
    node.controller.first = orders(alone())
    async with node.machine.running() as controller:
        await controller.until_state("t1", TaskState.STARTING)
        (stop,) = orders(stopped(alone()))
        controller.say(msgspec.structs.replace(stop, complete=False, sequence=2))
        controller.acknowledges_beats = True
        controller.say(HeartbeatAck(sequence=10_000, next_period_s=1.0))
        await controller.until_state("t1", TaskState.STOPPED)
        assert not any(one.started for one in node.machine.engine.containers.values())


@pytest.mark.parametrize(("away_s", "kept"), [(5.0, True), (AFTER_S + 1.0, False)])
@on_virtual_time
async def test_a_returning_agent_stops_first_what_it_was_not_allowed_to_keep(away_s: float, kept: bool) -> None:
    node = Node()
    node.controller.first = orders(alone())
    async with node.machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
    assert node.running()
    await asyncio.sleep(away_s)
    node.controller.away.add("c1:1")  # nobody to ask: it has to know by itself
    async with node.machine.running():
        await asyncio.sleep(1.0)
        assert node.running() is kept


@on_virtual_time
async def test_what_ended_while_nothing_was_permitted_is_not_restarted_and_counts_as_stopped() -> None:
    """As when the machine slept, and the guard woke up first."""
    node = Node()
    node.controller.first = orders(alone(restart=restart("none")))
    async with node.machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        node.machine.slept_s = AFTER_S
        node.machine.engine.end(node.machine.engine.by_task("t1"), 137)
        await controller.until_state("t1", TaskState.STOPPED)


@on_virtual_time
async def test_a_restored_cluster_gives_no_permission_for_what_ran_before() -> None:
    node = Node()
    node.controller.first = orders(alone())
    async with node.machine.running() as controller:
        await controller.until_state("t1", TaskState.RUNNING)
        controller.epoch = Epoch(generation=controller.epoch.generation + 1, term=1)
        status = await controller.until_state("t1", TaskState.STOPPED)
        assert "restored" in status.message
        assert not node.running()
