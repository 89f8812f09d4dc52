"""How far a deployment has come and whether it has failed for good: from what `watch` shows to an outcome. Pure.

A job has failed for good when the controller says so, when its rollout was paused or rolled back, when one of its slots
was given up on several nodes in a row, or when a task has fitted nowhere for a while.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec

from common.lifecycle import ended
from common.model.api import JobDetail, JobStatus, TaskView
from common.model.job import DesiredState
from common.model.rollout import RolloutPhase
from common.model.task import Attempt, Health, TaskState

UNPLACED_GRACE_S = 10.0
"""Nodes may be joining, or a predecessor may still hold what the task needs (stop grace is 10 s by default)."""
FAILURES_FOR_GOOD = 3
"""Tasks of one slot given up in a row while we watch; each had all the restarts of its policy, on a node of its own."""
LOG_LINES = 10
"""Of a failed task's last words."""

_STEPS = {TaskState.PENDING: "waiting for a node", TaskState.PREPARING: "pulling"}
_HEALTH_STEPS = {Health.STARTING: "in health check", Health.UNHEALTHY: "unhealthy"}


class Phase(enum.Enum):
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One job for people."""

    job: str
    phase: Phase
    done: int
    desired: int
    text: str

    def __str__(self) -> str:
        return f"{self.job}: {self.done}/{self.desired} {self.text}"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    reason: str
    last_words: tuple[str, ...] = ()
    unplaced: bool = False
    """A task fits nowhere: `why` knows more."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    notes: tuple[str, ...] = ()
    """What is left to do by hand."""
    warnings: tuple[str, ...] = ()
    """What is not as it should be although the tasks are well, e.g. a port that a node could not publish."""


Outcome: TypeAlias = Done | Failure


class Deployment:
    """The jobs of one `up` by name, watched until all are done or one has failed for good.

    `versions` are the versions that were submitted, by job name.
    """

    def __init__(self, versions: Mapping[str, int], *, unplaced_grace_s: float = UNPLACED_GRACE_S) -> None:
        self._versions = versions
        self._unplaced_grace_s = unplaced_grace_s
        self._observed = False
        self._details: dict[str, JobDetail] = {}
        self._failures_before: dict[tuple[str, int], int] = {}
        self._unplaced_since_s: dict[str, float] = {}

    def observe(self, details: Iterable[JobDetail], now_s: float) -> None:
        """Take in what `watch` shows: all watched jobs. `now_s` is of any steady clock."""
        self._observed = True
        self._details = {detail.view.job.name: detail for detail in details if detail.view.job.name in self._versions}
        for name, detail in self._details.items():
            self._remember_failures(name, detail)
            if unplaced(detail):
                self._unplaced_since_s.setdefault(name, now_s)
            else:
                self._unplaced_since_s.pop(name, None)

    def rows(self) -> tuple[Row, ...]:
        return tuple(self._row(name, self._details.get(name)) for name in self._versions)

    def outcome(self, now_s: float) -> Outcome | None:
        """None while it is under way."""
        if not self._observed:
            return None
        for name in self._versions:
            failure = self._failure(name, now_s)
            if failure is not None:
                return failure
        if not all(self._is_done(name) or self._waits(name) for name in self._versions):
            return None
        waiting = filter(self._waits, self._versions)
        return Done(
            notes=tuple(f"{name}: {self._details[name].view.rollout}" for name in waiting),
            warnings=tuple(
                f"{name}: {detail.view.message}"
                for name, detail in self._details.items()
                if detail.view.message and detail.view.desired and detail.view.status is JobStatus.RUNNING
            ),
        )

    def unfinished(self) -> tuple[Failure, ...]:
        """What is missing, when time is up."""
        return tuple(
            _failure(detail, f"{detail.view.status.value}: {self._row(name, detail).text}")
            for name, detail in self._details.items()
            if not self._is_done(name)
        )

    def also_in_trouble(self, failure: Failure) -> tuple[Failure, ...]:
        """The other jobs that something stands in the way of, in a line each, while `failure` is why we gave up."""
        troubled = (name for name, detail in self._details.items() if detail.view.status is JobStatus.DEGRADED)
        return tuple(
            Failure(job=name, reason=self._details[name].view.message) for name in troubled if name != failure.job
        )

    def _remember_failures(self, name: str, detail: JobDetail) -> None:
        for slot in detail.slots:
            key = (name, slot.slot)
            self._failures_before[key] = min(slot.failures, self._failures_before.get(key, slot.failures))

    def _row(self, name: str, detail: JobDetail | None) -> Row:
        if detail is None:
            return Row(job=name, phase=Phase.WORKING, done=0, desired=0, text="waiting for the controller")
        phase = Phase.DONE if self._is_done(name) else Phase.WORKING
        if detail.view.status is JobStatus.FAILED:
            phase = Phase.FAILED
        done = detail.view.succeeded if detail.view.spec.mode.ends else detail.view.healthy
        return Row(job=name, phase=phase, done=done, desired=detail.view.desired, text=describe(detail))

    def _waits(self, name: str) -> bool:
        """Whether all that it waits for is a person."""
        detail = self._details.get(name)
        if detail is None or detail.view.job.version != self._versions[name]:
            return False
        rollout = detail.view.job.rollout
        return rollout is not None and rollout.phase is RolloutPhase.AWAITING and not detail.view.job.paused

    def _is_done(self, name: str) -> bool:
        detail = self._details.get(name)
        if detail is None or detail.view.job.version != self._versions[name]:
            return False
        return detail.view.status is JobStatus.COMPLETE or (detail.view.status is JobStatus.RUNNING and settled(detail))

    def _failure(self, name: str, now_s: float) -> Failure | None:
        detail = self._details.get(name)
        if detail is None:
            return Failure(job=name, reason="was removed meanwhile")
        job, view = detail.view.job, detail.view
        if job.version != self._versions[name]:
            return _failure(detail, job.note or f"was changed meanwhile: version {job.version} is wanted now")
        if view.status is JobStatus.STOPPED:
            return _failure(detail, view.message or "was stopped meanwhile")
        if view.status is JobStatus.FAILED:
            return _failure(detail, view.message or "failed")
        if job.paused:
            return _failure(detail, f"its rollout is paused: {job.paused}")
        if job.rollout is not None and job.rollout.phase is RolloutPhase.FAILED:
            return _failure(detail, f"its rollout failed: {job.rollout.reason}")
        if self._given_up(name, detail):
            return _failure(detail, view.message or f"was given up {FAILURES_FOR_GOOD} times in a row")
        if now_s - self._unplaced_since_s.get(name, now_s) >= self._unplaced_grace_s:
            return msgspec.structs.replace(_failure(detail, view.message or "fits on no node"), unplaced=True)
        return None

    def _given_up(self, name: str, detail: JobDetail) -> bool:
        if detail.view.spec.mode.ends:  # how many attempts a slot has stands in its job, and so does how it ended
            return False
        return any(
            slot.failures - self._failures_before[(name, slot.slot)] >= FAILURES_FOR_GOOD for slot in detail.slots
        )


def settled(detail: JobDetail) -> bool:
    """Whether all replicas have run well for long enough: without a health check a job that crashes in its second
    second looks well in its first. One with nothing to run has nothing to show."""
    return not detail.view.desired or detail.view.job.good_version == detail.view.job.version


def unplaced(detail: JobDetail) -> bool:
    """Whether a task waits for a node that nobody has."""
    waiting = any(view.state is TaskState.PENDING for view in live(detail))
    return waiting and detail.view.status is JobStatus.DEGRADED


def live(detail: JobDetail) -> list[TaskView]:
    """Tasks of the wanted version that are meant to run and have not ended."""
    version = detail.view.job.version
    return [
        view
        for view in detail.tasks
        if view.task.version == version and view.task.desired is DesiredState.RUN and not ended(view.state)
    ]


def describe(detail: JobDetail) -> str:
    """What the job is at, in words: `healthy`, `2 pulling, 1 starting (pulling shop:1.4: 3 of 7 layers)`."""
    status = detail.view.status
    if status is JobStatus.COMPLETE:
        return "complete"
    if status is JobStatus.RUNNING:
        if not detail.view.desired and detail.view.message:
            return detail.view.message  # when it will have tasks
        if detail.view.spec.task.health_check:
            return "healthy"
        return "running" if settled(detail) else f"running, done when up for {detail.view.spec.update.monitor_s:g} s"
    steps: dict[str, int] = {}
    for view in live(detail):
        step = _step(view)
        steps[step] = steps.get(step, 0) + 1
    counted = ", ".join(f"{number} {step}" for step, number in steps.items())
    message = _message(detail)
    if not counted:
        return message or status.value
    return f"{counted} ({message})" if message else counted


def _step(view: TaskView) -> str:
    if view.state is TaskState.RUNNING:
        return _HEALTH_STEPS.get(view.health, "running")
    return _STEPS.get(view.state) or str(view.state.value)


def _message(detail: JobDetail) -> str:
    """Of the job when it says why; else the news of the task that is furthest behind."""
    if detail.view.status is not JobStatus.PROGRESSING and detail.view.message:
        return detail.view.message
    news = [view.task.status.message for view in live(detail) if view.state is not TaskState.RUNNING]
    return next((message for message in news if message), "" if live(detail) else detail.view.message)


def _failure(detail: JobDetail, reason: str) -> Failure:
    return Failure(job=detail.view.job.name, reason=reason, last_words=last_words(detail))


def last_words(detail: JobDetail) -> tuple[str, ...]:
    """The last attempt that failed of the version wanted (else of any): how it ended, and the end of its output."""
    failed = [
        (attempt, slot.slot)
        for slot in detail.slots
        for attempt in slot.attempts
        if attempt.exit_code != 0 or attempt.signal or attempt.oom
    ]
    version = detail.view.job.version
    if not failed:
        return ()
    attempt, slot = max(failed, key=lambda item: (item[0].version == version, item[0].ended_at_s))
    heading = f"{detail.view.job.name}.{slot} attempt {attempt.number}: {ending(attempt)}"
    health = (f"  last health check said: {attempt.health_output.strip()}",) if attempt.health_output.strip() else ()
    return (heading, *(f"  | {line}" for line in attempt.log_tail[-LOG_LINES:]), *health)


def ending(attempt: Attempt) -> str:
    """How an attempt ended, in the agent's words if it said any: `killed by SIGKILL`, `exited with code 1`."""
    if attempt.message:
        return attempt.message
    if attempt.oom:
        return "out of memory"
    return attempt.signal or ("ended" if attempt.exit_code is None else f"exit code {attempt.exit_code}")
