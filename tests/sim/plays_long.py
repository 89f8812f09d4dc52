"""Scenarios that last: what is kept depends on what runs, and not on what has happened (I10)."""

from __future__ import annotations

import asyncio

import msgspec

from common.model.job import UpdatePolicy
from tests.sim.engineer import with_image
from tests.sim.jobs import AUTOSCALED, BURST, TIDE, job, task
from tests.sim.plays_leader import IDLE
from tests.sim.scenario import Scenario

QUICK = UpdatePolicy(parallelism=0, monitor_s=0.1)
CRASHING = job("crashing", 2, task("bad:1", 10))
WARM, ROUNDS = 15, 18
ROUND_S = 60.0
AWAY, WAVERS = 3, 1
"""Of four rounds, the one without Prometheus, and the one in which the load rises for a moment first."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is of what could grow."""

    stored_bytes: int
    records: int
    asyncio_tasks: int
    links: int
    containers: int
    remembered: int
    """Tasks in journals."""


async def steady_work(play: Scenario) -> None:
    """Updates, crashes, scaling by hand and by load, and now and then a controller or an agent that is killed."""
    await play.up(IDLE, CRASHING, *AUTOSCALED, settle=False)
    for number in range(WARM):
        await _round(play, number)
    before = _kept(play)
    for number in range(WARM, WARM + ROUNDS):
        await _round(play, number)
    after = _kept(play)
    steps = play.cluster.witness.scalings.steps
    play.must(steps > ROUNDS, f"what is scaled by its load follows it ({steps} times)")
    for name, size in msgspec.structs.asdict(after).items():
        most = 1.1 * getattr(before, name) + 5
        play.must(size <= most, f"I10: {name} stays as it was ({before} after {WARM} rounds, {after} at the end)")


async def _round(play: Scenario, number: int) -> None:
    spec = msgspec.structs.replace(with_image(IDLE, f"idle:{number}", 3), update=QUICK)
    play.cluster.engineer.up(spec)
    play.cluster.engineer.scale("idle", 3 + number % 4)
    _ask_for(play, number, rises=number % 4 == WAVERS)
    await play.passes(ROUND_S / 3)
    if number % 5 == 0:
        leader = play.leader
        await leader.kill(silently=False)
        await play.led_by_another(leader)
        leader.start()
    if number % 3 == 0:
        machine = play.cluster.machines[number % len(play.cluster.machines)]
        await machine.kill_agent()
        machine.start()
    _ask_for(play, number)
    play.cluster.engineer.scale("idle", 3)
    play.cluster.engineer.up(with_image(CRASHING, f"bad:{number}", 2))
    await play.passes(ROUND_S * 2 / 3)
    await play.until(lambda: len(play.containers("idle")) == IDLE.replicas, 60.0, "the round's work is done")
    if number % 4 != AWAY:
        await play.until(lambda: not list(play.cluster.numbers()), 60.0, "numbers follow the load")


def _ask_for(play: Scenario, number: int, *, rises: bool = False) -> None:
    """Another load in every round, in some of them without anybody to say so for those that ask Prometheus."""
    demand = play.cluster.demand
    demand.find_source()
    if number % 4 == AWAY:
        demand.lose_source()
    demand.set(BURST.name, 5 if rises else 1 + (number * 3) % 6)
    demand.set(TIDE.name, 5 if rises else 1 + (number * 2) % 5)


def _kept(play: Scenario) -> Kept:
    database, machines = play.cluster.database, play.cluster.machines
    return Kept(
        stored_bytes=sum(map(len, database.values.values())),
        records=len(database.values),
        asyncio_tasks=len(asyncio.all_tasks()),
        links=play.cluster.network.links,
        containers=sum(len(machine.engine.containers) for machine in machines),
        remembered=sum(len(machine.journal.memories) for machine in machines),
    )
