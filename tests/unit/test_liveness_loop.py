"""Liveness: silence becomes a status in time, the brake holds and can be released, a late controller doubts itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.model.node import NodeStatus
from common.model.resources import Usage
from controller.loops.lag import LoopLag
from controller.loops.liveness import LivenessLoop
from controller.settings import Timers
from controller.state import Erase
from tests.builders import node
from tests.loops_rig import LoopsRig, rig, running
from tests.virtual_time import on_virtual_time

TIMERS = Timers()


class Watched:
    def __init__(self, world: LoopsRig) -> None:
        self.world = world
        self.late_s = 0.0
        self.failed: list[str] = []
        self.brakes: list[str] = []
        self.loop = LivenessLoop(
            world.ledger,
            world.presence,
            timers=TIMERS,
            late_s=lambda: self.late_s,
            failed=self.failed.append,
            braked=self._braked,
        )

    def statuses(self) -> dict[str, str]:
        return {node_id: known.status.value for node_id, known in self.world.presence.conditions.items()}

    async def until(self, **statuses: str) -> None:
        await self.world.until(lambda: statuses.items() <= self.statuses().items())

    async def brake(self, *, on: bool) -> None:
        """Until it holds, or does not."""
        await self.world.until(lambda: bool(self.world.presence.brake) is on)

    def _braked(self, reason: str) -> None:
        self.brakes.append(reason)
        self.world.changed.set()

    async def beat(self, *names: str) -> None:
        """Heartbeats of these nodes for as long as the test runs."""
        while True:
            for name in names:
                self.world.presence.heard(name, Usage(), ())
            await asyncio.sleep(TIMERS.liveness.period_s)


@asynccontextmanager
async def watching(*names: str, beating: tuple[str, ...] = ()) -> AsyncIterator[Watched]:
    async with rig(node(name) for name in names) as world:
        watched = Watched(world)
        async with running(watched.loop.run):
            await asyncio.sleep(0)
            for name in names:
                world.presence.connected(f"id-{name}", ())
            async with running(lambda: watched.beat(*(f"id-{name}" for name in beating))):
                yield watched


@on_virtual_time
async def test_a_silent_node_is_unreachable_then_down_while_others_stay_ready() -> None:
    async with watching("n1", "n2", beating=("n2",)) as watched:
        now_s = asyncio.get_running_loop().time
        seen: list[tuple[str, NodeStatus, float]] = []
        watched.world.presence.subscribe(lambda _before, after: seen.append((after.node_id, after.status, now_s())))
        await watched.until(**{"id-n1": "down"})
        assert seen == [
            ("id-n1", NodeStatus.UNREACHABLE, pytest.approx(2.5, abs=0.26)),
            ("id-n1", NodeStatus.DOWN, pytest.approx(5.0, abs=0.26)),
        ]
        assert watched.failed == ["id-n1"]


@on_virtual_time
async def test_a_node_of_the_store_that_never_comes_has_its_grace_and_is_then_down() -> None:
    async with rig([node("n1"), node("n2")]) as world:
        watched = Watched(world)
        async with running(watched.loop.run):
            await asyncio.sleep(0)
            assert watched.statuses() == {"id-n1": "disconnected", "id-n2": "disconnected"}
            async with running(lambda: watched.beat("id-n2")):
                await watched.until(**{"id-n1": "down", "id-n2": "ready"})


@on_virtual_time
async def test_a_node_that_joins_is_watched_and_one_that_is_removed_is_not() -> None:
    async with watching("n1", beating=("n1",)) as watched:
        await watched.world.ready(node("n2"))
        await watched.until(**{"id-n2": "down"})
        await watched.world.ledger.submit(lambda _state: [(Erase(node("n2")),)])
        assert watched.statuses() == {"id-n1": "ready"}


@on_virtual_time
async def test_nodes_that_were_dead_before_the_term_keep_nobodys_tasks_from_being_replaced() -> None:
    async with rig(node(f"n{number}") for number in range(1, 6)) as world:
        watched = Watched(world)
        async with running(watched.loop.run):
            await asyncio.sleep(0)
            world.presence.connected("id-n3", ())
            async with running(lambda: watched.beat("id-n4", "id-n5")):
                await watched.until(**{"id-n1": "down", "id-n2": "down", "id-n3": "down"})
        assert watched.brakes == []


@on_virtual_time
async def test_when_all_fall_silent_the_brake_holds_until_it_is_released() -> None:
    async with watching("n1", "n2") as watched:
        await watched.until(**{"id-n1": "unreachable", "id-n2": "unreachable"})
        await asyncio.sleep(TIMERS.liveness.down_s)
        assert watched.statuses() == {"id-n1": "unreachable", "id-n2": "unreachable"}
        assert "fell silent" in watched.world.presence.brake
        released = watched.loop.release_brake()
        assert "fell silent" in released.held
        assert released.node_ids == ("id-n1", "id-n2")
        await watched.until(**{"id-n1": "down", "id-n2": "down"})
        engaged, cleared = watched.brakes
        assert "2 of 2 nodes" in engaged
        assert cleared == ""


@on_virtual_time
async def test_a_release_is_for_the_silence_of_that_moment_only() -> None:
    async with watching("n1", "n2") as watched:
        await watched.until(**{"id-n1": "unreachable", "id-n2": "unreachable"})
        watched.loop.release_brake()
        for name in ("id-n1", "id-n2"):
            watched.world.presence.heard(name, Usage(), ())
        await watched.until(**{"id-n1": "unreachable", "id-n2": "unreachable"})
        await asyncio.sleep(TIMERS.liveness.down_s)
        assert watched.statuses() == {"id-n1": "unreachable", "id-n2": "unreachable"}
        assert watched.world.presence.brake


@on_virtual_time
async def test_a_brake_ends_when_all_have_been_heard_again_and_silence_is_seen_anew() -> None:
    """Nothing was left to wait for then, so nobody looked any more: the brake stayed on, and the next death unseen."""
    async with watching("n1", "n2") as watched:
        await watched.until(**{"id-n1": "unreachable", "id-n2": "unreachable"})
        await asyncio.sleep(10 * TIMERS.liveness.down_s)
        async with running(lambda: watched.beat("id-n1", "id-n2")):
            await watched.brake(on=False)
        async with running(lambda: watched.beat("id-n1")):
            await watched.until(**{"id-n2": "down"})


@on_virtual_time
async def test_nodes_that_come_back_after_their_fellows_are_not_given_up_when_the_brake_ends() -> None:
    names = ("n1", "n2", "n3", "n4", "n5")
    async with watching(*names, beating=names[:2]) as watched:
        await watched.brake(on=True)
        await asyncio.sleep(TIMERS.liveness.down_s)
        async with running(lambda: watched.beat("id-n3")):
            await watched.brake(on=False)
            assert watched.statuses()["id-n4"] == "unreachable"
            async with running(lambda: watched.beat("id-n4")):
                await watched.until(**{"id-n5": "down"})
    assert watched.failed == ["id-n5"]


@on_virtual_time
async def test_releasing_a_brake_that_does_not_hold_does_nothing() -> None:
    async with watching("n1", "n2", beating=("n1", "n2")) as watched:
        assert watched.loop.release_brake().held == ""


@on_virtual_time
async def test_a_controller_that_was_late_itself_judges_nobody() -> None:
    async with watching("n1", "n2", beating=("n2",)) as watched:
        watched.late_s = 60.0
        await asyncio.sleep(2 * TIMERS.liveness.down_s)
        assert watched.statuses() == {"id-n1": "ready", "id-n2": "ready"}
        watched.late_s = 0.0
        watched.loop.release_brake()
        await watched.until(**{"id-n1": "down"})
        assert watched.world.presence.conditions["id-n2"].status is NodeStatus.READY


async def test_lag_is_the_worst_of_the_window() -> None:
    """On a real loop: only there something can hold it up."""
    turned = asyncio.Event()
    turns: list[float] = []
    lag = LoopLag(turn_s=0.01, window_s=1.0, observe=lambda late_s: (turns.append(late_s), turned.set())[0])
    assert lag.late_s() == 0.0
    async with running(lag.run):
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251  that is what is measured
        await turned.wait()
        assert lag.late_s() >= max(turns) >= 0.05
