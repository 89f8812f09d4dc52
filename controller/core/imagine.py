"""Runs the production decisions forward on a copy of the state, with agents that always succeed.

This is how `plan` knows what `up` would do: the same reconciliation and the same scheduler, round by round, until
nothing changes any more. Each round is one pass over the jobs and one placement; when these change nothing any more, it
is one step of every imagined agent: agents are slower than the controller. All agents report at the same moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from common.model.ids import Rng
from common.model.job import DesiredState, Job, TaskSpec
from common.model.node import Node, NodeCondition
from common.model.rollout import RolloutPhase
from common.model.task import Health, Task, TaskState, TaskStatus
from controller.core import rollout_machine as machine
from controller.core.attention import Attention
from controller.core.concern import Concerns
from controller.core.decisions import Advance, Decision
from controller.core.observe import observe
from controller.core.pending import pending, placed_at
from controller.core.placing import Placing
from controller.core.preemption import Displacing
from controller.core.reconcile import reconcile
from controller.core.settings import SETTLE_S
from controller.core.slots import Conditions, good, node_back
from controller.core.turns import Turns, at_once
from controller.state import Applied, Change, Group, State, Write


class Placer(Protocol):
    """The scheduler with its books, as the imagination needs it."""

    def place(self, state: State, task_ids: Sequence[str], conditions: Conditions, now_s: float) -> Placing:
        """A place for as many of the pending tasks as fit, for which it accounts, and who makes room for others."""

    def follow(self, before: Task | None, after: Task | None, spec: TaskSpec) -> None:
        """Account for a task that was changed otherwise, e.g. has ended."""


ROUNDS = 100_000
"""A plan that takes more rounds than this does not end: a fault of ours, reported instead of looping."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What one round decided about one job, and how many replicas do their work while the agents carry it out."""

    job: Job
    decisions: tuple[Decision, ...] = ()
    healthy: int
    displacing: Displacing | None = None
    """Room that is made for one of its tasks."""


class Imagination:
    """A fork of the state with a clock of its own. `state` is what would be after the rounds so far.

    Work follows change here as it does in the controller: a round looks at the jobs, slots and tasks that something
    happened to. `attention` is what the controller's own passes left to look at; without it each job is looked at as a
    whole once.
    """

    def __init__(
        self,
        state: State,
        conditions: Conditions,
        now_s: float,
        rng: Rng,
        placer: Placer,
        *,
        promotes: bool = False,
        attention: Attention | None = None,
    ) -> None:
        self.state = state.fork()
        self.now_s = now_s
        self._conditions = dict(conditions)
        self._rng = rng
        self._placer = placer
        self._promotes = promotes
        """Whether somebody is imagined who promotes what waits for it."""
        self._attention = attention.copy() if attention is not None else Attention()
        self._concerns = Concerns(self.state)
        self._concerned: dict[str, None] = {}
        """Jobs that are looked at, in order."""
        self._marked: dict[str, None] = {}
        """Those of them that something happened to."""
        self._wakes: dict[str, float] = {}
        """When time alone would bring a new decision, by job."""
        self._stirred: dict[str, None] = {}
        """Tasks that something happened to since the agents were last imagined to act."""
        self._pending: dict[str, None] = {}
        """Tasks that wait for a node."""

    def run(self, job_ids: Iterable[str]) -> list[Round]:
        """Rounds over these jobs until nothing changes any more."""
        return at_once(self.turns(job_ids))

    def turns(self, job_ids: Iterable[str]) -> Turns[list[Round]]:
        """`run` in small pieces."""
        rounds: list[Round] = []
        self._concern(job_ids)
        for _ in range(ROUNDS):
            decided = yield from self._decide()
            rounds += decided
            if self._schedule(rounds) or decided:
                continue  # the controller answers its own commits before any agent has done anything
            yield
            if self._act(rounds) or self._sleep():
                continue
            promoted = self._promote()
            rounds += promoted
            if not promoted:
                return rounds
        raise AssertionError(f"planning did not come to rest in {ROUNDS} rounds")

    def set_node(self, node: Node) -> None:
        """Imagine a node."""
        self.take([(Write(node),)])

    def take(self, groups: Iterable[Group]) -> None:
        """Imagine that these changes were made."""
        for group in groups:
            self._mark([self._apply(change) for change in group])

    def condition_changed(self, before: NodeCondition | None, after: NodeCondition) -> None:
        """Imagine that a node is judged so from now on."""
        self._conditions[after.node_id] = after
        self._attention.condition_changed(before, after, self.state)

    def _concern(self, job_ids: Iterable[str]) -> None:
        """Look at these jobs too from now on."""
        for job_id in job_ids:
            if job_id not in self._concerned:
                self._concerned[job_id] = self._marked[job_id] = None
                for task in self.state.tasks_of_job(job_id).values():
                    self._stir(task)

    def _decide(self) -> Turns[list[Round]]:
        rounds = []
        for job_id in tuple(self._concerned):
            if job_id not in self._marked and self._wakes.get(job_id, math.inf) > self.now_s:
                continue
            job = self.state.jobs.get(job_id)
            self._marked.pop(job_id, None)
            self._wakes.pop(job_id, None)
            if job is None:
                continue
            scope = self._attention.scope(job_id)
            reconciled = reconcile(self.state, job, self._conditions, self.now_s, self._rng, scope=scope)
            self._attention.saw(job_id, reconciled.seen)
            self._wakes[job_id] = reconciled.wake_at_s
            self.take(reconciled.groups)
            if reconciled.decisions:
                rounds.append(Round(job=job, decisions=reconciled.decisions, healthy=self._healthy(job)))
            yield
        return rounds

    def _promote(self) -> list[Round]:
        rounds = []
        for job in self._jobs():
            rollout = job.rollout
            if self._promotes and not job.paused and rollout and rollout.phase is RolloutPhase.AWAITING:
                going = machine.after(rollout, machine.Event.NEXT, self.now_s)
                self.take([(Write(msgspec.structs.replace(job, rollout=going)),)])
                rounds.append(Round(job=job, decisions=(Advance(rollout=going),), healthy=self._healthy(job)))
        return rounds

    def _apply(self, change: Change) -> Applied:
        """In the state and in the books."""
        specs = self.state.versions_of(change.record.job_id) if isinstance(change.record, Task) else {}
        applied = self.state.apply(change)
        if isinstance(change.record, Task):
            before = applied.before if isinstance(applied.before, Task) else None
            after = applied.after if isinstance(applied.after, Task) else None
            self._placer.follow(before, after, specs[change.record.version].spec.task)
        return applied

    def _mark(self, changes: Iterable[Applied]) -> None:
        """Whom it concerns that these were made together."""
        for applied in changes:
            if isinstance(applied.after, Task):
                self._stir(applied.after)
            if self._attention.follow(applied, self.state, self._conditions):
                concerned = (job_id for job_id in self._concerns.of_change(applied) if job_id in self._concerned)
                self._marked.update(dict.fromkeys(concerned))

    def _stir(self, task: Task) -> None:
        self._stirred[task.id] = None
        if pending(task):
            self._pending[task.id] = None
        else:
            self._pending.pop(task.id, None)

    def _schedule(self, rounds: list[Round]) -> bool:
        waiting = [task.id for task in self._tasks(self._pending)]
        if not waiting:
            return False
        placing = self._placer.place(self.state, waiting, self._conditions, self.now_s)
        for placement in placing.plan.placements:
            placed = placed_at(self.state.tasks[placement.task_id], placement)
            self._mark([self.state.apply(Write(placed))])  # the books have it
        for displacing in placing.displacing:
            self._displace(displacing, rounds)
        self.take((*placing.withdrawn, *placing.keeping))
        return bool(placing.plan.placements or placing.displacing)

    def _displace(self, displacing: Displacing, rounds: list[Round]) -> None:
        """Also jobs that nobody asked about may have to give way."""
        self.take([displacing.group])
        job = self.state.jobs[displacing.task.job_id]
        rounds.append(Round(job=job, healthy=self._healthy(job), displacing=displacing))
        self._concern(victim.task.job_id for victim in displacing.victims)

    def _act(self, rounds: list[Round]) -> bool:
        """Every imagined agent carries out what it was told.

        What comes free thereby is first offered to the tasks that wait for it, as the placement loop does: those that
        are created in answer to the same reports are not there yet.
        """
        moved = ended = False
        stirred, self._stirred = self._stirred, {}
        for task in self._tasks(stirred):
            status = self._next_status(task)
            if status is not None:
                observed = observe(task, status, self.now_s)
                self.take([(Write(observed),)])
                moved, ended = True, ended or observed.ended
        if ended:
            self._schedule(rounds)
        return moved

    def _next_status(self, task: Task) -> TaskStatus | None:
        if not task.node_id or task.ended or (task.lost_at_s and not node_back(task, self._conditions)):
            return None
        if task.desired is DesiredState.STOP:
            return self._status(task, TaskState.STOPPED)
        if task.status.state is not TaskState.RUNNING or task.status.health is Health.STARTING:
            ends = self.state.spec_of_task(task).mode.ends
            return self._status(task, TaskState.COMPLETE if ends else TaskState.RUNNING)
        return None

    def _status(self, task: Task, state: TaskState) -> TaskStatus:
        checked = self.state.spec_of_task(task).task.health_check is not None
        again = task.status.state is TaskState.RESTARTING and state is not TaskState.STOPPED
        return TaskStatus(
            attempt=max(1, task.status.attempt + again),
            state=state,
            sequence=task.status.sequence + 1,
            health=Health.HEALTHY if checked and state is TaskState.RUNNING else Health.NONE,
        )

    def _sleep(self) -> bool:
        """Let time pass to the next moment at which a job would decide something; False when there is none."""
        patience_s = max((self._patience_s(job) for job in self._jobs()), default=0.0)
        wake_at_s = min((at_s for at_s in self._wakes.values() if at_s <= self.now_s + patience_s), default=None)
        if wake_at_s is None:
            return False
        self.now_s = wake_at_s
        return True

    def _patience_s(self, job: Job) -> float:
        """How long the next decision may be in coming while all goes well; later ones are about what fails."""
        spec = self.state.spec_of(job)
        rollout = machine.current(job, spec)
        left = self.state.versions_of(job.id).get(rollout.from_version) if rollout is not None else None
        policy = machine.policy_of(rollout, spec, left.spec if left else None)
        bake_s = 0.0
        if rollout is not None and not machine.over(rollout):
            bake_s = machine.stage_of(rollout, spec, job.replicas).bake_s
        return max(policy.monitor_s, policy.delay_s, bake_s) + 10 * SETTLE_S

    def _jobs(self) -> list[Job]:
        return [self.state.jobs[job_id] for job_id in self._concerned if job_id in self.state.jobs]

    def _tasks(self, ids: Iterable[str]) -> list[Task]:
        """Those of them that are there and that a concerned job has."""
        tasks = (self.state.tasks.get(task_id) for task_id in ids)
        return [task for task in tasks if task is not None and task.job_id in self._concerned]

    def _healthy(self, job: Job) -> int:
        tasks = self.state.tasks_of_job(job.id).values()
        return len(
            {
                task.slot
                for task in tasks
                if task.desired is DesiredState.RUN
                and good(task, self.state.spec_of_task(task), self._conditions, self.now_s)
            }
        )
