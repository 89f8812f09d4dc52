"""The runs of a job with a schedule, and what happens to them when something is done to the job itself."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from common.model.job import DesiredState, Job, JobSpec, Recurrence
from controller.state import State, Write


def newest_first(state: State, job: Job) -> list[Job]:
    """The runs of a job that are still there."""
    runs = (run for run in state.runs_of(job.id).values() if not run.removed)
    return sorted(runs, key=lambda run: (-due_s(run), run.id))


def due_s(run: Job) -> float:
    return run.run_of.due_s if run.run_of is not None else 0.0


def run_name(job: str, due_at_s: float) -> str:
    """`backup-20260329-0100`: when it was due in UTC, to the second where that is not a full minute."""
    moment = datetime.fromtimestamp(due_at_s, UTC)
    return f"{job}-{moment:%Y%m%d-%H%M%S}" if moment.second else f"{job}-{moment:%Y%m%d-%H%M}"


def begun_anew(spec: JobSpec, now_s: float) -> Recurrence | None:
    """Of a job that gets this spec, or is to run again: what was due before now is not its business."""
    return None if spec.schedule is None else Recurrence(until_s=now_s)


def carried_on(job: Job, before: JobSpec, after: JobSpec, now_s: float) -> Recurrence | None:
    """Of a job whose spec changes: a run that is due at this very moment is not lost over a new image."""
    if job.recurrence is None or job.desired is not DesiredState.RUN or _moments(before) != _moments(after):
        return begun_anew(after, now_s)
    return job.recurrence


def _moments(spec: JobSpec) -> tuple[str, str]:
    """What says when its runs are due."""
    return ("", "") if spec.schedule is None else (spec.schedule.cron, spec.schedule.timezone)


def stopped(runs: Iterable[Job], note: str) -> tuple[Write, ...]:
    return tuple(
        Write(msgspec.structs.replace(run, desired=DesiredState.STOP, note=note))
        for run in runs
        if run.desired is DesiredState.RUN
    )


def removed(runs: Iterable[Job]) -> tuple[Write, ...]:
    return tuple(Write(msgspec.structs.replace(run, removed=True, desired=DesiredState.STOP)) for run in runs)
