"""What the leader foresees on virtual time: losses that could not be absorbed, suggestions, and moves by itself."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine

import msgspec

from common.model.event import Event
from common.model.node import Node
from common.model.resources import Resources
from controller.core.balance import AUTO_AFTER_S, AUTO_GAIN, AUTO_REST_S, Patience
from controller.loops.convergence import ConvergenceLoop
from controller.loops.foresight import LOOK_EVERY_S, ForesightLoop
from controller.loops.placement import PlacementLoop
from tests.builders import node
from tests.loops_rig import LoopsRig, rig, running
from tests.property.test_plan_agreement import PerfectAgents
from tests.virtual_time import VirtualLoop
from tests.world import web, with_task

OLD = [node("n1", cpu=8), node("n2", cpu=8)]
NEW = node("n3", cpu=8)
SPEC = msgspec.structs.replace(with_task(web(replicas=6), reservations=Resources(cpu_millis=1_000)), replicas=6)


def on_virtual_time(work: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work())


class Foresighted:
    """A leader's loops over a cluster of two nodes, with agents that always succeed."""

    def __init__(self, *, auto: bool) -> None:
        self.auto = auto
        self.events: list[Event] = []

    async def run(self, work: Callable[[LoopsRig, ForesightLoop], Coroutine[None, None, None]]) -> None:
        async with rig() as world:

            def clock() -> float:
                return world.now_s

            placement = PlacementLoop(world.ledger, world.presence, clock=clock)
            convergence = ConvergenceLoop(world.ledger, world.presence, clock=clock, rng=random.Random(7))
            foresight = ForesightLoop(
                world.ledger,
                world.presence,
                placement.table,
                clock=clock,
                record=self.events.append,
                auto=self.auto,
            )
            async with running(placement.run, convergence.run, foresight.run, PerfectAgents(world).run):
                await world.ready(*OLD)
                await world.up(SPEC)
                await asyncio.sleep(2 * LOOK_EVERY_S)
                await work(world, foresight)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def per_node(world: LoopsRig) -> dict[str, int]:
    return dict(Counter(task.node_id for task in world.state.tasks.values() if not task.ended))


def test_a_loss_that_could_not_be_absorbed_any_more_is_told_and_so_is_its_end() -> None:
    seen = Foresighted(auto=False)

    async def work(world: LoopsRig, foresight: ForesightLoop) -> None:
        assert foresight.survives is True
        await world.up(msgspec.structs.replace(SPEC, replicas=10))
        await asyncio.sleep(2 * LOOK_EVERY_S)
        assert foresight.survives is False
        assert "without node n1: 2 tasks of shop/web fit on no node: needs 1 core" in seen.events[-1].cause
        await world.up(SPEC)
        await asyncio.sleep(2 * LOOK_EVERY_S)
        assert foresight.survives is True
        assert seen.kinds == ["survival.lost", "survival.regained"]

    on_virtual_time(lambda: seen.run(work))


def test_without_the_setting_moves_are_suggested_once_and_nothing_moves() -> None:
    seen = Foresighted(auto=False)

    async def work(world: LoopsRig, _foresight: ForesightLoop) -> None:
        await joins(world, NEW)
        await asyncio.sleep(AUTO_AFTER_S + AUTO_REST_S)
        assert per_node(world) == {"id-n1": 3, "id-n2": 3}
        assert seen.kinds == ["balance.suggested"]

    on_virtual_time(lambda: seen.run(work))


def test_with_it_they_are_ordered_when_they_were_worth_it_for_long_enough() -> None:
    seen = Foresighted(auto=True)

    async def work(world: LoopsRig, _foresight: ForesightLoop) -> None:
        await joins(world, NEW)
        await asyncio.sleep(AUTO_AFTER_S - 5)
        assert per_node(world) == {"id-n1": 3, "id-n2": 3}
        await asyncio.sleep(3 * LOOK_EVERY_S)
        assert per_node(world) == {"id-n1": 2, "id-n2": 2, "id-n3": 2}
        assert seen.kinds == ["balance.suggested", "balance.ordered"]

    on_virtual_time(lambda: seen.run(work))


def test_what_is_not_worth_it_long_enough_is_left() -> None:
    seen = Foresighted(auto=True)

    async def work(world: LoopsRig, _foresight: ForesightLoop) -> None:
        await joins(world, NEW)
        await asyncio.sleep(AUTO_AFTER_S / 2)
        world.presence.disconnected(NEW.id)
        await asyncio.sleep(AUTO_AFTER_S + AUTO_REST_S)
        assert per_node(world) == {"id-n1": 3, "id-n2": 3}
        assert "balance.ordered" not in seen.kinds

    on_virtual_time(lambda: seen.run(work))


async def joins(world: LoopsRig, new: Node) -> None:
    await world.ready(new)


def test_patience_counts_anew_when_it_was_not_worth_it_in_between_and_rests_after_an_order() -> None:
    patience = Patience().after(AUTO_GAIN, "", 100.0).after(AUTO_GAIN + 0.1, "", 150.0)
    assert patience.due_at_s() == 100.0 + AUTO_AFTER_S
    for gain, held in ((AUTO_GAIN - 0.01, ""), (AUTO_GAIN, "the brake holds")):
        again = patience.after(gain, held, 160.0)
        assert again.due_at_s() == float("inf")
        assert again.after(AUTO_GAIN, "", 170.0).due_at_s() == 170.0 + AUTO_AFTER_S
    rests = patience.ordered(220.0).after(AUTO_GAIN, "", 230.0)
    assert rests.due_at_s() == 220.0 + AUTO_REST_S
