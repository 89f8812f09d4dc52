"""When a rollout has failed, why, and what is to be done about it. Where it stands is the state machine's to know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias, assert_never

import msgspec

from common.model.job import FailureAction, Job, UpdatePolicy
from common.model.rollout import Rollout
from common.model.task import Attempt, Health, Slot, Task, TaskState
from controller.core import rollout_machine as machine
from controller.core.decisions import Pause, RollBack, StandStill
from controller.core.rollout import ended_badly, fails
from controller.core.settings import SLIPS_ALLOWED

_LINES = 3
"""Of a failed task's last output: enough to know the error by, short enough for a table."""
_CHARACTERS = 300
"""Of a health check's output."""
_PASSED = "exit code 0"
"""So begins, in the agent's words, what a check without output says that passed."""

Failing: TypeAlias = RollBack | Pause | StandStill


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is judged: a rollout under way, with what is known of its tasks."""

    job: Job
    rollout: Rollout
    policy: UpdatePolicy
    stage: machine.Stage
    tasks: tuple[Task, ...]
    """Of the job, whatever their versions."""
    slots: tuple[Slot, ...]
    well: int
    """Slots of the step that are well now: more than were ever before is progress, noted or not."""
    deadline_at_s: float
    """When it has failed unless it came further."""


def verdict(case: Case, now_s: float) -> Failing | None:
    """What to do about a rollout that fails; None while it does not.

    A slot fails it when a task of the new version ended badly or had to be restarted. It fails as a whole when more
    slots did than may, when it came no further until its deadline, or when it fell back too often. A first version has
    nothing to go back to: its tasks are tried again for ever, and only its deadline is told.
    """
    if case.job.paused or not machine.active(case.rollout):
        return None
    failed = {task.slot: task for task in case.tasks if _counts(case, task)}
    too_many = bool(failed) and len(failed) > case.policy.max_failure_ratio * case.stage.replicas
    heeded = case.policy.failure_action is not FailureAction.CONTINUE and has_another(case.job, case.rollout)
    if too_many and heeded:
        return _consequence(case, why(next(iter(failed.values())), case.slots))
    overdue = _overdue(case, now_s)
    return _consequence(case, overdue) if overdue else None


def _counts(case: Case, task: Task) -> bool:
    if task.version != case.rollout.version or task.observed_at_s < case.rollout.counts_from_s:
        return False
    if case.rollout.back and task.created_at_s <= case.rollout.started_at_s:  # it was there all the time
        return False
    return fails(task) if task.created_at_s >= case.rollout.counts_from_s else ended_badly(task)


def has_another(job: Job, rollout: Rollout) -> bool:
    """Whether there is something else that works, or did: a rollback stops, others turn back."""
    return rollout.back or job.good_version not in (0, job.version)


def _overdue(case: Case, now_s: float) -> str:
    if not case.job.replicas:
        return ""
    if machine.restless(case.rollout):
        return f"what was well fell back more than {SLIPS_ALLOWED} times{_worst(case)}"
    if now_s < case.deadline_at_s or case.well > case.rollout.most:
        return ""
    passed_s = now_s - case.rollout.advanced_at_s
    counts = f"{case.rollout.most} of {case.stage.replicas} replicas were well"
    return f"it came no further for {passed_s:.0f} s: {counts}{_worst(case)}"


def _worst(case: Case) -> str:
    """What the first task says that is not well."""
    for task in sorted(case.tasks, key=lambda task: task.slot):
        if task.version == case.rollout.version and _unwell(task):
            return f"; {why(task, case.slots)}"
    return ""


def _unwell(task: Task) -> bool:
    status = task.status
    return status.state is not TaskState.RUNNING or status.health in (Health.STARTING, Health.UNHEALTHY)


def _consequence(case: Case, reason: str) -> Failing:
    if not has_another(case.job, case.rollout) or case.rollout.back:
        return StandStill(reason=reason)
    match case.policy.failure_action:
        case FailureAction.ROLLBACK:
            return RollBack(version=case.job.good_version, reason=reason)
        case FailureAction.PAUSE:
            return Pause(reason=reason)
        case FailureAction.CONTINUE:
            return StandStill(reason=reason)
        case _:
            assert_never(case.policy.failure_action)


def why(task: Task, slots: Iterable[Slot]) -> str:
    """What became of a task, with the last lines it said and its last health check, where a crash record tells them."""
    state = task.status.state.value
    said = task.status.message or ("it has no node" if not task.node_id else "no reason was reported")
    return "; ".join((f"{task.job}.{task.slot} {state}: {said}", *_last_words(_last_attempt(task, slots), said)))


def _last_words(last: Attempt | None, said: str) -> Iterator[str]:
    """What the attempt's end has to add to what was `said`; a check that passed explains nothing."""
    if last is None:
        return
    if lines := last.log_tail[-_LINES:]:
        yield f"last output: {' | '.join(lines)}"
    health = " | ".join(last.health_output.strip()[-_CHARACTERS:].splitlines())
    if health and health not in said and not health.startswith(_PASSED):
        yield f"its last health check said: {health}"


def _last_attempt(task: Task, slots: Iterable[Slot]) -> Attempt | None:
    attempts = [attempt for slot in slots if slot.slot == task.slot for attempt in slot.attempts]
    return next((attempt for attempt in reversed(attempts) if attempt.task_id == task.id), None)
