"""What fails: containers, the machines with their agents, and the controllers with their store. Each method makes one
fault and says whom it met; nobody, where nobody is left to meet.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import msgspec

from agent.runtime.fake import FakeContainer
from controller.store.memory import Loss
from tests.sim.behaviour import SICK, WELL
from tests.sim.jobs import AUTOSCALED
from tests.sim.machine import Machine
from tests.sim.network import BOTH
from tests.sim.site import Site
from tests.sim.trouble import Trouble

KILLED = 137
DAY_S = 86_400.0
STORE, PROMETHEUS = "the store", "Prometheus"


class LoadChanges:
    """Of the jobs that follow their load."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self._demand = trouble.cluster.demand
        self._rng = trouble.rng

    async def change(self) -> str:
        """Now and then to more than they may become."""
        job, replicas = self._rng.choice(AUTOSCALED), self._rng.randint(0, 6)
        self._demand.set(job.name, replicas)
        return f"{job.name} has work for {replicas}"

    async def lose_source(self) -> str:
        if PROMETHEUS in self._trouble.busy:
            return ""
        self._demand.lose_source()

        async def heal() -> None:
            self._demand.find_source()

        return self._trouble.lasts(PROMETHEUS, heal)


class ContainerFaults:
    """Of one running container, anywhere."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self._cluster = trouble.cluster
        self._rng = trouble.rng

    async def kill_container(self) -> str:
        return self._end(KILLED)

    async def exit_container(self) -> str:
        return self._end(self._rng.choice((0, 1)))

    async def out_of_memory(self) -> str:
        found = self._container()
        if found is None:
            return ""
        machine, container = found
        container.behaviour = msgspec.structs.replace(container.behaviour, oom=True)
        machine.engine.end(container, KILLED)
        return container.id

    async def remove_container(self) -> str:
        """Somebody tidies up who should not."""
        found = self._container()
        if found is None:
            return ""
        machine, container = found
        machine.engine.forget(container)
        return container.id

    async def sicken(self) -> str:
        found = self._container()
        if found is None:
            return ""
        answer(found[1], well=False, hangs=self._rng.random() < 0.3)
        return found[1].id

    async def cure(self) -> str:
        sick = [one for machine in self._cluster.machines for one in machine.running() if _sick(one)]
        if not sick:
            return ""
        container = self._rng.choice(sick)
        answer(container, well=True)
        return container.id

    def _end(self, code: int) -> str:
        found = self._container()
        if found is None:
            return ""
        found[0].engine.end(found[1], code)
        return f"{found[1].id} with {code}"

    def _container(self) -> tuple[Machine, FakeContainer] | None:
        running = [(machine, one) for machine in self._cluster.machines for one in machine.running()]
        return self._rng.choice(running) if running else None


class MachineFaults:
    """Of a machine, its agent, its disk, its clock and its links to controllers."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self._cluster = trouble.cluster
        self._rng = trouble.rng

    async def crash_agent(self) -> str:
        return await self._without_agent(Machine.kill_agent)

    async def stop_agent(self) -> str:
        return await self._without_agent(Machine.stop_agent)

    async def freeze_agent(self) -> str:
        machine = self._trouble.machine()
        if machine is None:
            return ""
        machine.freeze()

        async def heal() -> None:
            machine.thaw()

        return self._trouble.lasts(machine.name, heal)

    async def fill_disk(self) -> str:
        """Nothing the agent wants to remember can be written."""
        machine = self._trouble.machine()
        if machine is None:
            return ""
        machine.journal.full = True

        async def heal() -> None:
            machine.journal.full = False

        return self._trouble.lasts(machine.name, heal)

    async def slow_disk(self) -> str:
        machine = self._trouble.machine()
        if machine is None:
            return ""
        machine.journal.write_s = self._rng.choice((0.01, 0.1, 0.5))

        async def heal() -> None:
            machine.journal.write_s = 0.0

        return self._trouble.lasts(machine.name, heal)

    async def lose_disk(self) -> str:
        async def lose(machine: Machine) -> None:
            await machine.kill_agent()
            machine.lose_disk()

        return await self._without_agent(lose)

    async def crash_machine(self) -> str:
        return await self._without_agent(Machine.die)

    async def cut(self) -> str:
        """One machine and one controller, or all, hear nothing of each other; nobody is told."""
        machine = self._trouble.machine()
        if machine is None:
            return ""
        addresses = [site.address for site in self._cluster.sites]
        if self._rng.random() < 0.4:
            addresses = [self._rng.choice(addresses)]
        for address in addresses:
            self._cluster.network.silence(machine.name, address)

        async def heal() -> None:
            for address in addresses:
                self._cluster.network.heal(machine.name, address)

        return self._trouble.lasts(machine.name, heal) + f" from {' and '.join(addresses)}"

    async def cut_one_way(self) -> str:
        """What one side says is heard, what the other one says is not."""
        machine = self._trouble.machine()
        if machine is None:
            return ""
        way = self._rng.choice(BOTH)
        for site in self._cluster.sites:
            self._cluster.network.silence(machine.name, site.address, (way,))

        async def heal() -> None:
            for site in self._cluster.sites:
                self._cluster.network.heal(machine.name, site.address)

        return self._trouble.lasts(machine.name, heal) + f" {way.value}"

    async def break_links(self) -> str:
        machine = self._rng.choice(self._cluster.machines)
        self._trouble.disturb(machine)
        self._cluster.network.break_links(machine.name)
        return machine.name

    async def slow_link(self) -> str:
        machine = self._trouble.machine()
        if machine is None:
            return ""
        self._cluster.network.slow(machine.name, slow=True)

        async def heal() -> None:
            self._cluster.network.slow(machine.name, slow=False)

        return self._trouble.lasts(machine.name, heal)

    async def engine_away(self) -> str:
        machine = self._trouble.machine()
        if machine is None:
            return ""
        machine.engine.away = "the engine is being upgraded"

        async def heal() -> None:
            machine.engine.away = ""

        return self._trouble.lasts(machine.name, heal)

    async def jump_clock(self) -> str:
        machine = self._rng.choice(self._cluster.machines)
        machine.skew_s += jump_s(self._rng)
        return machine.name

    async def _without_agent(self, end: Callable[[Machine], Awaitable[None]]) -> str:
        machine = self._trouble.machine()
        if machine is None:
            return ""
        self._trouble.busy[machine.name] = None
        await end(machine)

        async def heal() -> None:
            machine.start()

        return self._trouble.lasts(machine.name, heal)


class ControllerFaults:
    """Of a controller, or of the store that all of them share."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self._cluster = trouble.cluster
        self._rng = trouble.rng

    async def crash_controller(self) -> str:
        silently = self._rng.random() < 0.3
        return await self._without_controller(lambda site: site.kill(silently=silently))

    async def stop_controller(self) -> str:
        return await self._without_controller(Site.stop)

    async def freeze_controller(self) -> str:
        site = self._trouble.site()
        if site is None:
            return ""
        site.freeze()

        async def heal() -> None:
            site.thaw()

        return self._trouble.lasts(site.name, heal)

    async def jump_controllers_clock(self) -> str:
        site = self._rng.choice(self._cluster.sites)
        site.skew_s += jump_s(self._rng)
        return f"{site.name} to {site.skew_s:.1f}"

    async def cut_store(self) -> str:
        site = self._trouble.site()
        if site is None or site.store is None:
            return ""
        store = site.store
        store.reachable = False

        async def heal() -> None:
            store.reachable = True

        return self._trouble.lasts(site.name, heal)

    async def slow_store(self) -> str:
        site = self._trouble.site()
        if site is None or site.store is None:
            return ""
        store = site.store
        store.delay_s = self._rng.choice((0.05, 0.3, 0.9))

        async def heal() -> None:
            store.delay_s = 0.0

        return self._trouble.lasts(site.name, heal)

    async def freeze_store(self) -> str:
        """For all controllers: it elects a leader of its own, or is restarted."""
        if STORE in self._trouble.busy:
            return ""
        database = self._cluster.database
        database.freeze()

        async def heal() -> None:
            database.thaw()

        return self._trouble.lasts(STORE, heal)

    async def fill_store(self) -> str:
        if STORE in self._trouble.busy:
            return ""
        database = self._cluster.database
        database.full = True

        async def heal() -> None:
            database.make_room()

        return self._trouble.lasts(STORE, heal)

    async def lose_commit(self) -> str:
        site = self._trouble.site()
        if site is None or site.store is None:
            return ""
        site.store.lose_next_commit = self._rng.choice(list(Loss))
        return f"{site.name} {site.store.lose_next_commit.value}"

    async def end_term(self) -> str:
        """The lease is revoked, as a stalled etcd leader does."""
        self._cluster.database.end_term()
        return "the leader"

    async def _without_controller(self, end: Callable[[Site], Awaitable[None]]) -> str:
        site = self._trouble.site()
        if site is None:
            return ""
        self._trouble.busy[site.name] = None
        await end(site)

        async def heal() -> None:
            site.start()

        return self._trouble.lasts(site.name, heal)


def jump_s(rng: random.Random) -> float:
    return rng.choice((-1.0, 1.0)) * rng.choice((5.0, 3600.0, DAY_S, 2 * 365 * DAY_S))


def answer(container: FakeContainer, *, well: bool, hangs: bool = False) -> None:
    changes = {"exec_answer": WELL if well else SICK, "exec_s": 60.0 if hangs else 0.02}
    container.behaviour = msgspec.structs.replace(container.behaviour, **changes)


def _sick(container: FakeContainer) -> bool:
    return container.behaviour.exec_answer is SICK
