"""The production loops on virtual time with agents that do as they are told, for tests of priorities and quotas."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec

from common.model.api import ApplyRequest, Plan
from common.model.job import DesiredState, Job, JobMode, JobSpec, RestartCondition, RestartPolicy
from common.model.node import Node
from common.model.task import Task, TaskState
from common.model.verdict import Verdict
from controller.api.why import Known, why_job
from controller.core.apply import apply_specs
from controller.core.plan import plan
from controller.core.turns import at_once
from controller.loops.convergence import ConvergenceLoop
from controller.loops.placement import PlacementLoop
from controller.state import State
from controller.store.keys import Record
from tests.builders import task_spec
from tests.loops_rig import LoopsRig, rig, running


class Stage:
    """See the module. Tasks of the jobs in `stuck` never get beyond starting; those in `lasting` never stop."""

    def __init__(self, world: LoopsRig, placement: PlacementLoop) -> None:
        self.world, self.placement = world, placement
        self.state: State = world.state
        self.stuck: set[str] = set()
        self.lasting: set[str] = set()
        self.most_reserved: dict[str, int] = {}
        """The most millicores that were ever set aside at once, by node."""

    async def agents(self) -> None:
        """Everything that is placed runs, and what is told to stop has stopped, half a second later."""
        while True:
            await asyncio.sleep(0.5)
            for task in list(self.state.tasks.values()):
                wanted = self._next_state(task)
                if wanted is not None:
                    await self.world.see(task, wanted)

    def _next_state(self, task: Task) -> TaskState | None:
        if not task.node_id or task.ended:
            return None
        if task.desired is DesiredState.STOP:
            return None if task.job in self.lasting else TaskState.STOPPED
        if task.status.state is TaskState.RUNNING:
            return None
        return TaskState.STARTING if task.job in self.stuck else TaskState.RUNNING

    async def up(self, *specs: JobSpec, within_s: float = 30.0) -> None:
        """Deploy, and let time pass."""
        for spec in specs:
            request = ApplyRequest(namespace=spec.namespace, specs=(spec,))
            await self.world.ledger.submit(
                lambda state, request=request: (
                    apply_specs(  # type: ignore[misc]
                        state, request, self.world.now_s, self.world.rng
                    ).groups
                )
            )
        await asyncio.sleep(within_s)

    def plan(self, spec: JobSpec) -> Plan:
        request = ApplyRequest(namespace=spec.namespace, specs=(spec,))
        conditions = self.world.presence.conditions
        now_s, rng = self.world.now_s, random.Random(9)
        return at_once(plan(self.state, conditions, self.placement.table, request, now_s, rng))

    def why(self, name: str) -> Verdict:
        known = Known(
            state=self.state,
            conditions=self.world.presence.conditions,
            table=self.placement.table,
            now_s=self.world.now_s,
        )
        return why_job(known, self.world.job(name))

    def live(self, name: str) -> list[Task]:
        """The tasks of a job that are meant to run."""
        return [task for task in self.world.tasks(name) if task.desired is DesiredState.RUN and not task.ended]

    def placed(self, name: str) -> dict[int, str]:
        """Names of nodes by slot."""
        return {task.slot: self.state.nodes[task.node_id].name for task in self.live(name) if task.node_id}

    def watch(self) -> None:
        """After every commit: nothing is set aside that is not there."""
        table = self.placement.table
        for node_id, node in self.state.nodes.items():
            load = table.load_of(node_id)
            assert load.reserved.fits_in(node.description.capacity), f"{node.name} holds {load.reserved}"


@asynccontextmanager
async def stage(nodes: Iterable[Node], records: Iterable[Record] = ()) -> AsyncIterator[Stage]:
    async with rig(records) as world:
        placement = PlacementLoop(world.ledger, world.presence, clock=lambda: world.now_s)
        convergence = ConvergenceLoop(world.ledger, world.presence, clock=lambda: world.now_s, rng=random.Random(7))
        made = Stage(world, placement)
        async with running(placement.run, convergence.run, made.agents):
            await asyncio.sleep(0)
            world.ledger.subscribe(lambda _committed: made.watch())
            await world.ready(*nodes)
            yield made


def job(name: str, *, cpu: float, priority: int = 50, replicas: int = 1, **changes: object) -> JobSpec:
    """`name` within the namespace `shop`."""
    spec = JobSpec(namespace="shop", name=name, replicas=replicas, priority=priority, task=task_spec(cpu=cpu))
    return msgspec.structs.replace(spec, **changes)


def batch(name: str, *, cpu: float, priority: int = 50, replicas: int = 1) -> JobSpec:
    spec = job(name, cpu=cpu, priority=priority, replicas=replicas, mode=JobMode.BATCH)
    restart = RestartPolicy(condition=RestartCondition.ON_FAILURE)
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, restart=restart))


def removed(of: Job) -> Job:
    return msgspec.structs.replace(of, removed=True, desired=DesiredState.STOP)
