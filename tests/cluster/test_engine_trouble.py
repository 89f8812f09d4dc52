"""A node whose Docker Engine is stopped, killed, frozen or restarted: it says so, loses nothing, and goes on by itself.

The engine is the test's own, on a machine made of namespaces; the second node runs a fake one that is never in trouble.
"""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.runtime.docker import DockerRuntime
from agent.runtime.interface import ContainerIdentity, ContainerRequest
from common.errors import NotFound
from common.model.api import JobDetail
from common.model.job import Constraint, ConstraintOperator, Container, JobSpec, Placement, TaskSpec
from common.model.node import NodeStatus
from tests.cluster.beside import beside, nothing
from tests.cluster.engine import OwnEngine
from tests.cluster.machine import Machine, require_machines, until
from tests.cluster.processes import Cluster, cluster, healthy, live
from tests.docker_images import TEST_IMAGE, ensure_image, require_docker

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

BESIDE = "long silences"
OWN = Constraint(attribute="node.labels.engine", operator=ConstraintOperator.EQUAL, value="own")
HERE = Placement(constraints=(OWN,))
FREEZE_S = 60.0
SLEEP = ("sh", "-c", "trap 'exit 0' TERM; sleep 86400 & wait")
"""Ends when it is told to; the engine stops all containers before it stops itself."""


@asynccontextmanager
async def own_engine(directory: Path, *, live_restore: bool = False) -> AsyncIterator[tuple[OwnEngine, Machine]]:
    """An engine with the test's image, on a machine all of whose processes are killed at its end."""
    require_machines()
    require_docker()
    (directory / "machine").mkdir()
    machine = Machine("engine", directory / "machine")
    engine = OwnEngine(machine, live_restore=live_restore)

    def begin() -> None:
        machine.boot()
        engine.start()
        engine.load(ensure_image())

    def end() -> None:
        try:
            engine.remove_all()
            assert _processes(machine) == []
        finally:
            machine.die()

    try:
        await asyncio.to_thread(begin)
        yield engine, machine
    finally:
        await asyncio.to_thread(end)


@asynccontextmanager
async def one_engine(directory: Path, *, live_restore: bool) -> AsyncIterator[tuple[Cluster, OwnEngine, Machine]]:
    """Two nodes: n1 on an engine of its own, n2 without any."""
    below = directory / "cluster"  # what runs on the machine does not name it, and is not ended with the cluster
    below.mkdir()
    async with (
        own_engine(directory, live_restore=live_restore) as (engine, machine),
        cluster(below, f"sqlite://{below}/controller.db", "docker", []) as made,
    ):
        made.add_agent("n1", "127.0.0.1", "--docker-host", engine.host, "--labels", "engine=own").start()
        made.add_agent("n2", "127.0.0.2", "--runtime", "fake").start()
        await made.until_ready(2)
        yield made, engine, machine


def spec(name: str, replicas: int, placement: Placement = HERE) -> JobSpec:
    task = TaskSpec(container=Container(image=TEST_IMAGE, command=SLEEP), placement=placement)
    return JobSpec(namespace="test", name=name, replicas=replicas, task=task)


async def until_healthy(made: Cluster, name: str, count: int) -> JobDetail:
    found = await made.until("test", lambda all_: any(d.view.job.name == name and healthy(d, count) for d in all_))
    return next(detail for detail in found if detail.view.job.name == name)


async def until_degraded(made: Cluster, *, degraded: bool = True) -> str:
    """What `podium nodes` has beside the status of n1, which stays ready."""
    views = await made.until_nodes(
        lambda nodes: all(bool(n.condition.degraded) is degraded for n in nodes if n.node.name == "n1")
    )
    (n1,) = [view for view in views if view.node.name == "n1"]
    assert n1.condition.status is NodeStatus.READY
    return n1.condition.degraded


def task_ids(detail: JobDetail) -> dict[int, tuple[str, str]]:
    """Task and container by slot."""
    return {view.task.slot: (view.task.id, view.task.status.runtime_id) for view in live(detail)}


async def readiness(made: Cluster, name: str) -> tuple[int, str]:
    address = made.agents[name].arguments[made.agents[name].arguments.index("--http-listen") + 1]

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def ours(engine: OwnEngine) -> dict[str, str]:
    return await asyncio.to_thread(engine.containers)


@beside(nothing)
async def test_an_engine_frozen_for_a_minute_degrades_its_node_and_wakes_with_everything_as_it_was(
    directory: Path,
) -> None:
    async with one_engine(directory, live_restore=False) as (made, engine, _):
        await made.client.apply("test", [spec("web", 2)])
        before = task_ids(await until_healthy(made, "web", 2))
        started = await ours(engine)
        await asyncio.to_thread(engine.running.freeze)
        minute = asyncio.create_task(asyncio.sleep(FREEZE_S))  # what is tested is this time
        assert "did not answer" in await until_degraded(made)
        await made.client.apply("test", [spec("late", 1), spec("elsewhere", 1, Placement())])
        assert {view.node for view in live(await until_healthy(made, "elsewhere", 1))} == {"n2"}
        (late,) = live(await made.client.inspect_job("test", "late"))
        assert late.task.node_id == ""
        verdict = await asyncio.to_thread(made.read, "-n", "test", "why", "late")
        assert any("docker, which does not answer since" in reason["text"] for reason in verdict["reasons"])
        await minute
        assert "did not answer" in await until_degraded(made)
        engine.running.thaw()
        await until_healthy(made, "late", 1)
        await until_degraded(made, degraded=False)
        web = await until_healthy(made, "web", 2)
        assert task_ids(web) == before
        assert all(not slot.attempts for slot in web.slots)
        assert (await ours(engine)).items() >= started.items()


@beside(nothing)
async def test_a_stopped_engine_takes_containers_along_and_its_return_brings_them_back(directory: Path) -> None:
    async with one_engine(directory, live_restore=False) as (made, engine, _):
        await made.client.apply("test", [spec("web", 3)])
        before = task_ids(await until_healthy(made, "web", 3))
        await asyncio.to_thread(engine.running.end)
        said = await until_degraded(made)
        assert said.startswith("docker does not answer since 20")
        assert "docker does not answer since" in (await made.run("nodes")).stdout.replace("…", "")
        code, text = await readiness(made, "n1")
        assert (code, "runtime docker" in text, "does not answer since" in text) == (503, True, True)
        verdict = await asyncio.to_thread(made.read, "-n", "test", "why", "web")
        assert any(said in reason["text"] for reason in verdict["reasons"])
        await made.client.apply("test", [spec("elsewhere", 2, Placement())])
        assert {view.node for view in live(await until_healthy(made, "elsewhere", 2))} == {"n2"}
        assert {slot: task for slot, (task, _) in before.items()} == {
            view.task.slot: view.task.id for view in live(await made.client.inspect_job("test", "web"))
        }
        await asyncio.to_thread(engine.start)
        after = await until_healthy(made, "web", 3)
        assert {view.task.slot: view.task.id for view in live(after)} == {slot: t for slot, (t, _) in before.items()}
        assert all(view.task.status.attempt >= 2 for view in live(after))
        await until_degraded(made, degraded=False)
        assert set(await ours(engine)) == {container for _, container in task_ids(after).values()}
        kinds = [event.kind for event in [event async for event in made.client.events()]]
        assert "node.degraded" in kinds
        assert "task.lost" not in kinds


@beside(nothing)
async def test_an_engine_killed_while_it_creates_replicas_has_each_of_them_once_afterwards(directory: Path) -> None:
    async with one_engine(directory, live_restore=False) as (made, engine, machine):
        await made.client.apply("test", [spec("web", 10)])
        some = await made.until("test", lambda found: any(len(_running(detail)) >= 2 for detail in found))
        placed = {view.task.slot: view.task.id for view in live(some[0])}
        assert len(_running(some[0])) < 10
        await asyncio.to_thread(engine.running.kill)
        await asyncio.to_thread(engine.start)
        after = await until_healthy(made, "web", 10)
        assert {view.task.slot: view.task.id for view in live(after)} == placed
        await until_so_many(machine, 10)  # each replica once, whatever the engine knows of
        assert set(await ours(engine)) == {container for _, container in task_ids(after).values()}


@beside(nothing)
async def test_an_engine_that_lets_containers_live_is_restarted_without_one_of_them_noticing(directory: Path) -> None:
    async with one_engine(directory, live_restore=True) as (made, engine, _):
        await made.client.apply("test", [spec("web", 2)])
        before = task_ids(await until_healthy(made, "web", 2))
        started = await ours(engine)
        await asyncio.to_thread(engine.running.end)
        await until_degraded(made)
        await asyncio.to_thread(engine.start)
        await until_degraded(made, degraded=False)
        web = await until_healthy(made, "web", 2)
        assert task_ids(web) == before
        assert await ours(engine) == started


@beside(nothing)
async def test_what_an_engine_has_forgotten_to_run_is_ended_before_it_runs_again(directory: Path) -> None:
    """As happens to a container that is started while the engine shuts down: its process lives on, unknown to it."""
    async with own_engine(directory) as (engine, machine):
        runtime = DockerRuntime("node", host=engine.host, clock=time.time)
        try:
            await runtime.start()
            started, removed = [await runtime.create(_request(number)) for number in (1, 2)]
            await asyncio.to_thread(engine.docker, "start", started, removed)
            await asyncio.to_thread(engine.running.kill)
            for container in (started, removed):
                engine.forget_to_run(container)
            await asyncio.to_thread(engine.start)
            assert await ours(engine) == {}
            assert len(_processes(machine)) == 2
            await runtime.remove(removed)
            await until_so_many(machine, 1)
            with pytest.raises(NotFound, match="interrupted"):
                await runtime.start_container(started)
            await until_so_many(machine, 0)
        finally:
            await runtime.close()


async def until_so_many(machine: Machine, count: int) -> None:
    """What was killed takes a moment to be gone."""
    await asyncio.to_thread(until, lambda: len(_processes(machine)) == count, f"{count} run")


def _request(attempt: int) -> ContainerRequest:
    identity = ContainerIdentity(node_id="node", task_id="task", attempt=attempt, namespace="test", job="j", slot=1)
    return ContainerRequest(identity=identity, container=Container(image=TEST_IMAGE, command=SLEEP))


def _processes(machine: Machine) -> list[str]:
    listed = machine.do("ps", "-eo", "args=").stdout.splitlines()
    return [line for line in listed if line == "sleep 86400"]


def _running(detail: JobDetail) -> list[str]:
    return [view.task.id for view in live(detail) if view.task.status.runtime_id]
