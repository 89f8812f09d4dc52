"""Many pretended nodes in one process, with a real controller: what benchmarks of size run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

import agent.crowd
import controller.app
from agent.settings import AgentSettings
from client.client import Client
from client.settings import ClientSettings
from common.dispatch import AgentLink
from common.errors import Invalid
from common.model.task import TaskState
from controller.app import Addresses
from controller.settings import ControllerSettings
from tests.builders import job_spec, task_spec

LIMIT_S = 45.0


def crowd(address: str, data_dir: Path, count: int) -> AgentSettings:
    return AgentSettings(
        controllers=(address,),
        data_dir=str(data_dir),
        name="sim",
        count=count,
        runtimes=("fake",),
        cpus=2,
        memory_bytes=1 << 30,
    )


async def test_a_crowd_is_so_many_nodes_that_run_what_they_are_given(tmp_path: Path) -> None:
    settings = ControllerSettings(store="memory:", grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0")
    listening: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        group.create_task(controller.app.serve(settings, ready=listening.set_result, stop=stop))
        address = (await listening).grpc
        group.create_task(agent.crowd.serve(crowd(address, tmp_path / "none", 3), stop=stop))
        async with Client(ClientSettings(controllers=(address,))) as client:
            await client.apply("shop", [job_spec("shop/a", replicas=6, task=task_spec(max_per_node=2))])
            async for details in client.watch("shop"):
                runs = [view.node for one in details for view in one.tasks if view.state is TaskState.RUNNING]
                if len(runs) == 6:
                    break
        stop.set()
    assert sorted(runs) == ["sim-1", "sim-1", "sim-2", "sim-2", "sim-3", "sim-3"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("count", "runtimes"), [(2, ("docker",)), (2, ("fake", "process")), (0, ("fake",))])
def test_only_what_can_pretend_is_many(count: int, runtimes: tuple[str, ...]) -> None:
    settings = AgentSettings(controllers=("127.0.0.1:7077",), data_dir="d", name="n", count=count, runtimes=runtimes)
    with pytest.raises(Invalid, match="count"):
        settings.check()


class SlowDialer:
    """Connects when it is told to; remembers how many dialled at once."""

    def __init__(self) -> None:
        self.dialling, self.most = 0, 0
        self.connects, self.two_dial = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[AgentLink]:
        self.dialling += 1
        self.most = max(self.most, self.dialling)
        if self.dialling == 2:
            self.two_dial.set()
        await self.connects.wait()
        self.dialling -= 1
        yield Mock(name=address)


async def test_a_crowd_dials_a_few_at_once_and_all_stay_connected() -> None:
    dialer, stay, connected = SlowDialer(), asyncio.Event(), asyncio.Semaphore(0)
    in_turn = agent.crowd.InTurn(dialer, asyncio.Semaphore(2))

    async def one() -> None:
        async with in_turn.dial("c:1"):
            connected.release()
            await stay.wait()

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(one())
        await dialer.two_dial.wait()
        dialer.connects.set()
        for _ in range(5):
            await connected.acquire()
        stay.set()
    assert dialer.most == 2
