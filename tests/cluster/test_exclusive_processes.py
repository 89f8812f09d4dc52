"""An exclusive job on real agents that are stopped and killed: its guard ends it, and only then it runs elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from common.model.api import JobDetail
from common.model.job import Container, JobSpec, TaskSpec
from tests.cluster.beside import beside, nothing
from tests.cluster.processes import Cluster, cluster, containers_of, live, processes_naming
from tests.docker_images import ensure_image, require_docker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BESIDE = "long silences"
TIMERS = ("--tune", "exclusive-self=5", "--tune", "exclusive-lost=20")
"""Seconds; so many heartbeats may be late on a busy machine, and the second is the least to go with the first."""
GRACE_S = 1.0
NODES = [("n1", "127.0.0.21"), ("n2", "127.0.0.22")]
PROGRAM = """
import os, sys, time
while True:
    with open(sys.argv[1], "a") as file:
        file.write(os.environ["PODIUM_FENCING_TOKEN"] + "\\n")
    time.sleep(0.02)
"""


def two_nodes(directory: Path, runtime: str, *timers: str) -> AbstractAsyncContextManager[Cluster]:
    return cluster(directory, f"sqlite://{directory}/controller.db", runtime, NODES, *timers)


def job(*command: str, image: str = "") -> JobSpec:
    container = Container(image=image, command=command, stop_grace_s=GRACE_S)
    return JobSpec(namespace="shop", name="alone", task=TaskSpec(container=container, exclusive=True))


def runs(details: tuple[JobDetail, ...], *, not_task: str = "") -> bool:
    tasks = [view for detail in details for view in live(detail)]
    return len(tasks) == 1 and tasks[0].state.value == "running" and tasks[0].task.id != not_task


async def until(holds: Callable[[], object], within_s: float = 40.0) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it is about other processes
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
@beside(nothing)
async def test_a_task_of_a_stopped_or_killed_agent_ends_before_its_successor_begins(
    directory: Path, fault: signal.Signals
) -> None:
    ledger = directory / "ledger"
    async with two_nodes(directory, "process", *TIMERS) as made:
        await made.client.apply("shop", (job("python3", "-c", PROGRAM, str(ledger)),))
        (detail,) = await made.until("shop", runs)
        (first,) = live(detail)
        agent = made.agents[first.node]
        os.kill(agent.pid, fault)

        (detail,) = await made.until("shop", lambda found: runs(found, not_task=first.task.id))
        (second,) = live(detail)
        assert second.node != first.node
        assert second.task.fencing_token > first.task.fencing_token
        await until(lambda: ledger.read_text().splitlines()[-1] == str(second.task.fencing_token))

        if fault is signal.SIGSTOP:
            os.kill(agent.pid, signal.SIGCONT)
        else:
            agent.wait()
            agent.start()
        await made.until_ready(len(NODES))
        await made.until("shop", lambda found: _settled(found, first.task.id))
        writers = ledger.read_text().splitlines()
        assert writers == sorted(writers, key=int), "nobody wrote after a later one had begun"
        assert len(set(writers)) == 2
        assert not [line for line in processes_naming(made.directory / first.node) if "shim.py" in line]


def _settled(details: tuple[JobDetail, ...], first: str) -> bool:
    """The first task is known to have ended, and the second runs."""
    return runs(details, not_task=first) and all(
        view.task.ended for detail in details for view in detail.tasks if view.task.id == first
    )


@beside(nothing)
async def test_an_agent_that_is_back_in_time_keeps_its_task(directory: Path) -> None:
    ledger = directory / "ledger"
    async with two_nodes(directory, "process") as made:
        await made.client.apply("shop", (job("python3", "-c", PROGRAM, str(ledger)),))
        (detail,) = await made.until("shop", runs)
        (first,) = live(detail)
        made.agents[first.node].kill()
        made.agents[first.node].start()
        await made.until_ready(len(NODES))
        (detail,) = await made.until("shop", runs)
        (after,) = live(detail)
        assert (after.task.id, after.task.status.runtime_id) == (first.task.id, first.task.status.runtime_id)


@pytest.mark.docker
@beside(nothing)
async def test_a_container_of_a_killed_agent_is_ended_by_its_guard(directory: Path) -> None:
    image = await asyncio.to_thread(lambda: ensure_image(host=require_docker()))
    async with two_nodes(directory, "docker", *TIMERS) as made:
        # A program that does not obey: the guard has to kill it.
        await made.client.apply("shop", (job("sh", "-c", "trap '' TERM; while :; do sleep 1; done", image=image),))
        (detail,) = await made.until("shop", runs)
        (first,) = live(detail)
        made.agents[first.node].kill()
        await until(lambda: not containers_of(first.task.node_id, only_running=True))
        assert exit_code(first.task.status.runtime_id) == "137"
        (detail,) = await made.until("shop", lambda found: runs(found, not_task=first.task.id))
        assert live(detail)[0].node != first.node


def exit_code(container_id: str) -> str:
    inspect = ["docker", "inspect", "-f", "{{.State.ExitCode}}", container_id]
    return subprocess.run(inspect, capture_output=True, text=True, timeout=30).stdout.strip()
