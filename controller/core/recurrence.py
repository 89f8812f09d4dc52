"""What to do about a job with a schedule now: which run starts, waits or is passed over, and which old ones go.

Each run is a job of its own, made in the commit that moves the schedule on: whatever dies in between, what was due is
dealt with once. What came due while nobody led is one run at most, the latest, and only while it is not too late for it
(as with Kubernetes' `startingDeadlineSeconds`). Decides nothing about tasks.
"""

from __future__ import annotations

import math

import msgspec

from common.model.ids import Rng, new_id
from common.model.job import DesiredState, Job, JobSpec, JobVersion, Overlap, Recurrence, RunOf, Schedule
from common.schedule import last_until, next_after, shown
from controller.core.runs import newest_first, removed, run_name, stopped
from controller.core.settings import CLOCK_WENT_BACK_S, RUNS_FORGOTTEN_AT_ONCE
from controller.core.views import over
from controller.state import Change, Group, State, Write


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    groups: tuple[Group, ...] = ()
    """Changes to commit, each group valid alone."""
    wake_at_s: float = math.inf
    """When the next run is due."""


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    job: Job
    over: bool
    """Nothing of it runs any more, and nothing will."""


def look(state: State, job: Job, now_s: float, rng: Rng) -> Outlook:
    """What to change about the runs of `job`. Looking again after its changes were applied changes nothing more."""
    spec = state.spec_of(job)
    runs = [_Run(job=run, over=over(state, run)) for run in newest_first(state, job)]
    old = _surplus(runs, spec.schedule.keep if spec.schedule is not None else 0)
    if spec.schedule is None or job.removed or job.desired is DesiredState.STOP:
        return Outlook(groups=old)
    before = job.recurrence or Recurrence(until_s=job.changed_at_s)
    after, others = _go_on(state, job, spec, before, runs, now_s, rng)
    wake_at_s = next_after(spec.schedule.cron, spec.schedule.timezone, max(now_s, after.until_s))
    if after == before:
        return Outlook(groups=old, wake_at_s=wake_at_s)
    moved_on = (Write(msgspec.structs.replace(job, recurrence=after)), *others)
    return Outlook(groups=(moved_on, *old), wake_at_s=wake_at_s)


# --- what is due


def _go_on(
    state: State, job: Job, spec: JobSpec, before: Recurrence, runs: list[_Run], now_s: float, rng: Rng
) -> tuple[Recurrence, tuple[Change, ...]]:
    """The schedule after now, and what else changes with it."""
    assert spec.schedule is not None
    after = before
    if before.until_s > now_s + CLOCK_WENT_BACK_S:  # it was the clock before that was wrong
        after = msgspec.structs.replace(before, until_s=now_s)
    active = [run.job for run in runs if not run.over]
    due_s = last_until(spec.schedule.cron, spec.schedule.timezone, now_s)
    stops: tuple[Change, ...] = ()
    if due_s > after.until_s:
        after = _taken_up(spec.schedule, after, due_s, active, now_s)
        if after.waiting_s == due_s and spec.schedule.overlap is Overlap.REPLACE:
            stops = stopped(active, f"replaced by the run due at {shown(due_s, spec.schedule.timezone)}")
    if after.waiting_s and not active:
        return _started(state, job, spec, after, now_s, rng)
    return after, stops


def _taken_up(schedule: Schedule, before: Recurrence, due_s: float, active: list[Job], now_s: float) -> Recurrence:
    """What becomes of the run that is due: it waits (for nothing, if no other one is active), or is passed over."""
    when = shown(due_s, schedule.timezone)
    if now_s - due_s > schedule.start_within_s:
        note = f"the run due at {when} was missed: no controller could start it within {schedule.start_within_s:g} s"
        return msgspec.structs.replace(before, until_s=due_s, note=note)
    if active and schedule.overlap is Overlap.SKIP:
        note = f"the run due at {when} was skipped: {active[0].name} had not ended"
        return msgspec.structs.replace(before, until_s=due_s, note=note)
    return msgspec.structs.replace(before, until_s=due_s, waiting_s=due_s, note="")


def _started(
    state: State, job: Job, spec: JobSpec, waiting: Recurrence, now_s: float, rng: Rng
) -> tuple[Recurrence, tuple[Change, ...]]:
    """The waiting run is made, unless it was already or its name belongs to another job."""
    due_s = waiting.waiting_s
    after = msgspec.structs.replace(waiting, waiting_s=0.0)
    name = run_name(job.name, due_s)
    holder = state.job_named(job.namespace, name)
    if holder is not None and holder.run_of is not None and holder.run_of.job_id == job.id:
        return after, ()
    if holder is not None:
        note = f"the run {name} was passed over: there is another job of this name"
        return msgspec.structs.replace(after, note=note), ()
    run = Job(
        id=new_id(rng),
        namespace=job.namespace,
        name=name,
        version=1,
        replicas=job.replicas,
        created_at_s=now_s,
        changed_at_s=now_s,
        priority=job.priority,
        run_of=RunOf(job_id=job.id, due_s=due_s),
    )
    own = msgspec.structs.replace(spec, name=name, replicas=job.replicas, priority=job.priority, schedule=None)
    return after, (Write(run), Write(JobVersion(job_id=run.id, version=1, spec=own, created_at_s=now_s)))


# --- what is over


def _surplus(runs: list[_Run], keep: int) -> tuple[Group, ...]:
    """The oldest ones that have ended, beyond those to keep."""
    over = [run.job for run in runs if run.over]
    return tuple((write,) for write in removed(over[keep:][:RUNS_FORGOTTEN_AT_ONCE]))
