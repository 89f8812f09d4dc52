"""What a write would do, found by doing it to a copy with the production decisions; changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from common.model.api import ApplyRequest, JobChange, Plan, PlannedPlacement, PlannedStop, PlanStep, Unplaced
from common.model.ids import Rng
from common.model.job import DesiredState, Job, TaskSpec, UpdateOrder
from common.model.node import Availability, Node, NodeCondition
from common.model.rollout import RolloutPhase
from common.model.task import Task
from controller.core import rollout_machine as machine
from controller.core.apply import apply_specs, jobs_of
from controller.core.attention import Attention
from controller.core.decisions import Advance, Count, Create, Decision, Pause, RollBack, Settle, StandStill, Stop
from controller.core.drain import set_availability
from controller.core.imagine import Imagination, Round
from controller.core.placing import Placing, place_pending
from controller.core.preemption import Displacing
from controller.core.rollout import order_of
from controller.core.rollout_words import steps_text
from controller.core.slots import Conditions
from controller.core.turns import Turns
from controller.scheduler.node_table import NodeTable
from controller.scheduler.values import SchedulePlan
from controller.state import State


def plan(
    state: State,
    conditions: Conditions,
    table: NodeTable,
    request: ApplyRequest,
    now_s: float,
    rng: Rng,
    attention: Attention | None = None,
) -> Turns[Plan]:
    """What `apply_specs` and then the controller and perfect agents would do, step by step.

    Raises what applying would raise. Of what it is given it makes copies before its first rest; `table` and `attention`
    (see `Imagination`) are read, not changed.
    """
    applying = apply_specs(state, request, now_s, rng)
    before, placer = state.fork(), TablePlacer(table)
    imagined = Imagination(before, conditions, now_s, rng, placer, promotes=True, attention=attention)
    imagined.take(applying.groups)
    jobs = jobs_of(imagined.state, request.namespace)
    first = [*change_steps(applying.changes), *_strategy_steps(before, imagined.state, jobs)]
    rounds = yield from imagined.turns([job.id for job in jobs])
    return (yield from outcome(before, imagined.state, rounds, placer, first=first, changes=applying.changes))


def _strategy_steps(before: State, after: State, jobs: Iterable[Job]) -> list[PlanStep]:
    """How each job that is to change goes from its version to the next, and the healthy replicas that keep serving."""
    found = []
    for job in jobs:
        rollout, spec = job.rollout, after.spec_of(job)
        if rollout is None or not rollout.from_version or before.jobs.get(job.id) == job or machine.over(rollout):
            continue
        floor = job.replicas if order_of(spec) is UpdateOrder.START_FIRST else 0
        found += [
            PlanStep(action="rollout", subject=job.full_name, text=text, healthy_at_least=floor)
            for text in steps_text(rollout, spec, job.replicas)
        ]
    return found


def plan_drain(
    state: State,
    conditions: Conditions,
    table: NodeTable,
    nodes: Sequence[Node],
    now_s: float,
    rng: Rng,
    attention: Attention | None = None,
) -> Turns[Plan]:
    """What draining these nodes would do, step by step, and what would have no place elsewhere.

    As `plan` for the rest.
    """
    before, placer = state.fork(), TablePlacer(table)
    imagined = Imagination(before, conditions, now_s, rng, placer, attention=attention)
    imagined.take(set_availability(nodes, Availability.DRAINING).groups)
    for node in nodes:
        placer.set_node(imagined.state.nodes[node.id], conditions.get(node.id) or NodeCondition(node_id=node.id))
    ids = dict.fromkeys(task.job_id for node in nodes for task in before.tasks_of_node(node.id).values())
    rounds = yield from imagined.turns(ids)
    ordered = [
        PlanStep(action="drain", subject=f"node {node.name}", text="takes no new tasks and hands over those it has")
        for node in nodes
        if node.availability is not Availability.DRAINING
    ]
    return (
        yield from outcome(
            before, imagined.state, rounds, placer, first=ordered, last=_waiting_steps(imagined.state, nodes)
        )
    )


def outcome(
    before: State,
    after: State,
    rounds: Sequence[Round],
    placer: TablePlacer,
    *,
    first: Iterable[PlanStep] = (),
    last: Iterable[PlanStep] = (),
    changes: tuple[JobChange, ...] = (),
    notes: tuple[str, ...] = (),
) -> Turns[Plan]:
    """What was imagined, for people: the steps between `first` and `last`, and where everything is in the end."""
    names = {node.id: node.name for node in after.nodes.values()}
    yield
    placements = _placements(before, after, names)
    yield
    tasks_before = _tasks_by_node(before, names)
    yield
    tasks_after = _tasks_by_node(after, names)
    yield
    return Plan(
        changes=changes,
        steps=(*first, *_round_steps(rounds, names), *last),
        placements=placements,
        stops=_stops(rounds, names),
        unplaced=_unplaced(after, placer.last),
        before=tasks_before,
        after=tasks_after,
        notes=notes,
    )


def _waiting_steps(state: State, nodes: Iterable[Node]) -> list[PlanStep]:
    """For what is not moved because it ends by itself."""
    return [
        PlanStep(
            action="wait",
            subject=f"{task.job_name}.{task.slot}",
            text=f"runs to completion on {node.name} and is not moved",
        )
        for node in nodes
        for task in state.tasks_of_node(node.id).values()
        if _wanted(task) and state.spec_of_task(task).mode.ends
    ]


class TablePlacer:
    """The production scheduler on a copy of the live books."""

    def __init__(self, table: NodeTable) -> None:
        self._table = table.copy()
        self.last = SchedulePlan()

    def place(self, state: State, task_ids: Sequence[str], conditions: Conditions, now_s: float) -> Placing:
        placing = place_pending(state, self._table, task_ids, conditions, now_s)
        self.last = placing.plan
        return placing

    @property
    def table(self) -> NodeTable:
        """The books as they are now; only to be read."""
        return self._table

    def set_node(self, node: Node, condition: NodeCondition) -> None:
        """Take an imagined node, or what is imagined of one, into the books."""
        self._table.set_node(node, condition)

    def follow(self, before: Task | None, after: Task | None, spec: TaskSpec) -> None:
        self._table.follow_task(before, after, spec)


def change_steps(changes: Iterable[JobChange]) -> list[PlanStep]:
    return [
        PlanStep(action=change.action, subject=change.job, text=change.text)
        for change in changes
        if change.action != "unchanged"
    ]


def _round_steps(rounds: Iterable[Round], names: Mapping[str, str]) -> list[PlanStep]:
    """A step for each decision that people care about, with the healthy replicas while it is carried out."""
    return [
        PlanStep(action=action, subject=subject, text=text, healthy_at_least=entry.healthy)
        for entry in rounds
        for action, subject, text in (
            *_displaced(entry.displacing, names),
            *(words for decision in entry.decisions for words in _words(entry.job, decision, names)),
        )
    ]


def _displaced(displacing: Displacing | None, names: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Who gives way, and how."""
    if displacing is None:
        return []
    where, whom = names.get(displacing.node_id, displacing.node_id), f"{displacing.by}, slot {displacing.task.slot}"
    return [
        (
            "preempt",
            f"{victim.task.job_name}.{victim.task.slot}",
            f"on {where}: {'surge-moved' if victim.moved else 'stopped'} to make room for {whom}",
        )
        for victim in displacing.victims
    ]


def _words(job: Job, decision: Decision, names: Mapping[str, str]) -> list[tuple[str, str, str]]:
    match decision:
        case Create(slot=slot, version=version, reason=reason):
            return [("start", f"{job.full_name}.{slot}", f"version {version}: {reason}")]
        case Stop(task=task, reason=reason) if not task.ended:
            place = f" on {names.get(task.node_id, task.node_id)}" if task.node_id else ""
            return [("stop", f"{job.full_name}.{task.slot}", f"version {task.version}{place}: {reason}")]
        case Settle(version=version):
            return [("done", job.full_name, f"version {version} runs in every slot")]
        case Count(text=text) if text:
            return [("done", job.full_name, text)]
        case Advance(rollout=rollout) if rollout.phase is RolloutPhase.AWAITING:
            return [("wait", job.full_name, f"for podium promote {job.full_name}")]
        case RollBack(reason=reason) | Pause(reason=reason) | StandStill(reason=reason):
            return [("halt", job.full_name, reason)]
        case _:
            return []


def _placements(before: State, after: State, names: Mapping[str, str]) -> tuple[PlannedPlacement, ...]:
    """Where the tasks that are not there yet would be in the end."""
    tasks = [
        task
        for task in after.tasks.values()
        if task.node_id
        and (task.id not in before.tasks or not before.tasks[task.id].node_id)
        and task.desired is DesiredState.RUN
    ]
    tasks.sort(key=lambda task: (task.job_name, task.slot))
    return tuple(PlannedPlacement(job=task.job_name, slot=task.slot, node=names[task.node_id]) for task in tasks)


def _stops(rounds: Iterable[Round], names: Mapping[str, str]) -> tuple[PlannedStop, ...]:
    stops = [
        PlannedStop(
            job=decision.task.job_name,
            slot=decision.task.slot,
            task_id=decision.task.id,
            node=names.get(decision.task.node_id, ""),
            reason=decision.reason,
        )
        for entry in rounds
        for decision in entry.decisions
        if isinstance(decision, Stop) and decision.task.node_id and not decision.task.ended
    ]
    preempted = [
        PlannedStop(
            job=victim.task.job_name,
            slot=victim.task.slot,
            task_id=victim.task.id,
            node=names.get(victim.task.node_id, ""),
            reason=f"preempted by {entry.displacing.by}",
        )
        for entry in rounds
        if entry.displacing is not None
        for victim in entry.displacing.victims
        if not victim.moved
    ]
    return (*stops, *preempted)


def _unplaced(state: State, last: SchedulePlan) -> tuple[Unplaced, ...]:
    found = []
    for entry in last.unplaced:
        tasks = [state.tasks[task_id] for task_id in entry.task_ids if task_id in state.tasks]
        if tasks:
            slots = tuple(sorted(task.slot for task in tasks))
            verdict = msgspec.structs.replace(entry.verdict, subject=tasks[0].job_name)
            found.append(Unplaced(job=tasks[0].job_name, slots=slots, verdict=verdict))
    return tuple(found)


def _tasks_by_node(state: State, names: Mapping[str, str]) -> dict[str, int]:
    counts = Counter(names[task.node_id] for task in state.tasks.values() if task.node_id in names and _wanted(task))
    return {name: counts[name] for name in sorted(names.values())}


def _wanted(task: Task) -> bool:
    """Whether the task is meant to run where it was put."""
    return task.desired is DesiredState.RUN and not task.lost_at_s and not task.ended
