"""Scenarios of the control plane's own faults: leaders that die, freeze, are cut off or come back from the past.

None of them may touch a healthy container (I6).
"""

from __future__ import annotations

import asyncio

import msgspec

from common.model.epoch import Epoch
from common.model.job import JobSpec, Port
from common.model.resources import Resources
from common.model.session import Assignments, ControllerMessage, Registered
from common.model.task import TaskState
from tests.sim.jobs import CHECK, job, task
from tests.sim.machine import Machine
from tests.sim.network import Connection
from tests.sim.scenario import Scenario

WEB = job("web", 4, task("web:1", 100, ports=(Port(container_port=80, published_port=8080),), health_check=CHECK))
IDLE = job("idle", 3, task("idle:1", 50))
STRANGER = "past:7077"


def web(image: str, replicas: int = 4, name: str = "web") -> JobSpec:
    container = msgspec.structs.replace(WEB.task.container, image=image)
    spec = msgspec.structs.replace(WEB.task, container=container)
    return msgspec.structs.replace(WEB, name=name, replicas=replicas, task=spec)


async def killed_idle(play: Scenario) -> None:
    await play.up(WEB, IDLE)
    leader = play.leader
    with play.untouched():
        await leader.kill(silently=False)
        await play.led_by_another(leader)
        await play.settles(within_s=5.0)
        leader.start()
        await play.settles()


async def killed_silently(play: Scenario) -> None:
    """Its machine dies with it: links stay half-open, and nobody tells the agents."""
    await play.up(WEB, IDLE)
    leader = play.leader
    with play.untouched(endpoints=False):
        await leader.kill(silently=True)
        await play.led_by_another(leader)
        await play.settles(within_s=10.0)


async def killed_while_it_commits(play: Scenario) -> None:
    """Again and again, each time a little later after a request."""
    await play.up(WEB)
    for number in range(8):
        leader = play.leader
        play.cluster.engineer.scale("web", 3 + number % 3)
        await play.passes(0.0004 + 0.0011 * number)
        await leader.kill(silently=False)
        await play.led_by_another(leader)
        await play.until(lambda: play.cluster.engineer.idle("web"), 10.0, "the engineer is answered")
        leader.start()
    await play.settles()


async def killed_in_a_rollout(play: Scenario) -> None:
    await play.up(WEB)
    play.cluster.engineer.up(web("web:2"))
    await play.until(lambda: _of_version(play, 2) >= 1, 30.0, "the rollout has begun")
    leader = play.leader
    await leader.kill(silently=False)
    await play.settles()
    play.must(_of_version(play, 2) == WEB.replicas, "the next leader finished the rollout")


async def killed_in_a_rollout_that_never_gets_healthy(play: Scenario) -> None:
    await play.up(WEB)
    await play.until(
        lambda: all(job.good_version for job in play.state.jobs.values()), 30.0, "there is one to go back to"
    )
    before = play.containers("web")
    play.cluster.engineer.up(web("bad:2"))
    await play.until(lambda: play.state.tasks and _of_version(play, 2, live=False) >= 1, 30.0, "the rollout has begun")
    await play.leader.kill(silently=False)
    await play.until(lambda: play.cluster.witness.rollbacks.get("web"), 120.0, "the rollout goes back")
    await play.settles()
    after = play.containers("web")
    play.must(before.items() <= after.items(), "the healthy containers of the old version were left alone")


async def killed_while_a_job_crashes(play: Scenario) -> None:
    """I7: neither the restart policy's count nor the slot's failures begin anew with a new leader."""
    crashing = job("crashing", 1, task("bad:1", 10))
    await play.up(crashing, settle=False)
    failures = 0
    for _ in range(6):
        leader = play.leader
        await leader.kill(silently=False)
        await play.led_by_another(leader)
        leader.start()
        await play.until(lambda above=failures: _failures(play) > above, 90.0, "its slot fails once more")
        failures = _failures(play)
    made = [one.identity for machine in play.cluster.machines for one in machine.engine.containers.values()]
    most = crashing.task.restart.max_attempts
    play.must(bool(made) and max(one.attempt for one in made) <= most, f"no task tries more than {most} times")


async def killed_in_a_submission(play: Scenario) -> None:
    """With a thousand replicas on their way: none is forgotten, none is doubled."""
    many = job("many", 1_000, task("many:1", 1, reservations=Resources(cpu_millis=1)))
    await play.until(lambda: play.cluster.leading() is not None, 5.0, "somebody leads")
    leader = play.leader
    play.cluster.engineer.up(many)
    await play.until(lambda: _placed(play) >= 300, 5.0, "some are placed", look_s=0.0005)
    play.must(_placed(play) < 1_000, "not all are placed yet")
    await leader.kill(silently=False)
    await play.settles()
    play.must(len(play.containers("many")) == 1_000, "a thousand run")


async def stopped_cleanly(play: Scenario) -> None:
    await play.up(WEB)
    leader = play.leader
    with play.untouched():
        began_s = play.now_s
        stopping = asyncio.get_running_loop().create_task(leader.stop())
        await play.led_by_another(leader, within_s=0.5)
        play.must(play.now_s - began_s <= 0.5, "the next one acts within half a second")
        await stopping
        await play.settles(within_s=5.0)
    await play.up(web("web:1", replicas=5))


async def frozen_and_woken_three_times(play: Scenario) -> None:
    """With writes and orders queued: they go out when it wakes, into a term that is over."""
    await play.up(WEB, IDLE)
    for replicas in (6, 3, 5):
        leader = play.leader
        play.cluster.engineer.scale("idle", replicas)
        await play.passes(0.001)
        leader.freeze()
        await play.led_by_another(leader)
        await play.passes(1.0)
        leader.thaw()
        await play.until(lambda: play.cluster.engineer.idle("idle"), 60.0, "the engineer is answered")
        await play.settles()
    with play.untouched():
        leader = play.leader
        leader.freeze()
        await play.passes(8.0)
        leader.thaw()
        await play.settles()


async def frozen_with_a_commit_on_its_way(play: Scenario) -> None:
    """The commit reaches the store when another one leads."""
    await play.up(IDLE)
    leader = play.leader
    assert leader.store is not None
    leader.store.wire_s = 6.0
    play.cluster.engineer.scale("idle", 5)
    await play.passes(0.1)
    leader.freeze()
    await play.led_by_another(leader)
    await play.passes(4.0)
    leader.thaw()
    await play.until(lambda: play.cluster.engineer.idle("idle"), 60.0, "the engineer is answered")
    await play.settles()
    play.must(len(play.containers("idle")) == 5, "what was acknowledged is so")


async def cut_from_the_store(play: Scenario) -> None:
    await play.up(WEB)
    leader = play.leader
    assert leader.store is not None
    with play.untouched():
        leader.store.reachable = False
        await play.led_by_another(leader)
        await play.settles(within_s=10.0)
        leader.store.reachable = True
        await play.settles()


async def slow_commits(play: Scenario) -> None:
    """Nothing is done about a change before the store has acknowledged it."""
    await play.up(IDLE)
    for site in play.cluster.sites:
        assert site.store is not None
        site.store.wire_s = 0.8
    await play.up(web("web:1"), settle=False)
    await play.settles()


async def cut_from_agents(play: Scenario, share: float) -> None:
    """The brake: so many at once are no dead nodes, so nothing is evicted."""
    await play.up(WEB, IDLE)
    leader = play.leader
    machines = play.cluster.machines[: round(len(play.cluster.machines) * share)]
    started = play.containers()
    for machine in machines:
        play.cluster.network.silence(machine.name, leader.address)
    await play.passes(4.0)
    braked = play.term.presence.brake
    await play.passes(8.0)
    for machine in machines:
        play.cluster.network.heal(machine.name, leader.address)
    await play.settles(within_s=10.0)
    play.must(play.lost() == 0, "nothing was evicted")
    play.must(play.containers() == started, "the same containers run")
    play.must(bool(braked), "the brake held")


async def cut_from_all_agents(play: Scenario) -> None:
    await cut_from_agents(play, 1.0)


async def cut_from_most_agents(play: Scenario) -> None:
    await cut_from_agents(play, 0.6)


async def takeover_while_an_agent_is_away(play: Scenario) -> None:
    """A new leader waits one down period for nodes it has not heard yet."""
    await play.up(WEB, IDLE)
    leader, machine = play.leader, play.cluster.machines[-1]
    play.must(play.running_on(machine) > 0, "something runs there")
    with play.untouched():
        await leader.kill(silently=False)
        await play.passes(2.0)
        _cut(play, machine)
        await play.led_by_another(leader)
        await play.passes(1.0)
        _heal(play, machine)
        await play.settles(within_s=10.0)
        play.must(play.lost() == 0, "nothing was evicted")


async def a_controller_of_the_past(play: Scenario) -> None:
    """It does not know that its epoch is over, and tells agents to stop everything: nobody obeys."""
    await play.up(WEB, IDLE)

    def serve(connection: Connection) -> None:
        past = Epoch(term=0)
        for body in (
            Registered(node_id="", session_id="past", heartbeat_period_s=1.0, acknowledge_timeout_s=2.0),
            Assignments(complete=True, sequence=1),
            Assignments(complete=True, sequence=2),
        ):
            connection.down.put(ControllerMessage(epoch=past, body=body))
        play.cluster.network.forget(connection)

    play.cluster.network.listen(STRANGER, serve)
    with play.untouched():
        sites = [site for site in play.cluster.sites if site.up]
        for site in sites:
            await site.kill(silently=False)
        await play.passes(6.0)
        for site in sites:
            site.start()
        await play.settles()


async def restored(play: Scenario) -> None:
    """The state of yesterday with a raised generation: agents accept it, and what they run beside it keeps running."""
    await play.up(IDLE)
    yesterday = dict(play.cluster.database.values)
    await play.up(WEB)
    newer = play.containers("web")
    play.must(bool(newer), "something newer runs")
    for site in play.cluster.sites:
        await site.stop()
    play.cluster.restore(yesterday)
    for site in play.cluster.sites:
        site.start()
    await play.until(lambda: play.cluster.leading() is not None, 10.0, "somebody leads")
    await play.until(lambda: _strays(play) == len(newer), 20.0, "the newer containers are reported as strays")
    await play.passes(30.0)
    play.must(play.containers("web") == newer, "they were left alone")


def _strays(play: Scenario) -> int:
    return sum(len(node.strays) for node in play.state.nodes.values())


def _cut(play: Scenario, machine: Machine) -> None:
    for site in play.cluster.sites:
        play.cluster.network.silence(machine.name, site.address)


def _heal(play: Scenario, machine: Machine) -> None:
    for site in play.cluster.sites:
        play.cluster.network.heal(machine.name, site.address)


def _of_version(play: Scenario, version: int, *, live: bool = True) -> int:
    return sum(
        one.version == version and (not live or one.status.state is TaskState.RUNNING)
        for one in play.state.tasks.values()
    )


def _failures(play: Scenario) -> int:
    found = play.state.job_named("shop", "crashing")
    assert found is not None
    return play.state.slot_of(found.id, 1).failures


def _placed(play: Scenario) -> int:
    return sum(bool(one.node_id) for one in play.state.tasks.values())
