"""The whole cluster: controllers, machines, network, engineer and witness; and whether it has converged."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from agent.runtime.fake import FakeContainer
from agent.settings import AgentBounds
from common.model.job import DesiredState, Job, PublishMode
from common.model.node import NodeStatus
from common.model.task import Health, Task, TaskState
from controller.app import TermWork
from controller.core.dependencies import waits_for
from controller.core.settings import ENDED_KEPT_OUTSIDE, ENDED_KEPT_PER_SLOT, VERSIONS_KEPT
from controller.core.targets import targets_of
from controller.settings import Timers
from controller.store.interface import LeaderRecord
from controller.store.keys import encode, key_of
from tests.sim.behaviour import DECLARED, DECLARING, Behaviours
from tests.sim.demand import Demand
from tests.sim.engineer import Engineer, Wish
from tests.sim.machine import Machine
from tests.sim.network import Network
from tests.sim.record import Record
from tests.sim.site import SimDatabase, Site
from tests.sim.witness import Witness, is_batch, name, wanted

TIMERS = Timers()
LOOK_EVERY_S = 0.25
STALE_LIMIT_S = 60.0
ENDED_KEPT_ON_NODE = AgentBounds().ended_kept


class Size(msgspec.Struct, frozen=True, kw_only=True):
    controllers: int = 2
    machines: int = 5
    strangers: tuple[str, ...] = ()
    """Addresses that agents take for controllers' too."""


USUAL = Size()


class Cluster:
    """See the module."""

    def __init__(self, seed: int, record: Record, size: Size = USUAL) -> None:
        self.record = record
        self.witness = Witness(record)
        self.database = SimDatabase(self.witness)
        self.network = Network(random.Random(f"{seed} network"))
        self.behaviours = Behaviours(random.Random(f"{seed} behaviours"))
        self.demand = Demand(lambda: itertools.chain.from_iterable(machine.running() for machine in self.machines))
        self.witness.scalings.away_since_s = lambda: self.demand.away_since_s
        self.sites = [
            Site(
                f"c{number}",
                seed=seed,
                database=self.database,
                network=self.network,
                timers=TIMERS,
                record=record,
                ask=self.demand.ask,
            )
            for number in range(size.controllers)
        ]
        self.machines = [
            self._machine(number, seed, (*(site.address for site in self.sites), *size.strangers))
            for number in range(1, size.machines + 1)
        ]
        self._copies: list[Machine] = []
        self._seed = seed
        self.engineer = Engineer(self.sites, self.witness, record)
        self._unwanted: dict[str, float] = {}
        self._last_leader: LeaderRecord | None = None
        self._led_since_s = 0.0

    def _machine(self, number: int, seed: int, controllers: tuple[str, ...]) -> Machine:
        return Machine(
            number,
            seed=seed,
            network=self.network,
            controllers=controllers,
            behaviours=self.behaviours,
            demand=self.demand,
            witness=self.witness,
            record=self.record,
        )

    def copy_of(self, machine: Machine) -> Machine:
        """One more machine, not begun, whose disk is a copy of this one's; no machine of the cluster."""
        number = len(self.machines) + len(self._copies) + 1
        copy = self._machine(number, self._seed, tuple(site.address for site in self.sites))
        copy.copy_disk_of(machine)
        self._copies.append(copy)
        return copy

    def leading(self) -> TermWork | None:
        """The work of the term that holds the leader key."""
        leader = self.database.leader
        works = [site.work for site in self.sites if site.work is not None]
        return next((work for work in works if leader is not None and work.epoch == leader.epoch), None)

    def restore(self, values: Mapping[str, bytes]) -> None:
        """An older state in the store, as of a backup, with a raised generation. Nobody leads meanwhile."""
        assert self.database.leader is None
        self.database.values = dict(values)
        self.database.generation += 1
        self.witness.restored(values)
        self.engineer.wishes.clear()
        self.engineer.orders.clear()

    async def close(self) -> None:
        await self.engineer.close()
        for machine in (*self.machines, *self._copies):
            machine.thaw()
            await machine.stop_agent()
        for site in self.sites:
            site.thaw()
            if site.up:
                await site.stop()

    # --- while it lasts

    async def passes(self, seconds: float) -> None:
        """Let time pass, looking."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        while (left_s := until_s - loop.time()) > 1e-6:
            await asyncio.sleep(min(left_s, LOOK_EVERY_S))
            self.look(STALE_LIMIT_S)
            self.record.check()

    def look(self, stale_limit_s: float) -> None:
        """What takes time to show: containers that nobody wants must end soon on machines that nothing disturbs."""
        now_s = asyncio.get_running_loop().time()
        leader = self.database.leader
        if leader != self._last_leader:
            self._last_leader, self._led_since_s = leader, now_s
        unwanted: dict[str, float] = {}
        for machine in self.machines:
            for container in machine.running():
                key = f"{machine.name}/{container.id}"
                if not self._is_wanted(container):
                    unwanted[key] = max(self._unwanted.get(key, now_s), machine.disturbed_at_s, self._led_since_s)
                    if machine.up and now_s - unwanted[key] > stale_limit_s:
                        self.record.violated(f"{key} of {container.identity} is wanted by nobody and still runs")
        self._unwanted = unwanted
        for text in self._forgotten_wishes():
            self.record.violated(f"I8: {text}")

    def _forgotten_wishes(self) -> Iterator[str]:
        """What was acknowledged is in the store from then on, until something else is asked for."""
        for job_name, wish in self.engineer.wishes.items():
            if self.engineer.idle(job_name):
                yield from self._wish(job_name, wish)
        for node in self.witness.state.nodes.values():
            ordered = self.engineer.orders.get(node.name, node.availability)
            if self.engineer.idle_about(node.name) and node.availability is not ordered:
                yield f"node {node.name} is {node.availability.value}, ordered was {ordered.value}"

    def _is_wanted(self, container: FakeContainer) -> bool:
        task_id = container.identity.task_id
        task = self.witness.state.tasks.get(task_id)
        kept = [stray.task_id for node in self.witness.state.nodes.values() for stray in node.strays]
        return task_id in kept if task is None else wanted(task)

    # --- has it converged

    def unfinished(self) -> list[str]:
        """What is not yet as it should be; empty when everything is."""
        leading = self.leading()
        if leading is None:
            return ["nobody leads"]
        found = [
            *self._wishes(),
            *self.numbers(),
            *self._tasks(),
            *self._containers(),
            *self._endpoints(),
            *self._nodes(leading),
        ]
        return [*found, *self._memory(leading), *self._histories(), *self._sizes()]

    def _wishes(self) -> Iterator[str]:
        """What was acknowledged is what the store says."""
        state = self.witness.state
        for job_name, wish in self.engineer.wishes.items():
            yield from self._wish(job_name, wish)
            job = state.job_named("shop", job_name)
            if wish.spec is None and job is not None:
                yield f"job {job_name} was removed and is still there"
        strays = [job.name for job in state.jobs.values() if job.name not in self.engineer.wishes]
        yield from (f"job {stray} came from nowhere" for stray in strays)

    def _wish(self, job_name: str, wish: Wish) -> Iterator[str]:
        state = self.witness.state
        job = state.job_named("shop", job_name)
        if wish.spec is None:
            if job is not None and not job.removed:
                yield f"job {job_name} was removed and is wanted again"
        elif job is None or job.removed:
            yield f"job {job_name} is gone"
        elif (job.replicas if job.autoscale is None else wish.replicas, job.desired) != (wish.replicas, wish.desired):
            yield f"job {job_name} is {job.replicas} {job.desired}, asked for were {wish.replicas} {wish.desired}"
        elif state.spec_of(job).task != wish.spec.task and self._rollbacks(job_name) == wish.rollbacks:
            yield f"job {job_name} has another spec than it was given"

    def numbers(self) -> Iterator[str]:
        """Autoscaled jobs have as many replicas as there is work for."""
        for job in self.witness.state.jobs.values():
            looked_after = job.autoscale is not None and job.desired is DesiredState.RUN and not job.removed
            if looked_after and job.replicas != self.demand.replicas(job):
                yield f"job {job.name} has {job.replicas} replicas and work for {self.demand.replicas(job)}"

    def _rollbacks(self, job_name: str) -> int:
        return self.witness.rollbacks.get(job_name, 0)

    def _tasks(self) -> Iterator[str]:
        for job in self.witness.state.jobs.values():
            yield from self._tasks_of(job)

    def _tasks_of(self, job: Job) -> Iterator[str]:
        state = self.witness.state
        tasks = list(state.tasks_of_job(job.id).values())
        live = [task for task in tasks if not task.ended]
        slots = targets_of(state, job, state.spec_of(job), {}).slots
        expected = slots if job.desired is DesiredState.RUN else ()
        held_back = bool(waits_for(state, state.spec_of(job)))  # by what the engineer stopped
        for task in live:
            if not wanted(task) or task.slot not in expected:
                yield f"{name(task)} is still there: {task.desired.value} {task.state.value} {task.reason}"
            elif not _well(task):
                yield f"{name(task)} is {task.state.value} {task.status.health.value}: {task.status.message}"
            elif task.version != job.version and not held_back:
                yield f"{name(task)} is not of version {job.version}"
        for slot in expected:
            here = [task for task in tasks if task.slot == slot and task.desired is DesiredState.RUN]
            if is_batch(state, job):
                if not any(_at_rest(task, job) for task in tasks if task.slot == slot):
                    yield f"{job.name}.{slot} has not run to its end"
            elif len([task for task in here if not task.ended]) != 1 and not (held_back and not here):
                yield f"{job.name}.{slot} has {len(here)} tasks"

    def _containers(self) -> Iterator[str]:
        """Every live task has exactly its own container running, and nothing else runs; what ended is bounded."""
        tasks = self.witness.state.tasks
        places = {machine.node_id: machine for machine in self.machines}
        for machine in self.machines:
            for container in machine.running():
                task = tasks.get(container.identity.task_id)
                if task is None or task.ended or task.node_id != machine.node_id:
                    yield f"{container.id} runs on {machine.name} without a task ({container.identity.job})"
                elif task.status.attempt != container.identity.attempt or task.status.runtime_id != container.id:
                    yield f"{name(task)} is said to be attempt {task.status.attempt}, {task.status.runtime_id}"
            unknown = [one for one in machine.engine.containers.values() if one.identity.task_id not in tasks]
            if unknown:
                yield f"{len(unknown)} containers on {machine.name} are of no task, e.g. {unknown[0].identity}"
        for task in tasks.values():
            here = places[task.node_id].running() if task.node_id else []
            if not task.ended and not [one for one in here if _is_of(one, task)]:
                yield f"{name(task)} has no running container"

    def _endpoints(self) -> Iterator[str]:
        """Every data plane serves exactly the healthy tasks, where their containers listen: what is published, and
        what only tasks of the same namespace may call where one of those is.
        """
        for machine in self.machines:
            calling = {container.identity.namespace for container in machine.running()}
            expected = sorted(self._expected_endpoints(calling))
            served = sorted(
                (service.published_port, endpoint.task_id, endpoint.address, endpoint.port)
                for service in machine.data_plane.services
                for endpoint in service.endpoints
            )
            if served != expected:
                yield f"{machine.name} serves {len(served)} endpoints where {len(expected)} tasks answer"

    def _expected_endpoints(self, calling: set[str]) -> Iterator[tuple[int, str, str, int]]:
        state = self.witness.state
        for machine in self.machines:
            for container in machine.running():
                task = state.tasks.get(container.identity.task_id)
                if task is None:
                    continue
                ports = [*container.request.ports, *([DECLARED] if _declares(container) else [])]
                for port, binding in zip(ports, container.bindings, strict=True):
                    published = port.published_port if port.mode is PublishMode.INGRESS else 0
                    if published or container.identity.namespace in calling:
                        yield published, task.id, machine.address, binding.host_port

    def _nodes(self, leading: TermWork) -> Iterator[str]:
        for machine in self.machines:
            condition = leading.presence.conditions.get(machine.node_id)
            if condition is None or condition.status is not NodeStatus.READY:
                yield f"{machine.name} is {condition.status.value if condition else 'unknown'}"
            known = {task_id for task_id in machine.journal.memories if task_id not in self.witness.state.tasks}
            if known:
                yield f"the agent of {machine.name} remembers {len(known)} tasks that nobody else does"
        if leading.presence.brake:
            yield f"the brake is on: {leading.presence.brake}"

    def _memory(self, leading: TermWork) -> Iterator[str]:
        """The leader's memory is what the store holds, and the scheduler's books are what that says."""
        memory = {key_of(record): encode(record) for record in leading.state.records()}
        if memory != self.database.values or memory != self.witness.values:
            differing = [
                key for key in memory | self.database.values if memory.get(key) != self.database.values.get(key)
            ]
            yield f"the leader's memory and the store differ in {', '.join(differing[:3])}"
        if leading.placement.pending:
            yield f"{leading.placement.pending} tasks are pending"

    def _sizes(self) -> Iterator[str]:
        """I10: what is kept depends on what runs and not on what has happened."""
        tasks = sum(not task.ended for task in self.witness.state.tasks.values())
        sizes = {
            "asyncio tasks": (len(asyncio.all_tasks()), 60 + 15 * len(self.machines) + 10 * tasks),
            "links": (self.network.links, 2 * len(self.machines)),
            "bytes in the store": (sum(map(len, self.database.values.values())), 200_000 + 20_000 * tasks),
            "ended containers": (
                sum(not one.running for machine in self.machines for one in machine.engine.containers.values()),
                ENDED_KEPT_ON_NODE * len(self.machines) + 2 * tasks,
            ),
        }
        yield from (
            f"I10: {size} {what} where {most} are enough" for what, (size, most) in sizes.items() if size > most
        )

    def _histories(self) -> Iterator[str]:
        state = self.witness.state
        for job in state.jobs.values():
            ended = [task for task in state.tasks_of_job(job.id).values() if task.ended]
            inside = [task for task in ended if task.slot <= job.replicas]
            slots = len(targets_of(state, job, state.spec_of(job), {}).slots)
            through = (
                2 * ENDED_KEPT_OUTSIDE if state.spec_of(job).mode.ends else 0
            )  # the last that went well, and badly
            if len(inside) > (ENDED_KEPT_PER_SLOT + 1) * slots + through:
                yield f"{len(inside)} ended tasks of {job.name} are kept"
            if len(ended) - len(inside) > ENDED_KEPT_OUTSIDE:
                yield f"{len(ended) - len(inside)} ended tasks outside of {job.name} are kept"
            versions = {task.version for task in state.tasks_of_job(job.id).values()}
            if len(state.versions_of(job.id)) > VERSIONS_KEPT + len(versions) + 2:
                yield f"{len(state.versions_of(job.id))} versions of {job.name} are kept"
        slots = sum(len(state.slots_of(job.id)) for job in state.jobs.values())
        stored = sum(key.startswith("slots/") for key in self.witness.values)
        if slots != stored:
            yield f"{stored - slots} slots belong to no job"


@asynccontextmanager
async def running(seed: int, record: Record, size: Size = USUAL) -> AsyncIterator[Cluster]:
    """A cluster whose parts have all begun."""
    cluster = Cluster(seed, record, size)
    for site in cluster.sites:
        site.start()
    for machine in cluster.machines:
        machine.start()
    try:
        yield cluster
    finally:
        async with asyncio.timeout(300):
            await cluster.close()


def _well(task: Task) -> bool:
    return task.status.state is TaskState.RUNNING and task.status.health in (Health.NONE, Health.HEALTHY)


def _at_rest(task: Task, job: Job) -> bool:
    return task.version == job.version and task.status.state in (
        TaskState.COMPLETE,
        TaskState.FAILED,
        TaskState.REJECTED,
    )


def _declares(container: FakeContainer) -> bool:
    return container.request.container.image.startswith(DECLARING)


def _is_of(container: FakeContainer, task: Task) -> bool:
    return container.identity.task_id == task.id
