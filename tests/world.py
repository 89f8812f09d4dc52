"""A small cluster without agents, for tests of decisions: acts on a state and says what production code decides."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from common.model.api import ApplyRequest
from common.model.job import Container, HealthCheck, Job, JobSpec, TaskSpec, UpdatePolicy
from common.model.node import Availability, Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.model.rollout import Rollout
from common.model.task import Health, Task, TaskState, TaskStatus
from controller.core.apply import Applying, apply_specs
from controller.core.decisions import Advance, Decision
from controller.core.imagine import Imagination
from controller.core.observe import observe
from controller.core.placing import Placing
from controller.core.reconcile import Reconciled, reconcile
from controller.core.slots import Conditions
from controller.scheduler.values import Placement, SchedulePlan
from controller.state import Applied, Change, State, Write

NODES = ("n1", "n2", "n3")
RUNTIMES = (RuntimeStatus(name="docker"), RuntimeStatus(name="process"))


class World:
    """A small cluster without agents: acts on a state, and says what the production code decides about it."""

    def __init__(self, *specs: JobSpec) -> None:
        self.rng = random.Random(1)
        self.now_s = 1_000.0
        self.state = State.of(
            Node(id=name, description=NodeDescription(id=name, name=name, address="10.0.0.1", runtimes=RUNTIMES))
            for name in NODES
        )
        self.conditions = {name: NodeCondition(node_id=name, status=NodeStatus.READY) for name in NODES}
        self.applied: list[Applied] = []
        """What changed, in order, but for what was imagined."""
        if specs:
            self.up(*specs)

    def apply(self, change: Change) -> None:
        self.applied.append(self.state.apply(change))

    def write(self, applying: Applying) -> None:
        for group in applying.groups:
            for change in group:
                self.apply(change)

    def up(self, *specs: JobSpec) -> None:
        self.write(apply_specs(self.state, ApplyRequest(namespace="shop", specs=specs), self.now_s, self.rng))

    def job(self, name: str = "web") -> Job:
        job = self.state.job_named("shop", name)
        assert job is not None
        return job

    def reconcile(self, name: str = "web") -> Reconciled:
        """One pass, not applied."""
        return reconcile(self.state, self.job(name), self.conditions, self.now_s, self.rng)

    def decide(self, name: str = "web") -> tuple[Decision, ...]:
        """One pass, applied; its decisions."""
        reconciled = self.reconcile(name)
        for group in reconciled.groups:
            for change in group:
                self.apply(change)
        return reconciled.decisions

    def settle(self) -> None:
        """Let perfect agents carry everything out until nothing changes."""
        imagined = Imagination(self.state, self.conditions, self.now_s, self.rng, InTurn())
        imagined.run(list(self.state.jobs))
        self.state, self.now_s = imagined.state, imagined.now_s

    def tasks(self, name: str = "web", *, live: bool = True) -> list[Task]:
        tasks = self.state.tasks_of_job(self.job(name).id).values()
        return sorted((task for task in tasks if not (live and task.ended)), key=lambda task: (task.slot, task.version))

    def task(self, slot: int, name: str = "web") -> Task:
        (task,) = [task for task in self.tasks(name) if task.slot == slot]
        return task

    def see(
        self, task: Task, state: TaskState, *, attempt: int = 1, health: Health = Health.NONE, message: str = ""
    ) -> None:
        status = TaskStatus(
            attempt=attempt, state=state, sequence=task.status.sequence + 1, health=health, message=message
        )
        self.apply(Write(observe(self.state.tasks[task.id], status, self.now_s)))

    def assign(self, task: Task, node: str) -> Task:
        self.apply(Write(msgspec.structs.replace(task, node_id=node)))
        return self.state.tasks[task.id]

    def node(self, name: str, status: NodeStatus) -> None:
        self.conditions[name] = NodeCondition(node_id=name, status=status)

    def availability(self, name: str, availability: Availability) -> None:
        self.apply(Write(msgspec.structs.replace(self.state.nodes[name], availability=availability)))


def active(state: State) -> list[str]:
    """The nodes that take new tasks."""
    return [name for name in NODES if state.nodes[name].availability is Availability.ACTIVE]


class InTurn:
    """A placer that knows no limits but the operator's will: slot by slot, node by node."""

    def place(self, state: State, task_ids: Sequence[str], conditions: Conditions, now_s: float) -> Placing:
        places = active(state)
        if not places:
            return Placing()
        placed = [Placement(id_, _place(state.tasks[id_], places)) for id_ in task_ids]
        return Placing(plan=SchedulePlan(placements=tuple(placed)))

    def follow(self, before: Task | None, after: Task | None, spec: TaskSpec) -> None: ...


def _place(task: Task, places: Sequence[str]) -> str:
    return task.only_node or places[task.slot % len(places)]


def web(image: str = "web:1", replicas: int = 3, **changes: object) -> JobSpec:
    spec = JobSpec(namespace="shop", name="web", replicas=replicas, task=TaskSpec(container=Container(image=image)))
    return msgspec.structs.replace(spec, **changes)


def with_task(spec: JobSpec, **changes: object) -> JobSpec:
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, **changes))


def kinds(decisions: tuple[Decision, ...]) -> list[type]:
    return [type(decision) for decision in decisions]


def acts(decisions: tuple[Decision, ...]) -> tuple[Decision, ...]:
    """All but what is merely written down of a rollout's progress."""
    return tuple(decision for decision in decisions if not isinstance(decision, Advance))


def rollout_of(world: World, name: str = "web") -> Rollout:
    """As it is stored."""
    rollout = world.job(name).rollout
    assert rollout is not None
    return rollout


CHECK = HealthCheck(test=("CMD", "/up"))
AT_ONCE = UpdatePolicy(monitor_s=0.0)
"""As a Compose file with a health check has it: who is healthy is relied on."""
