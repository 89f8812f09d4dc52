"""What `plan` said is what `up` then does: the production loops on virtual time, after a plan of the same request."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.api import ApplyRequest, Plan, PlannedPlacement
from common.model.job import Affinity, DesiredState, JobSpec, Strategy, TaskSpec
from common.model.node import Node
from common.model.task import Task, TaskState, TaskStatus
from controller.core.attention import Attention
from controller.core.observe import observe
from controller.core.plan import plan
from controller.core.turns import at_once
from controller.loops.convergence import ConvergenceLoop
from controller.loops.placement import PlacementLoop
from controller.state import Group, State, Write
from tests.builders import MIB, node, task_spec
from tests.loops_rig import LoopsRig, rig, running
from tests.virtual_time import VirtualLoop
from tests.world import web

ENOUGH_S = 300.0
"""In which everything comes to rest, rollouts of four replicas included. Virtual time."""

nodes = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["a", "b"])), min_size=1, max_size=5).map(
    lambda found: [_node(place, cores, rack) for place, (cores, rack) in enumerate(found)]
)

tasks = st.builds(
    lambda cores, spread, most, rule, strategy, ports, affinities: task_spec(
        cpu=cores / 2,
        spread=["node.labels.rack"] if spread else [],
        max_per_node=most,
        constraints=rule,
        strategy=strategy,
        host_ports=ports,
        affinities=affinities,
    ),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from([[], [], ["node.labels.rack == a"], ["node.labels.rack not in (b)"], ["node.labels.size >= 2"]]),
    st.sampled_from(Strategy),
    st.sampled_from([[], [], [], [8080]]),
    st.one_of(
        st.just([]),
        st.builds(
            lambda *fields: [Affinity(job=fields[0], within=fields[1], apart=fields[2], required=fields[3])],
            st.sampled_from(["shop/web", "shop/api"]),
            st.sampled_from(["", "node.labels.rack"]),
            st.booleans(),
            st.booleans(),
        ),
    ),
)


def _node(place: int, cores: int, rack: str) -> Node:
    return node(f"n{place}", cpu=cores, memory_bytes=512 * MIB, labels={"rack": rack, "size": str(place)})


def jobs(name: str) -> st.SearchStrategy[JobSpec]:
    return st.builds(
        lambda replicas, task, image: msgspec.structs.replace(
            web(image=image), name=name, replicas=replicas, task=_with_image(task, image)
        ),
        st.integers(0, 4),
        tasks,
        st.sampled_from(["app:1", "app:2"]),
    )


def _with_image(task: TaskSpec, image: str) -> TaskSpec:
    return msgspec.structs.replace(task, container=msgspec.structs.replace(task.container, image=image))


class PerfectAgents:
    """Everything that is placed runs, and everything that is told to stop has stopped, half a second later.

    All report at the same moment, as a plan imagines it: where places depend on who of two ended first, no plan knows.
    """

    def __init__(self, world: LoopsRig) -> None:
        self._world = world

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self._world.ledger.submit(self._reports)

    def _reports(self, state: State) -> list[Group]:
        wanted = [(task, _next_state(task)) for task in state.tasks.values()]
        return [(Write(self._seen(task, into)),) for task, into in wanted if into is not None]

    def _seen(self, task: Task, into: TaskState) -> Task:
        status = TaskStatus(attempt=1, state=into, sequence=task.status.sequence + 1)
        return observe(task, status, self._world.now_s)


def _next_state(task: Task) -> TaskState | None:
    if not task.node_id or task.ended:
        return None
    if task.desired is DesiredState.STOP:
        return TaskState.STOPPED
    return None if task.status.state is TaskState.RUNNING else TaskState.RUNNING


async def agree(cluster: list[Node], before: list[JobSpec], after: list[JobSpec]) -> None:
    async with rig() as world:
        placement = PlacementLoop(world.ledger, world.presence, clock=lambda: world.now_s)
        convergence = ConvergenceLoop(world.ledger, world.presence, clock=lambda: world.now_s, rng=random.Random(7))
        async with running(placement.run, convergence.run, PerfectAgents(world).run):
            await world.ready(*cluster)
            await world.up(*before)
            await asyncio.sleep(ENOUGH_S)
            known = dict(world.state.tasks)
            said = planned(world, placement, after)
            assert planned(world, placement, after, convergence.attention) == said, "it only spares work"
            await world.up(*after)
            await asyncio.sleep(ENOUGH_S)
            assert came_about(world.state, known) == set(said.placements)
            assert {(one.job, slot) for one in said.unplaced for slot in one.slots} == {
                (task.job_name, task.slot)
                for task in world.state.tasks.values()
                if not task.node_id and task.desired is DesiredState.RUN
            }
            had_place = {id_ for id_, task in known.items() if task.node_id and not task.ended}
            assert {stop.task_id for stop in said.stops} & had_place == {
                id_ for id_ in had_place if id_ not in world.state.tasks or world.state.tasks[id_].ended
            }


def planned(
    world: LoopsRig, placement: PlacementLoop, specs: list[JobSpec], attention: Attention | None = None
) -> Plan:
    request = ApplyRequest(namespace="shop", specs=tuple(specs))
    conditions = world.presence.conditions
    chance = random.Random(99)
    return at_once(plan(world.state, conditions, placement.table, request, world.now_s, chance, attention))


def came_about(state: State, known: dict[str, Task]) -> set[PlannedPlacement]:
    """Where the tasks are that had no place before."""
    return {
        PlannedPlacement(job=task.job_name, slot=task.slot, node=state.nodes[task.node_id].name)
        for task in state.tasks.values()
        if task.node_id
        and task.desired is DesiredState.RUN
        and not task.ended
        and (task.id not in known or not known[task.id].node_id)
    }


def on_virtual_time(work: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work())


two_jobs = st.tuples(jobs("web"), jobs("api")).map(list)


@settings(max_examples=50, deadline=None)
@given(nodes, st.lists(two_jobs, max_size=1), two_jobs)
def test_what_plan_said_is_what_up_then_does(
    cluster: list[Node], before: list[list[JobSpec]], after: list[JobSpec]
) -> None:
    on_virtual_time(lambda: agree(cluster, before[0] if before else [], after))
