"""The random actions: what fails, for how long, and what the engineer asks for in the meantime.

A fault that lasts heals by itself after a while, drawn so that every timer of the cluster is missed, hit and exceeded.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec

from agent.runtime.fake import FakeContainer
from common.model.job import DesiredState, Job, JobSpec
from common.model.node import Availability
from common.model.rollout import RolloutPhase
from controller.core import rollout_machine
from controller.core.dependencies import waits_for
from controller.store.memory import Loss
from tests.sim.behaviour import SICK, WELL
from tests.sim.cluster import Cluster
from tests.sim.engineer import with_image
from tests.sim.jobs import JOBS, MOST_REPLICAS
from tests.sim.machine import Machine
from tests.sim.network import BOTH
from tests.sim.site import Site

Heal = Callable[[], Awaitable[None]]

KILLED = 137
DAY_S = 86_400.0
ANSWERED_WITHIN_S = 300.0
"""Without faults; a request to a job that is being removed waits until that is gone."""
STORE = "the store"
BAD = "bad"
"""Images of this name crash."""


class Actions:
    """See the module. `act` does one of them; `calm` ends every fault."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._specs: dict[str, JobSpec] = {spec.name: spec for spec in JOBS}
        self._images = 1
        self._healing: dict[asyncio.Task[None], None] = {}
        self._heals: dict[int, Heal] = {}
        self._busy: dict[str, None] = {}
        self._faults = 0
        self._kinds: dict[Callable[[], Awaitable[str]], int] = {
            self.kill_container: 12,
            self.exit_container: 8,
            self.out_of_memory: 4,
            self.remove_container: 3,
            self.sicken: 6,
            self.cure: 5,
            self.crash_agent: 7,
            self.stop_agent: 2,
            self.freeze_agent: 4,
            self.lose_disk: 2,
            self.fill_disk: 2,
            self.slow_disk: 2,
            self.crash_machine: 4,
            self.cut: 6,
            self.cut_one_way: 4,
            self.break_links: 4,
            self.slow_link: 3,
            self.engine_away: 4,
            self.jump_clock: 2,
            self.crash_controller: 4,
            self.stop_controller: 2,
            self.freeze_controller: 5,
            self.jump_controllers_clock: 2,
            self.cut_store: 3,
            self.slow_store: 2,
            self.freeze_store: 2,
            self.fill_store: 2,
            self.lose_commit: 2,
            self.end_term: 2,
            self.scale: 10,
            self.update: 5,
            self.update_badly: 3,
            self.restart: 4,
            self.steer: 12,
            self.stop: 3,
            self.up: 6,
            self.remove: 1,
            self.cordon: 2,
            self.drain: 4,
            self.uncordon: 6,
        }

    def spare_containers(self) -> None:
        """From now on only what controllers, their store and the links to them may suffer."""
        self._cluster.behaviours.calm()
        kinds = (
            self.break_links,
            self.jump_clock,
            self.crash_controller,
            self.stop_controller,
            self.freeze_controller,
            self.jump_controllers_clock,
            self.cut_store,
            self.slow_store,
            self.freeze_store,
            self.fill_store,
            self.lose_commit,
            self.end_term,
        )
        self._kinds = {kind: self._kinds[kind] for kind in kinds}

    async def begin(self, *, exclusive: bool = True) -> None:
        """Deploy. Without `exclusive`: no jobs that nodes stop by themselves when nobody leads for long."""
        if not exclusive:
            self._specs = {name: spec for name, spec in self._specs.items() if not spec.task.exclusive}
        for spec in self._specs.values():
            self._cluster.engineer.up(spec)
        await self._answered()

    async def act(self) -> None:
        """One random action."""
        kinds = list(self._kinds)
        (kind,) = self._rng.choices(kinds, weights=list(self._kinds.values()))
        done = await kind()
        self._cluster.record.note("action", f"{kind.__name__} {done or 'nobody'}")

    async def calm(self) -> None:
        """Faults stop: everything heals at once, and whatever was broken on purpose is mended."""
        for task in tuple(self._healing):
            task.cancel()
        for number in list(self._heals):
            await self._heal(number)
        self._cluster.behaviours.calm()
        for machine in self._cluster.machines:
            machine.data_plane.drains = False
            machine.set_clock_right()
            for container in machine.engine.containers.values():
                _answer(container, well=True)
        for site in self._cluster.sites:
            assert site.store is not None
            site.skew_s = 0.0
            site.store.lose_next_commit = None
        for name in self._held_back():  # the rest cannot hold everything
            self._cluster.engineer.order(name, Availability.ACTIVE)
        await self._answered()

    async def _answered(self) -> None:
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                await self._cluster.engineer.answered()
        except TimeoutError:
            self._cluster.record.violated(f"the engineer has waited {ANSWERED_WITHIN_S:g} s for an answer")
        self._cluster.record.check()

    def mend(self) -> None:
        """Give jobs whose image is broken, or whose rollout was paused, one that works: also those that went back."""
        state = self._cluster.witness.state
        for job in tuple(state.jobs.values()):
            broken = state.spec_of(job).task.container.image.startswith(BAD) or bool(job.paused)
            broken = broken or _phase(job) is RolloutPhase.FAILED
            wish = self._cluster.engineer.wishes[job.name]
            wanted = wish.spec is not None and wish.desired is DesiredState.RUN
            if broken and wanted and self._cluster.engineer.idle(job.name):
                self._cluster.engineer.up(self._new_image(self._specs[job.name], bad=False))
            elif wanted and _phase(job) is RolloutPhase.AWAITING and self._cluster.engineer.idle(job.name):
                self._cluster.engineer.steer(job.name, "promote")
            if wanted and waits_for(state, state.spec_of(job)) and self._runs_badly(job):
                for dependency in state.spec_of(job).depends_on:  # its mended version waits for what was stopped
                    self._bring_back(dependency.job)

    def _runs_badly(self, job: Job) -> bool:
        state = self._cluster.witness.state
        live = [task for task in state.tasks_of_job(job.id).values() if not task.ended]
        return any(state.spec_of_task(task).task.container.image.startswith(BAD) for task in live)

    def _bring_back(self, name: str) -> None:
        wish = self._cluster.engineer.wishes[name]
        missed = wish.spec is None or wish.desired is DesiredState.STOP or not wish.replicas
        if missed and self._cluster.engineer.idle(name):
            spec = self._specs[name]
            self._specs[name] = msgspec.structs.replace(spec, replicas=max(1, spec.replicas))
            self._cluster.engineer.up(self._specs[name])

    # --- containers

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
        _answer(found[1], well=False, hangs=self._rng.random() < 0.3)
        return found[1].id

    async def cure(self) -> str:
        sick = [one for machine in self._cluster.machines for one in machine.running() if _sick(one)]
        if not sick:
            return ""
        container = self._rng.choice(sick)
        _answer(container, well=True)
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

    # --- machines

    async def crash_agent(self) -> str:
        return await self._without_agent(Machine.kill_agent)

    async def stop_agent(self) -> str:
        return await self._without_agent(Machine.stop_agent)

    async def freeze_agent(self) -> str:
        machine = self._machine()
        if machine is None:
            return ""
        machine.freeze()

        async def heal() -> None:
            machine.thaw()

        return self._lasts(machine.name, heal)

    async def fill_disk(self) -> str:
        """Nothing the agent wants to remember can be written."""
        machine = self._machine()
        if machine is None:
            return ""
        machine.journal.full = True

        async def heal() -> None:
            machine.journal.full = False

        return self._lasts(machine.name, heal)

    async def slow_disk(self) -> str:
        machine = self._machine()
        if machine is None:
            return ""
        machine.journal.write_s = self._rng.choice((0.01, 0.1, 0.5))

        async def heal() -> None:
            machine.journal.write_s = 0.0

        return self._lasts(machine.name, heal)

    async def lose_disk(self) -> str:
        async def lose(machine: Machine) -> None:
            await machine.kill_agent()
            machine.lose_disk()

        return await self._without_agent(lose)

    async def crash_machine(self) -> str:
        return await self._without_agent(Machine.die)

    async def cut(self) -> str:
        """One machine and one controller, or all, hear nothing of each other; nobody is told."""
        machine = self._machine()
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

        return self._lasts(machine.name, heal) + f" from {' and '.join(addresses)}"

    async def cut_one_way(self) -> str:
        """What one side says is heard, what the other one says is not."""
        machine = self._machine()
        if machine is None:
            return ""
        way = self._rng.choice(BOTH)
        for site in self._cluster.sites:
            self._cluster.network.silence(machine.name, site.address, (way,))

        async def heal() -> None:
            for site in self._cluster.sites:
                self._cluster.network.heal(machine.name, site.address)

        return self._lasts(machine.name, heal) + f" {way.value}"

    async def break_links(self) -> str:
        machine = self._rng.choice(self._cluster.machines)
        self._disturb(machine)
        self._cluster.network.break_links(machine.name)
        return machine.name

    async def slow_link(self) -> str:
        machine = self._machine()
        if machine is None:
            return ""
        self._cluster.network.slow(machine.name, slow=True)

        async def heal() -> None:
            self._cluster.network.slow(machine.name, slow=False)

        return self._lasts(machine.name, heal)

    async def engine_away(self) -> str:
        machine = self._machine()
        if machine is None:
            return ""
        machine.engine.away = "the engine is being upgraded"

        async def heal() -> None:
            machine.engine.away = ""

        return self._lasts(machine.name, heal)

    async def jump_clock(self) -> str:
        machine = self._rng.choice(self._cluster.machines)
        machine.skew_s += self._jump_s()
        return machine.name

    def _jump_s(self) -> float:
        return self._rng.choice((-1.0, 1.0)) * self._rng.choice((5.0, 3600.0, DAY_S, 2 * 365 * DAY_S))

    async def _without_agent(self, end: Callable[[Machine], Awaitable[None]]) -> str:
        machine = self._machine()
        if machine is None:
            return ""
        self._busy[machine.name] = None
        await end(machine)

        async def heal() -> None:
            machine.start()

        return self._lasts(machine.name, heal)

    def _machine(self) -> Machine | None:
        """One that no other lasting fault concerns."""
        free = [machine for machine in self._cluster.machines if machine.name not in self._busy]
        if not free:
            return None
        machine = self._rng.choice(free)
        self._disturb(machine)
        return machine

    def _disturb(self, machine: Machine) -> None:
        machine.disturbed_at_s = asyncio.get_running_loop().time()

    # --- controllers and their store

    async def crash_controller(self) -> str:
        silently = self._rng.random() < 0.3
        return await self._without_controller(lambda site: site.kill(silently=silently))

    async def stop_controller(self) -> str:
        return await self._without_controller(Site.stop)

    async def freeze_controller(self) -> str:
        site = self._site()
        if site is None:
            return ""
        site.freeze()

        async def heal() -> None:
            site.thaw()

        return self._lasts(site.name, heal)

    async def jump_controllers_clock(self) -> str:
        site = self._rng.choice(self._cluster.sites)
        site.skew_s += self._jump_s()
        return f"{site.name} to {site.skew_s:.1f}"

    async def cut_store(self) -> str:
        site = self._site()
        if site is None or site.store is None:
            return ""
        store = site.store
        store.reachable = False

        async def heal() -> None:
            store.reachable = True

        return self._lasts(site.name, heal)

    async def slow_store(self) -> str:
        site = self._site()
        if site is None or site.store is None:
            return ""
        store = site.store
        store.delay_s = self._rng.choice((0.05, 0.3, 0.9))

        async def heal() -> None:
            store.delay_s = 0.0

        return self._lasts(site.name, heal)

    async def freeze_store(self) -> str:
        """For all controllers: it elects a leader of its own, or is restarted."""
        if STORE in self._busy:
            return ""
        database = self._cluster.database
        database.freeze()

        async def heal() -> None:
            database.thaw()

        return self._lasts(STORE, heal)

    async def fill_store(self) -> str:
        if STORE in self._busy:
            return ""
        database = self._cluster.database
        database.full = True

        async def heal() -> None:
            database.make_room()

        return self._lasts(STORE, heal)

    async def lose_commit(self) -> str:
        site = self._site()
        if site is None or site.store is None:
            return ""
        site.store.lose_next_commit = self._rng.choice(list(Loss))
        return f"{site.name} {site.store.lose_next_commit.value}"

    async def end_term(self) -> str:
        """The lease is revoked, as a stalled etcd leader does."""
        self._cluster.database.end_term()
        return "the leader"

    async def _without_controller(self, end: Callable[[Site], Awaitable[None]]) -> str:
        site = self._site()
        if site is None:
            return ""
        self._busy[site.name] = None
        await end(site)

        async def heal() -> None:
            site.start()

        return self._lasts(site.name, heal)

    def _site(self) -> Site | None:
        """Rather the leader: it is the one that matters."""
        free = [site for site in self._cluster.sites if site.name not in self._busy]
        leading = [site for site in free if site.work is not None]
        return self._rng.choice(leading if leading and self._rng.random() < 0.7 else free) if free else None

    # --- the engineer

    async def scale(self) -> str:
        name = self._job()
        if self._specs[name].mode.per_node:  # there is no number to set
            return await self.up()
        replicas = self._rng.randint(0, MOST_REPLICAS[name])
        self._specs[name] = msgspec.structs.replace(self._specs[name], replicas=replicas)
        self._cluster.engineer.scale(name, replicas)
        return f"{name} to {replicas}"

    async def update(self) -> str:
        spec = self._new_image(self._specs[self._job()], bad=False)
        self._cluster.engineer.up(spec)
        return f"{spec.name} to {spec.task.container.image}"

    async def update_badly(self) -> str:
        spec = self._new_image(self._specs[self._job()], bad=True)
        self._cluster.engineer.up(spec)
        return f"{spec.name} to {spec.task.container.image}"

    async def steer(self) -> str:
        """Rather a job whose rollout is under way: most of this makes no sense of others."""
        jobs = self._cluster.witness.state.jobs.values()
        names = sorted(job.name for job in jobs if rollout_machine.active(job.rollout))
        name = self._rng.choice(names) if names else self._job()
        verb = self._rng.choice(("rollback", "pause", "resume", "resume", "promote", "promote"))
        self._cluster.engineer.steer(name, verb)
        return f"{verb} {name}"

    async def up(self) -> str:
        name = self._job()
        self._cluster.engineer.up(self._specs[name])
        return name

    async def restart(self) -> str:
        name = self._job()
        self._cluster.engineer.restart(name)
        return name

    async def stop(self) -> str:
        name = self._job()
        self._cluster.engineer.stop(name)
        return name

    async def remove(self) -> str:
        name = self._job()
        self._cluster.engineer.remove(name)
        return name

    async def cordon(self) -> str:
        return self._order(Availability.CORDONED)

    async def drain(self) -> str:
        return self._order(Availability.DRAINING)

    async def uncordon(self) -> str:
        held_back = self._held_back()
        if not held_back:
            return ""
        name = self._rng.choice(held_back)
        self._cluster.engineer.order(name, Availability.ACTIVE)
        return name

    def _order(self, wanted: Availability) -> str:
        name = self._rng.choice(self._cluster.machines).name
        self._cluster.engineer.order(name, wanted)
        return name

    def _held_back(self) -> list[str]:
        """Nodes that take no new tasks, or soon will not."""
        nodes = self._cluster.witness.state.nodes.values()
        held_back = {node.name for node in nodes if node.availability is not Availability.ACTIVE}
        names = [machine.name for machine in self._cluster.machines]
        return [name for name in names if name in held_back or not self._cluster.engineer.idle_about(name)]

    def _job(self) -> str:
        return self._rng.choice(list(self._specs))

    def _new_image(self, spec: JobSpec, *, bad: bool) -> JobSpec:
        self._images += 1
        kind = BAD if bad else "batch" if spec.name == "report" else spec.name
        spec = with_image(spec, f"{kind}:{self._images}", spec.replicas)
        self._specs[spec.name] = spec
        return spec

    # --- what lasts

    def _lasts(self, who: str, heal: Heal) -> str:
        """Keep `who` in trouble for a while."""
        seconds = self._duration_s()
        self._busy[who] = None
        self._faults += 1
        number = self._faults

        async def free() -> None:
            await heal()
            self._busy.pop(who, None)
            for machine in self._cluster.machines:
                if machine.name == who:
                    self._disturb(machine)

        self._heals[number] = free
        task = asyncio.get_running_loop().create_task(self._heal_in(seconds, number))
        self._healing[task] = None
        task.add_done_callback(lambda done: self._healing.pop(done, None))
        return f"{who} for {seconds:.2f} s"

    def _duration_s(self) -> float:
        low, high = self._rng.choice(((0.05, 1.0), (1.0, 3.0), (2.4, 6.5), (6.0, 30.0)))
        return self._rng.uniform(low, high)

    async def _heal_in(self, seconds: float, number: int) -> None:
        await asyncio.sleep(seconds)
        await self._heal(number)

    async def _heal(self, number: int) -> None:
        heal = self._heals.pop(number, None)
        if heal is not None:
            self._cluster.record.note("heal", f"fault {number}")
            await heal()


def _phase(job: Job) -> RolloutPhase | None:
    return job.rollout.phase if job.rollout is not None else None


def _answer(container: FakeContainer, *, well: bool, hangs: bool = False) -> None:
    changes = {"exec_answer": WELL if well else SICK, "exec_s": 60.0 if hangs else 0.02}
    container.behaviour = msgspec.structs.replace(container.behaviour, **changes)


def _sick(container: FakeContainer) -> bool:
    return container.behaviour.exec_answer is SICK
