"""Separate agents that run plain processes: what lives on when an agent is killed, and what moves when a node is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from common.model.api import TaskView
from common.model.node import NodeStatus
from tests.cluster.beside import beside
from tests.cluster.hello import Hello
from tests.cluster.load import load
from tests.cluster.machine import until_async
from tests.cluster.processes import PATIENT, Cluster, cluster, end_processes_naming, processes_naming
from tests.process_table import lives

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BESIDE = "processes"
NODES = [("n1", "127.0.0.11"), ("n2", "127.0.0.12"), ("n3", "127.0.0.13")]


@asynccontextmanager
async def on_three(directory: Path, *options: str) -> AsyncIterator[Hello]:
    async with cluster(directory, f"sqlite://{directory}/controller.db", "process", NODES, *options) as made:
        running = Hello(made)
        await running.up()
        yield running


def on_three_patient(directory: Path) -> AbstractAsyncContextManager[Hello]:
    return on_three(directory, *PATIENT)


async def until_there_are(made: Cluster, node: str, **expected: int) -> None:
    """So many processes of each kind that the node's agent started for itself and its tasks.

    A program that is being started, a health check say, looks like its parent for a moment.
    """
    kinds = {"shim": "/shim.py", "relay": "agent.network.relay", "agent": "podium agent "}
    seen: Counter[str] = Counter()

    def so_many() -> bool:
        lines = processes_naming(made.directory / node)
        seen.clear()
        seen.update(kind for line in lines for kind, word in kinds.items() if word in line)
        return seen == Counter(expected)

    await until_async(lambda: asyncio.to_thread(so_many), f"{expected} on {node}")


def by_node(tasks: list[TaskView]) -> Counter[str]:
    return Counter(view.node for view in tasks)


@beside(on_three_patient)
async def test_a_killed_agent_loses_no_request_and_adopts_its_processes_by_pid(hello: Hello) -> None:
    made = hello.cluster
    before, bodies = await hello.pids(), await hello.answers("127.0.0.11")
    shims = by_node(await hello.tasks())
    for node, _ in NODES:
        await until_there_are(made, node, shim=shims[node], relay=1, agent=1)
    async with load(hello.targets, per_second=30) as seen:
        made.agents["n1"].kill()
        assert await hello.answers("127.0.0.11") == bodies
        made.agents["n1"].start()
        await made.until_ready(3)
        assert await hello.pids() == before
        await seen.until(lambda seen: seen.answers > 60)
    assert seen.failures == []
    assert set(seen.bodies) == bodies
    for node, _ in NODES:
        await until_there_are(made, node, shim=shims[node], relay=1, agent=1)


@beside(on_three_patient)
async def test_a_process_that_died_without_its_agent_is_started_again_when_it_returns(hello: Hello) -> None:
    made = hello.cluster
    tasks = await hello.tasks()
    task, before = tasks[1], await hello.pids()
    made.agents[task.node].kill()
    os.kill(before[task.task.id], signal.SIGKILL)
    made.agents[task.node].start()
    await made.until_ready(3)
    await made.until("hello", lambda found: any(view.task.status.attempt == 2 for view in found[0].tasks))
    after = await hello.pids()
    assert [task_id for task_id in after if after[task_id] != before.get(task_id)] == [task.task.id]
    await until_there_are(made, task.node, shim=by_node(tasks)[task.node], relay=1, agent=1)


@beside(on_three_patient)
async def test_a_stopped_agent_leaves_its_processes_and_its_relay_running(hello: Hello) -> None:
    made = hello.cluster
    before, bodies = await hello.pids(), await hello.answers("127.0.0.13")
    assert made.agents["n3"].end(signal.SIGTERM) == 0
    await until_there_are(made, "n3", shim=by_node(await hello.tasks())["n3"], relay=1)
    assert await hello.answers("127.0.0.13") == bodies
    made.agents["n3"].start()
    await made.until_ready(3)
    assert await hello.pids() == before


@beside(on_three)
async def test_the_tasks_of_a_dead_node_run_elsewhere_and_once_only_when_it_returns(hello: Hello) -> None:
    made = hello.cluster
    before = await hello.tasks()
    dead = before[2].node
    other = next(node for node, _ in NODES if node != dead)
    kill_node(made, dead, [int(view.task.status.runtime_id) for view in before if view.node == dead])
    await made.until_nodes(
        lambda nodes: any(view.condition.status is NodeStatus.DOWN and view.node.name == dead for view in nodes)
    )
    after = await hello.tasks()
    assert dead not in by_node(after)
    assert {view.task.id for view in before if view.node != dead} <= {view.task.id for view in after}
    await hello.until_all_answer(made.addresses[other])

    made.agents[dead].start()
    await made.until_ready(3)
    again = await hello.tasks()
    assert {view.task.id for view in again} == {view.task.id for view in after}
    await until_there_are(made, dead, relay=1, agent=1)
    await hello.until_all_answer(made.addresses[dead])


def kill_node(made: Cluster, node: str, pids: list[int]) -> None:
    """All of it at once, as a power cut would: first nobody may act any more, then everybody ends."""
    agent = made.agents[node]
    os.kill(agent.pid, signal.SIGSTOP)
    end_processes_naming(made.directory / node)
    for pid in pids:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)
    agent.kill()
