"""Nodes taken out of service under load on real processes: nothing is lost, nor when the controller dies on the way."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.model.api import JobDetail
from common.model.node import Availability
from tests.cluster.beside import beside
from tests.cluster.hello import Hello
from tests.cluster.load import load
from tests.cluster.processes import PATIENT, Cluster, cluster, healthy, live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BESIDE = "processes"
NODES = [("n1", "127.0.0.21"), ("n2", "127.0.0.22"), ("n3", "127.0.0.23")]
REQUESTS_PER_S = 50


@asynccontextmanager
async def on_three(directory: Path) -> AsyncIterator[Hello]:
    """Six replicas, two on each node."""
    async with cluster(directory, f"sqlite://{directory}/controller.db", "process", NODES, *PATIENT) as made:
        running = Hello(made)
        await running.up()
        await made.run("scale", "hello/hello=6")
        await running.tasks(6)
        yield running


def places(found: tuple[JobDetail, ...]) -> Counter[str]:
    return Counter(view.node for view in live(found[0]))


async def settled(made: Cluster, count: int = 6) -> Counter[str]:
    """Replicas by node, once `count` are healthy and nothing else is there."""
    return places(await made.until("hello", lambda found: len(found) == 1 and healthy(found[0], count)))


async def availability(made: Cluster, name: str) -> Availability:
    return (await made.client.inspect_node(name)).node.availability


@beside(on_three)
async def test_cordon_drain_and_uncordon_under_load_fail_no_request(hello: Hello) -> None:
    made = hello.cluster
    assert (await made.run("cordon", "n3")).stdout.startswith("n3 cordon: takes no new tasks")
    assert "is cordoned already" in (await made.run("cordon", "n3")).stdout
    kept = (await settled(made))["n3"]
    async with load(hello.targets, per_second=REQUESTS_PER_S) as seen:
        await made.run("scale", "hello/hello=8")
        before = await settled(made, 8)
        assert before["n3"] == kept, "a cordoned node keeps what it has and takes nothing"
        planned = json.loads((await made.run("drain", "n2", "--plan", "-o", "json", code=1)).stdout)
        moves = [step["action"] for step in planned["steps"]]
        assert moves[:3] == ["drain", "start", "stop"]
        assert min(step["healthy_at_least"] for step in planned["steps"][1:]) == 8
        assert planned["after"]["n2"] == 0
        assert await availability(made, "n2") is Availability.ACTIVE

        drained = await made.run("drain", "n2", "--timeout", "120")
        assert f"n2: {before['n2']}/{before['n2']} empty" in drained.stderr
        assert await settled(made, 8) == Counter(n1=8 - kept, n3=kept)
        await made.run("uncordon", "n2", "n3")
        assert await availability(made, "n2") is Availability.ACTIVE
        await seen.until(lambda seen: seen.answers > 100)
    assert seen.failures == []


@beside(on_three)
async def test_a_drain_outlives_the_controller_that_began_it(hello: Hello) -> None:
    made = hello.cluster
    before = await settled(made)
    async with load(hello.targets, per_second=REQUESTS_PER_S) as seen:
        watching = asyncio.create_task(made.run("drain", "n1", "--timeout", "120"))
        await made.until("hello", lambda found: any(view.task.moves for view in found[0].tasks))
        made.controller.kill()
        made.controller.start()
        drained = await watching
        assert f"n1: {before['n1']}/{before['n1']} empty" in drained.stderr
        found = await settled(made)
        assert found["n1"] == 0
        assert all(found[node] >= before[node] for node in ("n2", "n3"))
        assert await availability(made, "n1") is Availability.DRAINING
    assert seen.failures == []


@beside(on_three)
async def test_uncordoning_half_way_keeps_what_has_not_moved_and_without_room_nothing_does(hello: Hello) -> None:
    made = hello.cluster
    before = {view.task.id for view in await hello.tasks(6)}
    async with load(hello.targets, per_second=REQUESTS_PER_S) as seen:
        hello.gate.unlink()  # successors do not get good
        await made.run("drain", "n1", "--detach")
        await made.until("hello", lambda found: any(view.task.moves and view.task.node_id for view in found[0].tasks))
        await made.client.uncordon(["n1"])
        assert {view.task.id for view in await hello.tasks(6)} == before, "a successor that is not needed goes"
        hello.gate.touch()
        assert "no node 'n9' (there are n1, n2, n3)" in (await made.run("drain", "n9", code=1)).stderr
    assert seen.failures == []

    await made.run("cordon", "n2", "n3")
    before = {view.task.id for view in await hello.tasks(6)}
    failed = await made.run("drain", "n1", code=1)
    assert "error: n1 is not empty, 2 tasks left" in failed.stderr
    assert "cordoned" in failed.stderr
    why = await made.run("why", "hello/hello")
    assert "node n1 is being drained" in why.stdout
    assert before <= {view.task.id for view in live(await made.client.inspect_job("hello", "hello"))}
    await made.run("uncordon", "n2")
    await made.until("hello", lambda found: healthy(found[0], 6) and places(found)["n1"] == 0)
