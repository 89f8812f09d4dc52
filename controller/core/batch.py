"""Jobs whose tasks end: which slots are through and how, whose turn it is, and when the whole job is over.

Slots that are through stand in the job's `Progress` as spans, and their tasks are forgotten but for the last few: a job
of ten thousand tasks costs what runs of it at the moment. What the last tasks say and nobody has counted yet is told
from the tasks, so counting late, or a new leader, changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

import msgspec

from common.model.job import DesiredState, Job, JobSpec, Progress
from common.model.task import Slot, Task, TaskState
from controller.core.clocks import since_s
from controller.core.gang import failures_of
from controller.core.settings import BATCH_REJECTIONS
from controller.spans import Spans
from controller.state import State


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How the slots of the wanted version stand."""

    succeeded: Spans
    failed: Spans
    failure: str = ""
    """Of the slot that failed last, for people."""
    through: Spans
    """Both."""


def progress_of(job: Job) -> Progress:
    """Of the wanted version; an empty one before its first task."""
    return job.progress if job.progress.version == job.version else Progress()


def expired(job: Job) -> bool:
    return bool(progress_of(job).expired_at_s)


def tally(state: State, job: Job, spec: JobSpec) -> Tally:
    """What was counted, and what its tasks say that was not yet. A gang is through as a whole or not at all."""
    known = progress_of(job)
    succeeded, failed, failure = Spans.of(known.succeeded), Spans.of(known.failed), known.failure
    well: list[int] = []
    badly: list[int] = []
    for number, tasks in _uncounted(state, job, succeeded, failed).items():
        if any(_well(task) for task in tasks):
            well.append(number)
        elif given_up(spec, job, tasks, _memory(state, job, number, spec)):
            badly.append(number)
            failure = _words(max(tasks, key=lambda task: (task.ended, task.created_at_s)))
    if spec.gang:
        everyone = range(1, job.replicas + 1)
        well, badly = [] if len(well) < job.replicas else well, [*everyone] if badly else []
    succeeded, failed = succeeded.with_numbers(well), failed.with_numbers(badly)
    return Tally(succeeded=succeeded, failed=failed, failure=failure, through=succeeded.with_spans_of(failed))


def _memory(state: State, job: Job, number: int, spec: JobSpec) -> Slot:
    """Of a slot; of one of a gang what all of them share, which failed together each time."""
    memory = state.slot_of(job.id, number)
    if not spec.gang:
        return memory
    return msgspec.structs.replace(memory, failures=failures_of(state, job, job.version), failed_version=job.version)


def _uncounted(state: State, job: Job, succeeded: Spans, failed: Spans) -> dict[int, list[Task]]:
    """The tasks of the wanted version by slot, of slots that are not through by what was counted."""
    found: dict[int, list[Task]] = {}
    for task in state.tasks_of_job(job.id).values():
        if task.version == job.version and task.slot not in succeeded and task.slot not in failed:
            found.setdefault(task.slot, []).append(task)
    return found


def _well(task: Task) -> bool:
    return task.status.state is TaskState.COMPLETE and task.desired is DesiredState.RUN


def given_up(spec: JobSpec, job: Job, tasks: Iterable[Task], memory: Slot) -> bool:
    """Whether a slot has failed: after so many tasks that ran and failed, or that nodes refused. A task that was lost
    with its node, or stopped, counts for nothing. `tasks` are those of the wanted version.
    """
    ended = [task for task in tasks if task.status.state in (TaskState.FAILED, TaskState.REJECTED)]
    if not ended or any(_live(task) for task in tasks):
        return False
    noted = memory.failures if memory.failed_version == job.version else 0
    failures = noted + sum(task.desired is DesiredState.RUN for task in ended)
    attempts = max(1, spec.batch.attempts)
    if any(task.status.state is TaskState.FAILED for task in ended):
        return failures >= attempts
    return failures >= max(attempts, BATCH_REJECTIONS)


def _live(task: Task) -> bool:
    return not task.ended and task.desired is DesiredState.RUN and not task.lost_at_s


def _words(task: Task) -> str:
    return f"{task.job}.{task.slot} {task.status.state.value}: {task.status.message or 'no reason was reported'}"


# --- whose turn it is


def turns(state: State, job: Job, spec: JobSpec, through: Spans, slots: Collection[int]) -> tuple[int, ...]:
    """Slots that should have a task now: those that have begun, and the next ones as far as `parallelism` allows.

    `slots` are all that the job has, in ascending order.
    """
    begun = {number for number in _begun(state, job) if number in slots and number not in through}
    waiting = (one for one in slots if one not in through) if spec.mode.per_node else through.missing(len(slots))
    following = (number for number in waiting if number not in begun)
    room = max(0, spec.batch.parallelism - len(begun)) if spec.batch.parallelism else None
    return tuple(sorted((*begun, *islice(following, room))))


def _begun(state: State, job: Job) -> Iterable[int]:
    for task in state.tasks_of_job(job.id).values():
        stopped = task.ended and task.desired is DesiredState.STOP
        if not (stopped or (task.version != job.version and task.ended)):
            yield task.slot
    for number, slot in state.slots_of(job.id).items():
        if slot.failures and slot.failed_version == job.version:
            yield number


# --- how far the job has come


def overdue(job: Job, spec: JobSpec, now_s: float) -> bool:
    """Whether the deadline has passed."""
    started_s = progress_of(job).started_at_s
    return bool(spec.batch.deadline_s and started_s) and since_s(started_s, now_s) >= spec.batch.deadline_s


def counted(job: Job, known: Tally, now_s: float, *, begins: bool, over: bool, is_overdue: bool) -> Progress:
    """The job's progress with what is known now. `begins`: its first tasks are asked for; `over`: nothing is left."""
    before = progress_of(job)
    if not before.version and not begins and not over:
        return job.progress
    ends = over or is_overdue
    return Progress(
        version=job.version,
        started_at_s=before.started_at_s or now_s,
        succeeded=str(known.succeeded),
        failed=str(known.failed),
        failure=known.failure,
        expired_at_s=before.expired_at_s or (now_s if is_overdue and not over else 0.0),
        ended_at_s=(before.ended_at_s or now_s) if ends else 0.0,
    )


def numbers_of(known: Tally, slots: Collection[int], spec: JobSpec) -> tuple[int, int]:
    """How many of these slots, all that the job has, went well, and how many badly."""
    if spec.mode.per_node:
        return sum(one in known.succeeded for one in slots), sum(one in known.failed for one in slots)
    return len(known.succeeded.within(len(slots))), len(known.failed.within(len(slots)))


def outcome(job: Job, known: Tally, slots: Collection[int], spec: JobSpec) -> str:
    """How far it has come, in words: `9900 of 10000 completed, 100 failed: web.7 failed: exit code 1`."""
    well, badly = numbers_of(known, slots, spec)
    text = f"{well} of {len(slots)} completed"
    if badly and len(slots) == 1 and known.failure:
        text = known.failure
    elif badly:
        text += f", {badly} failed" + (f"; the last: {known.failure}" if known.failure else "")
    if expired(job):
        text = f"its deadline of {spec.batch.deadline_s:g} s passed: {text}"
    return text
