"""Separate agents that run plain processes: what lives on when an agent is killed, and what moves when a node is."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.model.node import NodeStatus
from tests.cluster.hello import Hello
from tests.cluster.load import load
from tests.cluster.processes import Cluster, cluster, end_processes_naming, processes_naming
from tests.process_table import lives

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NODES = [("n1", "127.0.0.11"), ("n2", "127.0.0.12"), ("n3", "127.0.0.13")]


@pytest.fixture
async def hello(tmp_path: Path) -> AsyncIterator[Hello]:
    async with cluster(tmp_path, f"sqlite://{tmp_path}/controller.db", "process", NODES) as made:
        running = Hello(made)
        await running.up()
        yield running


def own_processes(made: Cluster, node: str) -> Counter[str]:
    """What an agent started for itself and its tasks, by kind."""
    lines = processes_naming(made.directory / node)
    kinds = {"shim": "/shim.py", "relay": "agent.network.relay", "agent": "podium agent "}
    return Counter(kind for line in lines for kind, word in kinds.items() if word in line)


async def test_a_killed_agent_loses_no_request_and_adopts_its_processes_by_pid(hello: Hello) -> None:
    made = hello.cluster
    before, bodies = await hello.pids(), await hello.answers("127.0.0.11")
    running = {node: own_processes(made, node) for node, _ in NODES}
    assert running["n1"] == {"shim": 1, "relay": 1, "agent": 1}
    async with load(hello.targets, per_second=30) as seen:
        made.agents["n1"].kill()
        assert await hello.answers("127.0.0.11") == bodies
        made.agents["n1"].start()
        await made.until_ready(3)
        assert await hello.pids() == before
        await seen.until(lambda seen: seen.answers > 60)
    assert seen.failures == []
    assert set(seen.bodies) == bodies
    assert {node: own_processes(made, node) for node, _ in NODES} == running


async def test_a_process_that_died_without_its_agent_is_started_again_when_it_returns(hello: Hello) -> None:
    made = hello.cluster
    (task,) = [view for view in await hello.tasks() if view.node == "n2"]
    before = await hello.pids()
    made.agents["n2"].kill()
    os.kill(before[task.task.id], signal.SIGKILL)
    made.agents["n2"].start()
    await made.until_ready(3)
    await made.until("hello", lambda found: any(view.task.status.attempt == 2 for view in found[0].tasks))
    after = await hello.pids()
    assert [task_id for task_id in after if after[task_id] != before.get(task_id)] == [task.task.id]
    assert own_processes(made, "n2")["shim"] == 1


async def test_a_stopped_agent_leaves_its_processes_and_its_relay_running(hello: Hello) -> None:
    made = hello.cluster
    before, bodies = await hello.pids(), await hello.answers("127.0.0.13")
    assert made.agents["n3"].end(signal.SIGTERM) == 0
    assert own_processes(made, "n3") == {"shim": 1, "relay": 1}
    assert await hello.answers("127.0.0.13") == bodies
    made.agents["n3"].start()
    await made.until_ready(3)
    assert await hello.pids() == before


async def test_the_tasks_of_a_dead_node_run_elsewhere_and_once_only_when_it_returns(hello: Hello) -> None:
    made = hello.cluster
    before = await hello.tasks()
    (lost,) = [view for view in before if view.node == "n3"]
    kill_node(made, "n3", int(lost.task.status.runtime_id))
    await made.until_nodes(
        lambda nodes: any(view.condition.status is NodeStatus.DOWN and view.node.name == "n3" for view in nodes)
    )
    after = await hello.tasks()
    assert {view.node for view in after} == {"n1", "n2"}
    kept = {view.task.id for view in before} - {lost.task.id}
    assert kept < {view.task.id for view in after}
    await hello.until_all_answer("127.0.0.11")

    made.agents["n3"].start()
    await made.until_ready(3)
    again = await hello.tasks()
    assert {view.task.id for view in again} == {view.task.id for view in after}
    assert own_processes(made, "n3")["shim"] == 0
    await hello.until_all_answer("127.0.0.13")


def kill_node(made: Cluster, node: str, pid: int) -> None:
    """All of it at once, as a power cut would: first nobody may act any more, then everybody ends."""
    agent = made.agents[node]
    os.kill(agent.pid, signal.SIGSTOP)
    end_processes_naming(made.directory / node)
    if lives(pid):
        os.kill(pid, signal.SIGKILL)
    agent.kill()
