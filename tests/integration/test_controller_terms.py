"""Two whole controllers over one store on virtual time: elections, failover, and what survives them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from common.errors import NotLeader
from common.model.api import ApplyRequest
from common.model.job import JobSpec
from common.model.node import NodeDescription, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from common.model.session import Assignments, Redirect, Registered
from common.model.task import TaskReport, TaskState
from controller.app import Controller, TermWork
from controller.core.apply import apply_specs
from controller.settings import Timers
from controller.store.interface import LeaderRecord
from controller.store.memory import MemoryDatabase, MemoryStore
from tests.dispatcher_rig import Agent, MemoryLink, description, report_of, web_spec
from tests.virtual_time import on_virtual_time


class Site:
    """Controllers and hand-spoken agents in one room."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.database = MemoryDatabase()
        self.stores: list[MemoryStore] = []
        self.controllers: list[Controller] = []
        self.aborted: list[str] = []
        self.stop = asyncio.Event()
        self._group = group
        self._sessions: list[asyncio.Task[None]] = []

    def start(self) -> Controller:
        name = f"c{len(self.controllers)}"
        store = MemoryStore(self.database)
        controller = Controller(
            store,
            identity=LeaderRecord(controller_id=name, address=f"{name}:7077"),
            timers=Timers(),
            clock=lambda: 1_000_000.0 + self.now_s(),
            boottime=self.now_s,
            rng=random.Random(name),
            abort=self.aborted.append,
        )
        self.stores.append(store)
        self.controllers.append(controller)
        self._group.create_task(controller.run(self.stop))
        return controller

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def until(self, holds: Callable[[], bool], limit_s: float = 30.0) -> None:
        begun_s = self.now_s()
        while not holds():
            assert self.now_s() - begun_s < limit_s, "it did not happen in time"
            await asyncio.sleep(0.01)

    async def leading(self, controller: Controller) -> TermWork:
        await self.until(lambda: controller.work is not None)
        assert controller.work is not None
        return controller.work

    def dial(self, controller: Controller, node_id: str = "n1") -> Agent:
        agent = Agent(_machine(node_id), MemoryLink())
        agent.serving = self._group.create_task(controller.dispatcher.serve(agent.link, node_id))
        self._sessions.append(agent.serving)
        return agent

    async def join(self, controller: Controller, node_id: str = "n1", *inventory: TaskReport) -> Agent:
        agent = self.dial(controller, node_id)
        agent.register(*inventory)
        await agent.next(Registered)
        await agent.next(Assignments)
        return agent

    async def close(self) -> None:
        self.stop.set()
        for session in self._sessions:
            session.cancel()


def _machine(node_id: str) -> NodeDescription:
    return msgspec.structs.replace(
        description(node_id),
        capacity=Resources(cpu_millis=4_000, memory_bytes=2**32),
        runtimes=(RuntimeStatus(name="docker"),),
    )


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    async with asyncio.TaskGroup() as group:
        made = Site(group)
        try:
            yield made
        finally:
            await made.close()
    assert made.aborted == []


async def up(work: TermWork, *specs: JobSpec) -> None:
    request = ApplyRequest(namespace="shop", specs=specs)
    await work.ledger.submit(lambda state: apply_specs(state, request, 1_000_000.0, random.Random(2)).groups)


@on_virtual_time
async def test_a_job_is_placed_told_to_its_node_and_seen_running() -> None:
    async with site() as here:
        controller = here.start()
        work = await here.leading(controller)
        agent = await here.join(controller)
        await up(work, web_spec())
        await agent.until(lambda: bool(agent.set))
        (task_id,) = agent.set
        agent.report(report_of(task_id, TaskState.RUNNING))
        await here.until(lambda: work.state.tasks[task_id].state is TaskState.RUNNING)
        assert work.state.tasks[task_id].node_id == "n1"


@on_virtual_time
async def test_the_follower_names_the_leader_to_agents_and_engineers() -> None:
    async with site() as here:
        leader = here.start()
        await here.leading(leader)
        follower = here.start()
        await here.until(lambda: follower.leader is not None)
        agent = here.dial(follower)
        assert (await agent.next(Redirect)).leader == "c0:7077"
        with pytest.raises(NotLeader, match="c0:7077"):
            _ = follower.api.term
        assert leader.api.term.address == "c0:7077"


@on_virtual_time
async def test_a_leader_cut_off_from_its_store_steps_down_and_the_other_goes_on_with_the_same_tasks() -> None:
    async with site() as here:
        first = here.start()
        before = await here.leading(first)
        second = here.start()
        agent = await here.join(first)
        await up(before, web_spec())
        await agent.until(lambda: bool(agent.set))
        (task_id,) = agent.set
        agent.report(report_of(task_id, TaskState.RUNNING))
        await here.until(lambda: before.state.tasks[task_id].state is TaskState.RUNNING)

        here.stores[0].reachable = False
        cut_at_s = here.now_s()
        await here.until(lambda: first.work is None)
        stepped_down_s = here.now_s() - cut_at_s
        after = await here.leading(second)
        elected_s = here.now_s() - cut_at_s
        assert stepped_down_s < elected_s, "two led at once"
        assert stepped_down_s <= 2.5
        assert elected_s <= 4.0
        assert after.epoch > before.epoch

        assert after.state.tasks[task_id].state is TaskState.RUNNING
        again = await here.join(second, "n1", report_of(task_id, TaskState.RUNNING))
        assert set(again.set) == {task_id}
        here.stores[0].reachable = True
        await asyncio.sleep(30)
        assert first.work is None


@on_virtual_time
async def test_a_new_leader_gives_nodes_time_to_come_back_before_it_replaces_anything() -> None:
    async with site() as here:
        first = here.start()
        before = await here.leading(first)
        agents = [await here.join(first, f"n{number}") for number in range(1, 4)]
        await up(before, web_spec())
        await here.until(lambda: any(task.node_id for task in before.state.tasks.values()))
        (task,) = before.state.tasks.values()
        second = here.start()
        here.database.end_term()
        after = await here.leading(second)
        begun_s = here.now_s()
        others = [agent.description.id for agent in agents if agent.description.id != task.node_id]
        beating = [await here.join(second, node_id) for node_id in others]
        sequences = itertools.count(1)

        def down() -> bool:
            sequence = next(sequences)
            for agent in beating:
                agent.beat(sequence)
            return after.presence.conditions[task.node_id].status is NodeStatus.DOWN

        await here.until(down)
        assert 5.0 <= here.now_s() - begun_s <= 5.5
        await here.until(lambda: len([one for one in after.state.tasks.values() if one.node_id in others]) == 1)


@on_virtual_time
async def test_a_clean_stop_hands_over_at_once() -> None:
    async with site() as here, asyncio.TaskGroup() as group:
        quitting = asyncio.Event()
        first = Controller(
            MemoryStore(here.database),
            identity=LeaderRecord(controller_id="quitter", address="q:1"),
            timers=Timers(),
            clock=here.now_s,
            boottime=here.now_s,
            rng=random.Random(3),
            abort=here.aborted.append,
        )
        run = group.create_task(first.run(quitting))
        await here.leading(first)
        second = here.start()
        await asyncio.sleep(1)
        asked_s = here.now_s()
        quitting.set()
        await run
        await here.leading(second)
        assert here.now_s() - asked_s < 0.1
