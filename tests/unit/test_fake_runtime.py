"""The fake plays what it was told, on the loop's time, and its machine outlives the agent."""

from __future__ import annotations

import asyncio

import pytest

from agent.runtime.fake import Behaviour, FakeEngine, FakeRuntime, Preparation
from agent.runtime.interface import ContainerIdentity, ContainerRequest
from common.errors import Invalid, NotFound, Unavailable
from common.model.job import Container
from common.model.resources import Resources


def request(command: str, task_id: str = "t1") -> ContainerRequest:
    identity = ContainerIdentity(node_id="n1", task_id=task_id, attempt=1, namespace="shop", job="web", slot=1)
    limits = Resources(memory_bytes=1000)
    return ContainerRequest(identity=identity, container=Container(command=(command,)), limits=limits)


def engine(**behaviours: Behaviour) -> FakeEngine:
    def prepare(container: Container) -> Preparation:
        error = NotFound("no such image") if container.image == "absent" else None
        return Preparation(progress=("pulling 1 of 2", "pulling 2 of 2"), error=error)

    return FakeEngine(lambda: 0.0, behave=lambda asked: behaviours[asked.container.command[0]], prepare=prepare)


async def test_a_container_ends_as_it_was_told_even_at_time_zero() -> None:
    runtime = FakeRuntime("n1", engine(dies=Behaviour(exit_after_s=0.0, exit_code=139, oom=True)))
    started = await runtime.start_container(await runtime.create(request("dies")))
    assert started.running
    ended = await runtime.wait(started.id)
    assert (ended.code, ended.signal, ended.oom) == (139, "SIGSEGV", True)
    assert ended.memory_peak_bytes == ended.memory_limit_bytes == 1000


async def test_errors_and_progress_come_as_they_were_told() -> None:
    away = Unavailable("the engine chokes")
    runtime = FakeRuntime("n1", engine(a=Behaviour(create_error=Invalid("no")), b=Behaviour(start_error=away)))
    with pytest.raises(Invalid):
        await runtime.create(request("a"))
    container_id = await runtime.create(request("b"))
    with pytest.raises(Unavailable, match="chokes"):
        await runtime.start_container(container_id)
    said: list[str] = []
    await runtime.prepare(Container(image="there"), said.append)
    assert said == ["pulling 1 of 2", "pulling 2 of 2"]
    with pytest.raises(NotFound):
        await runtime.prepare(Container(image="absent"), said.append)


async def test_the_machine_outlives_the_agent_and_can_be_ended_from_outside() -> None:
    machine = engine(runs=Behaviour())
    first = FakeRuntime("n1", machine)
    started = await first.start_container(await first.create(request("runs")))
    await first.close()
    second = FakeRuntime("n1", machine)
    (found,) = await second.list()
    assert found.running
    waiting = asyncio.create_task(second.wait(started.id))
    machine.end(machine.by_task("t1"), 3)
    assert (await waiting).code == 3


async def test_a_power_cut_leaves_nobody_knowing_how_it_ended() -> None:
    machine = engine(runs=Behaviour())
    runtime = FakeRuntime("n1", machine)
    started = await runtime.start_container(await runtime.create(request("runs")))
    machine.lose_power()
    assert (await runtime.wait(started.id)).code is None


async def test_an_engine_that_is_away_fails_every_call() -> None:
    machine = engine(runs=Behaviour())
    runtime = FakeRuntime("n1", machine)
    machine.away = "the engine was stopped"
    assert not (await runtime.status()).ready
    with pytest.raises(Unavailable, match="stopped"):
        await runtime.list()
    with pytest.raises(Unavailable):
        await runtime.create(request("runs"))


async def test_what_it_prints_reaches_followers_until_the_end() -> None:
    machine = engine(runs=Behaviour(output=("first",)))
    runtime = FakeRuntime("n1", machine)
    started = await runtime.start_container(await runtime.create(request("runs")))
    container = machine.by_task("t1")
    seen = []
    async for line in runtime.logs(started.id, follow=True):
        seen.append(line.text)
        if line.text == "first":
            asyncio.get_running_loop().call_soon(machine.print, container, "second")
        if line.text == "second":
            asyncio.get_running_loop().call_soon(machine.end, container, 0)
    assert seen == ["first", "second"]
