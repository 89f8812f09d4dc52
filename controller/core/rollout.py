"""How a job goes from one version to the next, slot by slot: which slots change now, and when to stop trying.

A slot is outdated while what runs in it is not the wanted version (or its node is to be emptied: a surge-move is the
same step). `start-first` puts the new task beside the old one and stops the old when the new is good; `stop-first`
frees the slot first, and is forced where two tasks of a slot cannot coexist. At most `parallelism` slots change
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from common.model.job import FailureAction, Job, JobMode, JobSpec, PublishMode, UpdateOrder
from common.model.task import Attempt, Slot, Task, TaskState
from controller.core.decisions import Create, Pause, RollBack, Stop
from controller.core.slots import SlotView, must_move
from controller.state import State

Step: TypeAlias = Create | Stop


def order_of(spec: JobSpec) -> UpdateOrder:
    """The order the spec asks for, or stop-first where its tasks cannot run side by side."""
    on_host = any(port.mode is PublishMode.HOST and port.published_port for port in spec.task.ports)
    if on_host or spec.mode is JobMode.BATCH:
        return UpdateOrder.STOP_FIRST
    return spec.update.order


def outdated(task: Task, version: int, state: State) -> bool:
    return task.version != version or must_move(task, state)


def steps(
    state: State,
    spec: JobSpec,
    version: int,
    slots: Sequence[SlotView],
    is_good: Callable[[Task], bool],
    *,
    held: bool = False,
) -> tuple[Step, ...]:
    """The next steps towards `version` for slots that have wanted tasks.

    Slots whose new task is good lose their old ones; broken or unplaced old tasks are replaced first, since nothing is
    lost with them; then as many others begin as `parallelism` leaves room for. While the rollout is `held` nothing
    begins, but what an earlier one left half done is tidied: each slot keeps one task.
    """
    decided: list[Step] = []
    changing = 0
    waiting: list[tuple[bool, int, Task]] = []
    for slot in slots:
        old = [task for task in slot.wanted if outdated(task, version, state)]
        new = [task for task in slot.wanted if not outdated(task, version, state)]
        arrived = any(is_good(task) for task in new)
        kept = None if arrived else max(old, key=lambda task: (is_good(task), -task.created_at_s), default=None)
        decided += [Stop(task=task, reason=stop_reason(task, version)) for task in old if task is not kept]
        if arrived or any(task.version == version for task in slot.satisfied):
            continue
        if new or kept is None:  # on its way, or freed for its next task
            changing += 1
        else:
            waiting.append((is_good(kept), slot.number, kept))
    room = 0 if held else max(0, (spec.update.parallelism or len(slots)) - changing)
    waiting.sort(key=lambda entry: entry[:2])
    decided += [_begin(spec, version, number, task) for _, number, task in waiting[:room]]
    return tuple(decided)


def _begin(spec: JobSpec, version: int, slot: int, old: Task) -> Step:
    if order_of(spec) is UpdateOrder.STOP_FIRST or not old.node_id:
        return Stop(task=old, reason=stop_reason(old, version))
    return Create(slot=slot, version=version, reason=stop_reason(old, version))


def stop_reason(task: Task, version: int) -> str:
    """Why an outdated task goes, for people."""
    if task.version != version:
        return f"version {task.version} gives way to {version}"
    return "its node is being drained"


def verdict(job: Job, spec: JobSpec, tasks: Iterable[Task], slots: Iterable[Slot]) -> RollBack | Pause | None:
    """What to do about a rollout that fails; None while it does not, or when there is nothing better to go back to.

    A slot fails the rollout when a task of the new version ended badly or had to be restarted.
    """
    if job.good_version in (0, job.version) or job.paused or spec.mode is JobMode.BATCH:
        return None
    failed = {task.slot: task for task in tasks if task.version == job.version and _fails(task)}
    if not failed or len(failed) <= spec.update.max_failure_ratio * job.replicas:
        return None
    reason = _why(next(iter(failed.values())), slots)
    match spec.update.failure_action:
        case FailureAction.CONTINUE:
            return None
        case FailureAction.PAUSE:
            return Pause(reason=reason)
        case FailureAction.ROLLBACK:
            return RollBack(version=job.good_version, reason=reason)


def _fails(task: Task) -> bool:
    return task.status.state in (TaskState.FAILED, TaskState.REJECTED, TaskState.RESTARTING) or task.status.attempt > 1


def _why(task: Task, slots: Iterable[Slot]) -> str:
    """The failed task's message, with the last lines it said where a crash record tells them."""
    text = f"{task.job}.{task.slot} {task.status.state.value}: {task.status.message or 'no reason was reported'}"
    last = _last_attempt(task, slots)
    said = last.log_tail[-3:] if last else ()
    return f"{text}; last output: {' | '.join(said)}" if said else text


def _last_attempt(task: Task, slots: Iterable[Slot]) -> Attempt | None:
    attempts = [attempt for slot in slots if slot.slot == task.slot for attempt in slot.attempts]
    return next((attempt for attempt in reversed(attempts) if attempt.task_id == task.id), None)
