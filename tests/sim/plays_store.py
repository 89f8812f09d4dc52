"""Scenarios of etcd's own faults, as controllers meet them: it elects, stands still, is restarted, has no space left.

None of them may touch a healthy container (I6), and what was acknowledged stays (I8).
"""

from __future__ import annotations

from controller.store.memory import Loss
from tests.sim.plays_leader import IDLE, WEB
from tests.sim.scenario import Scenario


async def members_elect(play: Scenario) -> None:
    """A member is lost, or their leader: no answer for a while, and perhaps none ever to the commit under way."""
    await play.up(WEB, IDLE)
    for pause_s, loss in ((0.5, None), (1.0, Loss.REQUEST), (1.5, Loss.ANSWER), (2.5, None)):
        with play.untouched():
            play.cluster.database.freeze()
            await play.passes(pause_s)
            play.cluster.database.thaw()
            await play.settles(within_s=15.0)
        store = play.leader.store
        assert store is not None
        store.lose_next_commit = loss
        await _grows(play)


async def frozen(play: Scenario) -> None:
    """For 5 s and for 30 s, in the middle of a write: nobody leads, nobody can be elected, all goes on."""
    await play.up(WEB, IDLE)
    for pause_s in (5.0, 30.0):
        with play.untouched():
            play.cluster.database.freeze()
            await play.passes(pause_s)
            play.must(all(site.up for site in play.cluster.sites), "no controller gives up")
            play.cluster.database.thaw()
            await play.settles(within_s=15.0)
        play.must(play.lost() == 0, "nothing was given up")
        await _grows(play, frozen_s=pause_s)


async def restarted(play: Scenario) -> None:
    """Connections are refused, then leases last as long again as they did."""
    await play.up(WEB, IDLE)
    with play.untouched():
        _reachable(play, reachable=False)
        await play.passes(4.0)
        _reachable(play, reachable=True)
        await play.settles(within_s=15.0)
    await _grows(play)


async def full(play: Scenario) -> None:
    """Its quota or its disk: leases are renewed, nothing else is written, nobody new can be elected."""
    await play.up(WEB, IDLE)
    database = play.cluster.database
    before = play.containers()
    database.full = True
    replicas = _replicas(play) + 1
    play.cluster.engineer.scale("idle", replicas)
    await play.passes(20.0)
    play.must(not play.cluster.engineer.idle("idle"), "what was not written is not acknowledged")
    leader = play.leader
    play.must(leader.work is not None, "who leads goes on leading")
    await leader.kill(silently=False)
    await play.passes(20.0)
    play.must(play.cluster.leading() is None, "nobody new can be elected")
    play.must(play.containers() == before, "what runs goes on")
    database.make_room()
    await play.led_by_another(leader)
    leader.start()
    await _acknowledged(play, replicas)
    play.must(play.lost() == 0, "nothing was given up")
    play.must(before.items() <= play.containers().items(), "what ran before runs on")


async def _grows(play: Scenario, *, frozen_s: float = 0.0) -> None:
    """One replica more, asked for while etcd stands still if it does: acknowledged, and carried out."""
    replicas = _replicas(play) + 1
    play.cluster.engineer.scale("idle", replicas)
    if frozen_s:
        await play.passes(0.0005)
        play.cluster.database.freeze()
        await play.passes(frozen_s)
        play.cluster.database.thaw()
    await _acknowledged(play, replicas)


async def _acknowledged(play: Scenario, replicas: int) -> None:
    await play.until(lambda: play.cluster.engineer.idle("idle"), 60.0, "the engineer is answered")
    await play.settles()
    play.must(len(play.containers("idle")) == replicas, "what was acknowledged is so")


def _replicas(play: Scenario) -> int:
    return len(play.containers("idle"))


def _reachable(play: Scenario, *, reachable: bool) -> None:
    for site in play.cluster.sites:
        if site.store is not None:
            site.store.reachable = reachable
