"""Exclusive tasks never overlap (I4), however long agents and leaders are cut off, frozen or dead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest

from agent.runtime.fake import FakeContainer
from common.model.job import HealthCheck, JobSpec
from common.model.node import NodeStatus
from tests.sim.cluster import Cluster, running
from tests.sim.jobs import job, task
from tests.sim.loop import SimLoop
from tests.sim.machine import Machine
from tests.sim.network import BOTH, Way
from tests.sim.record import Record, Violation, listening
from tests.sim.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

REPLICAS = 3
LONGEST_S = 100.0
"""Of a fault: beyond T_self with its grace, and beyond T_lost."""
SETTLES_WITHIN_S = 200.0


def alone(version: int, *, checked: bool = False) -> JobSpec:
    check = HealthCheck(test=("CMD", "/up"), interval_s=2.0, timeout_s=1.0, retries=2) if checked else None
    spec = task(f"alone:{version}", 100, health_check=check)
    return job("alone", REPLICAS, msgspec.structs.replace(spec, exclusive=True))


class Watch:
    """Sees every container of the job start and end, whatever the agents and controllers believe."""

    def __init__(self, cluster: Cluster) -> None:
        self.starts = 0
        self._record = cluster.record
        self._running: dict[str, dict[str, FakeContainer]] = {}
        self._tokens: dict[str, tuple[int, str]] = {}
        witness = cluster.witness
        started, ended = witness.started, witness.ended

        def both_started(machine: str, container: FakeContainer) -> None:
            started(machine, container)
            self.started(machine, container)

        def both_ended(machine: str, container: FakeContainer) -> None:
            ended(machine, container)
            self.ended(machine, container)

        witness.started, witness.ended = both_started, both_ended  # type: ignore[method-assign]

    def started(self, machine: str, container: FakeContainer) -> None:
        if container.identity.job != "alone":
            return
        self.starts += 1
        slot = f"{container.identity.job}.{container.identity.slot}"
        others = self._running.setdefault(slot, {})
        if others:
            self._record.violated(f"I4: {machine} starts {container.id} of {slot} while {', '.join(others)} runs")
        others[f"{machine}/{container.id}"] = container
        token, task_id = (
            int(container.request.container.environment["PODIUM_FENCING_TOKEN"]),
            container.identity.task_id,
        )
        before, holder = self._tokens.get(slot, (0, ""))
        if token <= before and task_id != holder:
            self._record.violated(f"{slot} has token {token} after {before}")
        self._tokens[slot] = max((token, task_id), (before, holder))

    def ended(self, machine: str, container: FakeContainer) -> None:
        slot = f"{container.identity.job}.{container.identity.slot}"
        self._running.get(slot, {}).pop(f"{machine}/{container.id}", None)

    def running(self) -> int:
        return sum(len(containers) for containers in self._running.values())


class Faults:
    """One fault at a time and machine or controller, each of which heals by itself."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._busy: dict[object, None] = {}
        self._version = 1
        self._healing: set[asyncio.Task[None]] = set()

    async def act(self) -> None:
        rng = self._rng
        acts: list[Callable[[], Awaitable[None]]] = [
            *(self._cut, self._cut, self._one_way, self._freeze_agent, self._freeze_agent, self._kill_agent),
            *(self._kill_agent, self._die, self._freeze_controller, self._kill_controller, self._cut_store),
            *(self._break, self._crash, self._roll_out, self._engine_away),
        ]
        await rng.choice(acts)()

    async def calm(self) -> None:
        while self._healing:
            await asyncio.wait(set(self._healing))

    # --- machines

    async def _cut(self) -> None:
        if machine := self._machine():
            sites = self._cluster.sites if self._rng.random() < 0.7 else [self._rng.choice(self._cluster.sites)]
            self._silence(machine, sites, BOTH)

    async def _one_way(self) -> None:
        if machine := self._machine():
            self._silence(machine, self._cluster.sites, (self._rng.choice(BOTH),))

    def _silence(self, machine: Machine, sites: list[Site], ways: tuple[Way, ...]) -> None:
        for site in sites:
            self._cluster.network.silence(machine.name, site.address, ways)

        async def heal() -> None:
            for site in sites:
                self._cluster.network.heal(machine.name, site.address)

        self._later(machine, heal)

    async def _freeze_agent(self) -> None:
        if machine := self._machine():
            machine.freeze()

            async def heal() -> None:
                machine.thaw()

            self._later(machine, heal)

    async def _kill_agent(self) -> None:
        if machine := self._machine():
            await machine.kill_agent()

            async def heal() -> None:
                machine.start()

            self._later(machine, heal)

    async def _die(self) -> None:
        if machine := self._machine():
            await machine.die()

            async def heal() -> None:
                machine.start()

            self._later(machine, heal)

    async def _engine_away(self) -> None:
        if machine := self._machine():
            machine.engine.away = "it hangs"

            async def heal() -> None:
                machine.engine.away = ""

            self._later(machine, heal)

    async def _break(self) -> None:
        self._cluster.network.break_links(self._rng.choice(self._cluster.machines).name)

    async def _crash(self) -> None:
        machine = self._rng.choice(self._cluster.machines)
        for container in machine.running():
            machine.engine.end(container, 1)

    def _machine(self) -> Machine | None:
        """One that nothing disturbs; two are left alone, so that something is always going on."""
        free = [machine for machine in self._cluster.machines if machine not in self._busy]
        return self._rng.choice(free) if len(free) > 2 else None

    # --- controllers

    async def _freeze_controller(self) -> None:
        if site := self._site():
            site.freeze()

            async def heal() -> None:
                site.thaw()

            self._later(site, heal)

    async def _kill_controller(self) -> None:
        if site := self._site():
            await site.kill(silently=self._rng.random() < 0.5)

            async def heal() -> None:
                site.start()

            self._later(site, heal)

    async def _cut_store(self) -> None:
        site = self._site()
        if site is None or site.store is None:
            return
        store = site.store
        store.reachable = False

        async def heal() -> None:
            store.reachable = True

        self._later(site, heal)

    def _site(self) -> Site | None:
        free = [site for site in self._cluster.sites if site not in self._busy]
        return self._rng.choice(free) if len(free) > 1 else None

    # --- the engineer

    async def _roll_out(self) -> None:
        self._version += 1
        self._cluster.engineer.up(alone(self._version, checked=self._rng.random() < 0.5))

    def _later(self, what: object, heal: Callable[[], Awaitable[None]]) -> None:
        self._busy[what] = None

        async def later() -> None:
            await asyncio.sleep(self._rng.uniform(0.2, LONGEST_S))
            await heal()
            await asyncio.sleep(self._rng.uniform(0.0, 5.0))
            del self._busy[what]

        task = asyncio.get_running_loop().create_task(later())
        self._healing.add(task)
        task.add_done_callback(self._healing.discard)


def play(act: Callable[[Cluster, Watch], Awaitable[None]], seed: int) -> tuple[Record, Watch]:
    record = Record()
    watches: list[Watch] = []

    async def run() -> None:
        async with running(seed, record) as cluster:
            watch = Watch(cluster)
            watches.append(watch)
            cluster.engineer.up(alone(1))
            await until(lambda: watch.running() == REPLICAS, record, "all slots run")
            await act(cluster, watch)
            record.check()

    with asyncio.Runner(loop_factory=SimLoop) as runner, listening(record, verbose=False):
        try:
            runner.run(run())
        except Violation as violation:
            raise Violation(f"seed {seed}: {violation}\n" + "\n".join(list(record.lines)[-80:])) from None
    return record, watches[0]


async def until(holds: Callable[[], object], record: Record, what: str, within_s: float = SETTLES_WITHIN_S) -> float:
    """Seconds until it held."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    while not holds():
        if loop.time() > begun_s + within_s:
            raise Violation(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(0.1)
        record.check()
    return loop.time() - begun_s


@pytest.mark.parametrize("seed", range(1, 5))
def test_no_two_tasks_of_a_slot_ever_run_at_once_and_each_runs_in_the_end(seed: int) -> None:
    async def act(cluster: Cluster, watch: Watch) -> None:
        faults = Faults(cluster, random.Random(f"{seed} faults"))
        for _ in range(150):
            await asyncio.sleep(faults._rng.expovariate(1 / 6.0))
            await faults.act()
            cluster.record.check()
        await faults.calm()
        await until(lambda: watch.running() == REPLICAS, cluster.record, "all slots run again")

    _, watch = play(act, seed)
    assert watch.starts > 5 * REPLICAS


def holder(cluster: Cluster) -> Iterator[Machine]:
    for machine in cluster.machines:
        if any(container.identity.job == "alone" for container in machine.running()):
            yield machine


def test_a_cut_off_node_stops_its_task_and_another_node_runs_it_afterwards() -> None:
    async def act(cluster: Cluster, watch: Watch) -> None:
        machine = next(holder(cluster))
        task_ids = {one.identity.task_id for one in machine.running()}
        for site in cluster.sites:
            cluster.network.silence(machine.name, site.address)
        stopped_s = await until(lambda: not machine.running(), cluster.record, "it stops by itself")
        assert 14.0 <= stopped_s <= 15.0 + 3.0 + 0.6, "T_self from the last heartbeat, and at most the grace of 3 s"
        replaced_s = stopped_s + await until(lambda: watch.running() == REPLICAS, cluster.record, "it runs elsewhere")
        assert 39.0 <= replaced_s <= 46.0
        for site in cluster.sites:
            cluster.network.heal(machine.name, site.address)
        await until(lambda: ready(cluster, machine), cluster.record, "the node is back")
        await asyncio.sleep(20.0)
        assert watch.running() == REPLICAS
        assert not task_ids & {one.identity.task_id for one in machine.running()}

    play(act, 11)


def test_a_cut_shorter_than_the_permission_changes_nothing() -> None:
    async def act(cluster: Cluster, watch: Watch) -> None:
        machine = next(holder(cluster))
        starts = watch.starts
        for site in cluster.sites:
            cluster.network.silence(machine.name, site.address)
        await asyncio.sleep(10.0)
        for site in cluster.sites:
            cluster.network.heal(machine.name, site.address)
        await asyncio.sleep(60.0)
        assert (watch.running(), watch.starts) == (REPLICAS, starts)

    play(act, 12)


@pytest.mark.parametrize("dead", [False, True])
def test_the_guard_ends_what_a_frozen_or_dead_agent_cannot(dead: bool) -> None:
    async def act(cluster: Cluster, watch: Watch) -> None:
        machine = next(holder(cluster))
        starts = watch.starts
        if dead:
            await machine.kill_agent()
        else:
            machine.freeze()
        await until(lambda: not machine.running(), cluster.record, "the guard ends it", within_s=22.0)
        assert watch.starts == starts, "and until then nobody else ran it"
        await until(lambda: watch.running() == REPLICAS, cluster.record, "it runs elsewhere")
        machine.start() if dead else machine.thaw()
        await asyncio.sleep(30.0)
        assert watch.running() == REPLICAS
        assert machine.guard.kills

    play(act, 13)


def test_an_agent_that_returns_soon_keeps_its_task() -> None:
    async def act(cluster: Cluster, watch: Watch) -> None:
        machine = next(holder(cluster))
        starts = watch.starts
        await machine.kill_agent()
        await asyncio.sleep(8.0)
        machine.start()
        await asyncio.sleep(60.0)
        assert (watch.running(), watch.starts) == (REPLICAS, starts)

    play(act, 14)


def ready(cluster: Cluster, machine: Machine) -> bool:
    leading = cluster.leading()
    condition = leading.presence.conditions.get(machine.node_id) if leading else None
    return condition is not None and condition.status is NodeStatus.READY
