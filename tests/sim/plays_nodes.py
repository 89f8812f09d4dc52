"""Scenarios of machines, agents, engines, disks and clocks, and of many of them at once."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from common.model.node import Availability
from controller.state import Write
from tests.sim.jobs import job, task
from tests.sim.machine import Machine
from tests.sim.network import BOTH, Way
from tests.sim.plays_leader import IDLE, WEB
from tests.sim.scenario import Scenario

DAY_S = 86_400.0
FIRST_REPORTS = 10
"""Of a slot, until its second crash at the latest: these are told at once."""


def _cut(play: Scenario, machine: Machine, ways: tuple[Way, ...] = BOTH) -> None:
    for site in play.cluster.sites:
        play.cluster.network.silence(machine.name, site.address, ways)


def _heal(play: Scenario, machine: Machine) -> None:
    for site in play.cluster.sites:
        play.cluster.network.heal(machine.name, site.address)


async def cut_below_grace(play: Scenario) -> None:
    await play.up(IDLE)
    machine = play.cluster.machines[0]
    with play.untouched():
        _cut(play, machine)
        await play.passes(3.0)
        _heal(play, machine)
        await play.settles(within_s=10.0)
        play.must(play.lost() == 0, "nothing was given up")


async def cut_beyond_grace(play: Scenario) -> None:
    """Its tasks are replaced; it returns, and one of each two is stopped."""
    await play.up(WEB, IDLE)
    machine = play.cluster.machines[0]
    play.must(play.running_on(machine) > 0, "something runs there")
    _cut(play, machine)
    await play.until(play.lost, 8.0, "its tasks are given up")
    await play.until(lambda: _elsewhere(play, machine) == WEB.replicas + IDLE.replicas, 30.0, "they are replaced")
    _heal(play, machine)
    await play.settles()


async def cut_one_way(play: Scenario) -> None:
    """Whichever way: below the grace nothing happens, beyond it the node is replaced."""
    await play.up(IDLE)
    for way in BOTH:
        with play.untouched():
            _cut(play, play.cluster.machines[0], (way,))
            await play.passes(3.0)
            _heal(play, play.cluster.machines[0])
            await play.settles(within_s=10.0)
    for way in BOTH:
        lost = play.lost()
        machine = next(one for one in play.cluster.machines if play.running_on(one))
        _cut(play, machine, (way,))
        await play.until(
            lambda lost=lost: play.lost() > lost, 12.0, f"a node whose {way.value} path is cut is given up"
        )
        _heal(play, machine)
        await play.settles()


async def half_open(play: Scenario) -> None:
    """A link that neither end was told of: the agent dials again before anybody has to act."""
    await play.up(WEB, IDLE)
    with play.untouched(endpoints=False):
        for machine in play.cluster.machines:
            play.cluster.network.machine_died(machine.name)
        await play.passes(5.0)
        await play.settles(within_s=10.0)
        play.must(play.lost() == 0, "nothing was given up")


async def agents_frozen(play: Scenario) -> None:
    """Briefly: nothing happens. For long: replaced, and what it wakes up to is put in order."""
    await play.up(WEB, IDLE)
    with play.untouched(endpoints=False):
        play.cluster.machines[0].freeze()
        await play.passes(2.0)
        play.cluster.machines[0].thaw()
        await play.settles(within_s=10.0)
    play.cluster.machines[0].freeze()
    await play.until(play.lost, 8.0, "its tasks are given up")
    await play.passes(10.0)
    play.cluster.machines[0].thaw()
    await play.settles()


async def agents_restarted(play: Scenario) -> None:
    await play.up(WEB, IDLE)
    with play.untouched():
        for machine in play.cluster.machines:
            await machine.kill_agent()
            await play.passes(1.0)
            machine.start()
        await play.settles(within_s=10.0)


async def agents_upgraded(play: Scenario) -> None:
    """Stopped and started anew, one after the other, as a package manager does; and the controllers meanwhile."""
    await play.up(WEB, IDLE)
    with play.untouched():
        for machine in play.cluster.machines:
            await machine.stop_agent()
            await play.passes(1.0)
            machine.start()
            await play.settles(within_s=10.0)
        for site in play.cluster.sites:
            await site.stop()
            await play.passes(2.0)
            site.start()
            await play.settles(within_s=10.0)


async def disk_cloned(play: Scenario) -> None:
    """The copy knocks all the time; the original comes first also when it, or the leader, has just been restarted."""
    await play.up(WEB, IDLE)
    original = next(one for one in play.cluster.machines if play.running_on(one))
    copy = play.cluster.copy_of(original)
    node = play.state.nodes[original.node_id]
    copy.start()
    with play.untouched(endpoints=False):
        await play.passes(10.0)
        for _ in range(4):
            await original.kill_agent()
            await play.passes(1.0)
            original.start()
            await play.settles(within_s=10.0)
        for _ in range(4):
            leader = play.leader
            await leader.kill(silently=False)
            await play.led_by_another(leader)
            leader.start()
            await play.settles(within_s=10.0)
        play.must(not copy.engine.containers, "the copy has begun nothing")
        play.must(play.state.nodes[original.node_id] == node, "the node is where it was")


async def agents_state_deleted(play: Scenario) -> None:
    """All but the node's id: the containers are found by their labels and taken up."""
    await play.up(WEB, IDLE)
    with play.untouched():
        for machine in play.cluster.machines:
            await machine.kill_agent()
            machine.lose_disk()
            machine.start()
            await play.settles(within_s=10.0)


async def engine_frozen(play: Scenario) -> None:
    await play.up(IDLE)
    with play.untouched():
        play.cluster.machines[0].engine.away = "the engine does not answer"
        await play.passes(60.0)
        play.cluster.machines[0].engine.away = ""
        await play.settles(within_s=20.0)


async def clocks_jump(play: Scenario) -> None:
    """Of everybody, by a day and by two years, there and back: nobody notices, and nothing waits for years."""
    await play.up(WEB, IDLE)
    for jump_s in (DAY_S, -DAY_S, 2 * 365 * DAY_S, -2 * 365 * DAY_S):
        with play.untouched():
            for machine in play.cluster.machines:
                machine.skew_s += jump_s
            for site in play.cluster.sites:
                site.skew_s += jump_s
            await play.passes(12.0)
        machine = next(one for one in play.cluster.machines if play.running_on(one))
        machine.engine.end(machine.running()[0], 137)
        await play.settles(within_s=30.0)


async def many_die_and_return(play: Scenario) -> None:
    """30 % of 50 nodes at once: below the brake's share, so they are replaced; then all return at once."""
    many = job("many", 100, task("many:1", 100))
    await play.up(many)
    dead = play.cluster.machines[:15]
    for machine in dead:
        await machine.die()
    await play.until(lambda: len(play.containers()) == many.replicas, 40.0, "their tasks are replaced")
    for machine in dead:
        machine.start()
    await play.settles()


async def many_reconnect(play: Scenario) -> None:
    """500 agents lose their leader in the same moment: all are back, and none was taken for dead."""
    await play.until(lambda: _ready(play) == len(play.cluster.machines), 30.0, "all are ready")
    await play.up(job("few", 5, task("few:1", 10)), settle=False)
    await play.until(lambda: len(play.containers()) == 5, 20.0, "they run")
    before, leader = play.containers(), play.leader
    await leader.kill(silently=False)
    await play.led_by_another(leader)
    await play.until(lambda: _ready(play) == len(play.cluster.machines), 30.0, "all are back")
    play.must(play.lost() == 0, "nothing was given up")
    play.must(play.containers() == before, "nothing was touched")


async def many_crash(play: Scenario) -> None:
    """200 jobs whose programs crash, for ten minutes: no slot costs the store more than a write a second.

    What its agents say of it is never written twice in a second once crashing is a habit; moves to another node come on
    top, and are made up for.
    """
    witness, said = play.cluster.witness, dict[tuple[str, int], list[float]]()
    witness.observed = lambda task: said.setdefault((task.job_id, task.slot), []).append(play.now_s)
    await play.up(*(job(f"bad{number}", 1, task("bad:1", 10)) for number in range(200)), settle=False)
    for _ in range(10):
        witness.slot_writes.clear()
        await play.passes(60.0)
        worst = max(witness.slot_writes.values())
        play.must(worst <= 60, f"no slot is written more than 60 times in a minute (it was {worst})")
    gaps = [after - before for times in said.values() for before, after in pairwise(times[FIRST_REPORTS:])]
    play.must(len(gaps) > 10 * len(said), "they crash again and again")
    play.must(
        min(gaps) >= 1.0, f"no slot's observations are written twice in a second (it was after {min(gaps):.3f} s)"
    )


async def drained_while_the_leader_dies(play: Scenario) -> None:
    await play.up(WEB, IDLE)
    machine = next(one for one in play.cluster.machines if play.running_on(one))
    node = play.state.nodes[machine.node_id]
    await play.commit(Write(msgspec.structs.replace(node, availability=Availability.DRAINING)))
    await play.until(lambda: _leaving(play, machine), 20.0, "it is being emptied")
    leader = play.leader
    await leader.kill(silently=False)
    await play.until(lambda: not play.running_on(machine), 60.0, "the next leader has emptied it")
    await play.settles()


def _leaving(play: Scenario, machine: Machine) -> bool:
    return len(play.state.tasks) > WEB.replicas + IDLE.replicas or not play.running_on(machine)


def _elsewhere(play: Scenario, machine: Machine) -> int:
    return sum(len(other.running()) for other in play.cluster.machines if other is not machine)


def _ready(play: Scenario) -> int:
    leading = play.cluster.leading()
    return 0 if leading is None else sum(one.status.value == "ready" for one in leading.presence.conditions.values())
