"""What may be forgotten: ended tasks and old versions beyond bounds, and a removed job once nothing of it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.model.job import Job, JobVersion
from common.model.rollout import RolloutPhase
from common.model.task import Slot, Task, TaskState
from controller.core.decisions import Forget
from controller.core.settings import ENDED_KEPT_OUTSIDE, ENDED_KEPT_PER_SLOT, FORGOTTEN_AT_ONCE, VERSIONS_KEPT
from controller.core.slots import Conditions, SlotView, node_down
from controller.core.targets import Targets
from controller.state import State


def forgettable(
    state: State, job: Job, slots: Mapping[int, SlotView], conditions: Conditions, targets: Targets
) -> tuple[Forget, ...]:
    """Records to erase now, in portions that one commit can hold, each valid alone.

    A task goes before the version it is of, and everything before its job:
    what others need goes in a later pass.
    """
    if job.removed:
        return _whole_job(state, job, slots, conditions)
    tasks = _surplus_tasks(slots, targets) + _unreachable_for_good(state, slots)
    slots_left = {task.slot for slot in slots.values() for task in _all(slot)} - {0}
    erased = {task.id for task in tasks}
    gone = [
        memory
        for number, memory in state.slots_of(job.id).items()
        if (number not in targets or (number in targets.through and number not in targets.nodes))
        and (number not in slots_left or all(task.id in erased for task in _all(slots[number])))
    ]
    return _portions((*tasks, *gone)) or _portions(_surplus_versions(state, job))


def _all(slot: SlotView) -> tuple[Task, ...]:
    return (*slot.wanted, *slot.stopping, *slot.lost, *slot.satisfied, *slot.failed, *slot.ended)


def _surplus_tasks(slots: Mapping[int, SlotView], targets: Targets) -> list[Task]:
    kept, through = targets, targets.through
    inside = [
        task for number, slot in slots.items() if number in kept and number not in through for task in _older(slot)
    ]
    outside = [task for number, slot in slots.items() if number not in kept for task in slot.ended]
    outside.sort(key=lambda task: (-task.status.ended_at_s, task.id))
    over = [task for number, slot in slots.items() if number in through for task in _all(slot) if task.ended]
    return inside + outside[ENDED_KEPT_OUTSIDE:] + _surplus_of_ended(over)


def _surplus_of_ended(tasks: Sequence[Task]) -> list[Task]:
    """Of slots that are through: all but the last ones that went well, and the last ones that did not."""
    latest = sorted(tasks, key=lambda task: (-task.observed_at_s, -task.slot, task.id))
    well = [task for task in latest if task.status.state is TaskState.COMPLETE]
    badly = [task for task in latest if task.status.state is not TaskState.COMPLETE]
    return well[ENDED_KEPT_OUTSIDE:] + badly[ENDED_KEPT_OUTSIDE:]


def _unreachable_for_good(state: State, slots: Mapping[int, SlotView]) -> list[Task]:
    """Lost tasks whose node was removed: nobody will ever report on them again."""
    return [task for slot in slots.values() for task in slot.lost if task.node_id not in state.nodes]


def _older(slot: SlotView) -> tuple[Task, ...]:
    return slot.ended[ENDED_KEPT_PER_SLOT:]


def _surplus_versions(state: State, job: Job) -> list[JobVersion]:
    versions = state.versions_of(job.id)
    if len(versions) <= VERSIONS_KEPT:  # nearly always, and jobs can have very many tasks
        return []
    used = {task.version for task in state.tasks_of_job(job.id).values()}
    done = [past.version for past in job.past_rollouts if past.phase is RolloutPhase.DONE]
    kept = {job.version, job.good_version, *done, *used, *sorted(versions)[-VERSIONS_KEPT:]}
    return [version for number, version in sorted(versions.items()) if number not in kept]


def _portions(records: Sequence[Task | Slot | JobVersion]) -> tuple[Forget, ...]:
    starts = range(0, len(records), FORGOTTEN_AT_ONCE)
    return tuple(Forget(records=tuple(records[start : start + FORGOTTEN_AT_ONCE])) for start in starts)


def _whole_job(state: State, job: Job, slots: Mapping[int, SlotView], conditions: Conditions) -> tuple[Forget, ...]:
    """A removed job disappears when its tasks have ended, or are on nodes that will be told when they return."""
    tasks = [task for slot in slots.values() for task in _all(slot)]
    if any(task.node_id and not task.ended and not node_down(task, state, conditions) for task in tasks):
        return ()
    belongings: tuple[Task | Slot, ...] = (*tasks, *state.slots_of(job.id).values())
    if belongings:
        return _portions(belongings)
    return (Forget(records=(*state.versions_of(job.id).values(), job)),)
