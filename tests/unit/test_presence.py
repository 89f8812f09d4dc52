"""Presence: what counts as a change, and what merely moves numbers."""

from __future__ import annotations

import asyncio

import pytest

from common.model.node import NodeCondition, NodeStatus, RuntimeStatus
from common.model.resources import Usage
from controller.core.liveness import Seen
from controller.presence import CROWD, Presence
from tests.virtual_time import on_virtual_time

DOCKER = RuntimeStatus(name="docker")
BROKEN = RuntimeStatus(name="docker", ready=False, message="no answer")


class Told:
    """A presence whose changes are written down."""

    def __init__(self) -> None:
        self.wall_s = 1_000.0
        self.presence = Presence(lambda: self.wall_s)
        self.changes: list[tuple[NodeStatus | None, NodeStatus]] = []
        self.stop = self.presence.subscribe(self._note)

    def _note(self, before: NodeCondition | None, after: NodeCondition) -> None:
        self.changes.append((before and before.status, after.status))

    def status(self, node_id: str = "n") -> NodeStatus:
        return self.presence.conditions[node_id].status


async def test_a_node_of_the_store_is_expected_and_silent_from_now_on() -> None:
    told = Told()
    told.presence.expect("n")
    now_s = asyncio.get_running_loop().time()
    assert told.presence.conditions == {"n": NodeCondition(node_id="n")}
    assert told.presence.seen["n"].last_heard_s == pytest.approx(now_s, abs=1)
    assert told.changes == []


async def test_expecting_a_node_again_changes_nothing() -> None:
    told = Told()
    told.presence.connected("n", [DOCKER])
    seen = told.presence.seen["n"]
    told.presence.expect("n")
    assert told.presence.seen["n"] is seen
    assert told.status() is NodeStatus.READY


async def test_a_connected_node_is_ready_at_once_and_disconnected_when_it_leaves() -> None:
    told = Told()
    told.presence.expect("n")
    told.presence.connected("n", [DOCKER])
    assert told.presence.conditions["n"] == NodeCondition(
        node_id="n", status=NodeStatus.READY, last_seen_s=1_000.0, runtimes=(DOCKER,)
    )
    told.presence.disconnected("n")
    assert not told.presence.seen["n"].connected
    assert told.changes == [
        (NodeStatus.DISCONNECTED, NodeStatus.READY),
        (NodeStatus.READY, NodeStatus.DISCONNECTED),
    ]


async def test_a_heartbeat_moves_numbers_without_telling_anybody() -> None:
    told = Told()
    told.presence.connected("n", [DOCKER])
    told.changes.clear()
    told.wall_s = 1_001.0
    told.presence.heard("n", Usage(cpu_millis=5), [DOCKER])
    assert told.presence.conditions["n"].usage == Usage(cpu_millis=5)
    assert told.presence.conditions["n"].last_seen_s == 1_001.0
    assert told.changes == []


async def test_a_runtime_that_breaks_is_told_and_silence_about_runtimes_is_none() -> None:
    told = Told()
    told.presence.connected("n", [DOCKER])
    told.presence.heard("n", Usage(), [BROKEN])
    assert told.presence.conditions["n"].degraded == "docker does not answer: no answer"
    told.presence.heard("n", Usage(), [])
    assert told.presence.conditions["n"].runtimes == (BROKEN,)
    assert len(told.changes) == 2


@pytest.mark.parametrize("status", [NodeStatus.UNREACHABLE, NodeStatus.DOWN])
async def test_a_node_that_is_heard_again_is_ready_without_waiting_for_a_judgement(status: NodeStatus) -> None:
    told = Told()
    told.presence.connected("n", [DOCKER])
    told.presence.judged("n", status)
    assert told.status() is status
    told.presence.heard("n", Usage(), [DOCKER])
    assert told.status() is NodeStatus.READY


async def test_a_broken_stream_does_not_make_a_dead_node_look_better() -> None:
    told = Told()
    told.presence.connected("n", [DOCKER])
    told.presence.judged("n", NodeStatus.DOWN)
    told.presence.disconnected("n")
    assert told.status() is NodeStatus.DOWN


async def test_a_node_that_was_forgotten_stays_so() -> None:
    told = Told()
    told.presence.connected("n", [DOCKER])
    told.presence.forget("n")
    told.presence.judged("n", NodeStatus.DOWN)
    told.presence.disconnected("n")
    assert dict(told.presence.conditions) == {}
    assert dict(told.presence.seen) == {}


async def test_nobody_is_told_after_unsubscribing() -> None:
    told = Told()
    told.stop()
    told.presence.connected("n", [DOCKER])
    assert told.changes == []
    assert told.presence.seen["n"] == Seen(last_heard_s=told.presence.seen["n"].last_heard_s, connected=True)


@on_virtual_time
async def test_a_leader_that_hears_many_nodes_late_is_behind() -> None:
    presence = Presence(lambda: 1_000.0)
    nodes = [f"n{number}" for number in range(2 * CROWD)]

    async def beat(*, seconds: int, silent: int) -> None:
        """Heartbeats for so long, but for the first so many nodes."""
        for _ in range(seconds):
            for node_id in nodes[silent:]:
                presence.heard(node_id, Usage(), (DOCKER,))
            await asyncio.sleep(1.0)

    for node_id in nodes:
        presence.connected(node_id, (DOCKER,))
    await asyncio.sleep(1.0)
    assert not presence.behind(1.0), "one period is what they have"
    await asyncio.sleep(0.5)
    assert presence.behind(1.0)
    assert presence.behind(1.1)
    assert not presence.behind(1.3)
    await beat(seconds=1, silent=1)
    assert not presence.behind(1.0), "one is no crowd"
    await beat(seconds=3, silent=CROWD)
    assert not presence.behind(1.0), "those that are silent for so long are not merely late"


@on_virtual_time
async def test_of_a_few_nodes_nothing_is_concluded() -> None:
    presence = Presence(lambda: 1_000.0)
    for number in range(CROWD - 1):
        presence.connected(f"n{number}", (DOCKER,))
    await asyncio.sleep(1.5)
    assert not presence.behind(1.0)
