"""Slots of a job that need no look until something happens to them, so that a pass looks at the others only.

A slot is quiet when one task of the wanted version is all that it has and all that it should have, and nothing about
it asks for a decision: nothing will, until one of its records, its node or the job changes. Of quiet slots a pass needs
to know how many there are and how many of them a rollout may rely on. Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import msgspec

from common.model.job import DesiredState, Job, JobMode, JobSpec
from common.model.task import Health, Task, TaskState
from controller.core.clocks import since_s
from controller.core.rollout import fails
from controller.core.settings import ENDED_KEPT_PER_SLOT, SETTLE_S
from controller.core.slots import Conditions, SlotView, is_silent, must_move, node_down, slot_view
from controller.state import State

QuietSlots = Mapping[int, float | None]
"""By slot: since when its task does its work (Unix time, -inf where time says nothing), None while it does not yet."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass has to look at: `slots` are all that are not quiet, whether they have tasks or not."""

    slots: tuple[int, ...]
    quiet: QuietSlots


def quiet_since_s(state: State, job: Job, slot: SlotView, conditions: Conditions) -> tuple[float | None] | None:
    """None when the slot is not quiet, else its value in `QuietSlots`. Of a slot about which nothing was decided."""
    tasks = (*slot.wanted, *slot.satisfied)
    if len(tasks) != 1 or slot.stopping or slot.lost or slot.failed or slot.number > job.replicas:
        return None
    (task,) = tasks
    if not _as_wanted(state, job, task, conditions) or state.slot_of(job.id, slot.number).failures:
        return None
    failed_before = any(fails(other) and other.version == job.version for other in slot.ended)
    if failed_before or len(slot.ended) > ENDED_KEPT_PER_SLOT:
        return None
    return (_works_since_s(task, state.spec_of_task(task), conditions),)


def quiet_with_s(state: State, job: Job, task: Task, conditions: Conditions) -> tuple[float | None] | None:
    """As `quiet_since_s`, of the slot of a live task that is all that the slot has, and has had; None of any other."""
    if state.tasks_in_slot(job.id, task.slot) != (task,) or task.ended or task.lost_at_s:
        return None
    alone = slot_view(task.slot, {"wanted": [task]})
    return quiet_since_s(state, job, alone, conditions)


def _as_wanted(state: State, job: Job, task: Task, conditions: Conditions) -> bool:
    return (
        task.version == job.version
        and task.desired is DesiredState.RUN
        and state.spec_of_task(task).mode is JobMode.SERVICE
        and task.nomination is None
        and task.displaced is None
        and not fails(task)
        and not must_move(task, state)
        and not node_down(task, state, conditions)
    )


def _works_since_s(task: Task, spec: JobSpec, conditions: Conditions) -> float | None:
    if task.ended:
        return -math.inf
    if task.status.state is not TaskState.RUNNING or is_silent(task, conditions):
        return None
    if spec.task.health_check is None or task.status.health is Health.HEALTHY:
        return task.observed_at_s
    return None


def passed(quiet: QuietSlots, spec: JobSpec, now_s: float) -> int:
    """How many of the slots a rollout may rely on. `spec` is of the wanted version."""
    return sum(1 for _ in passing(quiet, spec, now_s))


def passing(quiet: QuietSlots, spec: JobSpec, now_s: float) -> Iterator[int]:
    """Which ones those are."""
    least_s = _watched_s(spec)
    return (slot for slot, at_s in quiet.items() if at_s is not None and since_s(at_s, now_s) >= least_s)


def pass_at_s(quiet: QuietSlots, spec: JobSpec, now_s: float) -> tuple[float, ...]:
    """When mere time lets a rollout rely on one more of the slots, each moment still to come."""
    least_s = _watched_s(spec)
    moments = (at_s + least_s for at_s in quiet.values() if at_s is not None)
    return tuple(moment for moment in moments if moment > now_s)


def _watched_s(spec: JobSpec) -> float:
    return max(SETTLE_S if spec.task.health_check is None else 0.0, spec.update.monitor_s)
