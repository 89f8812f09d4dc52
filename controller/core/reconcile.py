"""What to change about one job so that what is becomes what should be.

Tasks are sorted into slots and buckets first (`slots`), then each slot is decided on by itself, then the rollout moves
as many slots as it may, then history is trimmed. Everything is a function of the arguments; the same ones give the same
answer, and reconciling again after its changes were applied decides nothing new.
(Sorting into named buckets before deciding is Nomad's reconciler; the slot as the unit of replication is Swarm's.)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable

import msgspec

from common.model.ids import Rng
from common.model.job import DesiredState, Job, JobMode, UpdateOrder
from common.model.task import Slot, Task, TaskState
from controller.core import batch, daemon, history, moving, rollout
from controller.core.clocks import since_s
from controller.core.decisions import (
    Count,
    Create,
    Decision,
    Fail,
    Forgive,
    Lose,
    Recover,
    Remain,
    Stop,
)
from controller.core.exclusive import EXCLUSIVE_TIMERS, ExclusiveTimers
from controller.core.gang import failures_of
from controller.core.job_pass import Pass
from controller.core.quiet import QuietSlots, Scope, pass_at_s, quiet_since_s
from controller.core.rollout_pass import failing, follow, present, roll_out
from controller.core.settings import (
    DISPLACED_MOVE_S,
)
from controller.core.slots import (
    Conditions,
    SlotView,
    line,
    makes_room,
    must_move,
    node_back,
    node_down,
    settles_at_s,
)
from controller.core.targets import through_as_a_whole
from controller.state import Group, State


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    decisions: tuple[Decision, ...]
    groups: tuple[Group, ...]
    """The changes of the decisions, in order; each group is valid alone."""
    wake_at_s: float = math.inf
    """When time alone would bring a new decision."""
    seen: Scope | None = None
    """The slots that were looked at, as they were found; None: the next pass has to look at all."""


def reconcile(
    state: State,
    job: Job,
    conditions: Conditions,
    now_s: float,
    rng: Rng,
    *,
    setting_out: int = 0,
    timers: ExclusiveTimers = EXCLUSIVE_TIMERS,
    scope: Scope | None = None,
    room: int = sys.maxsize,
    leads_since_s: float = -math.inf,
) -> Reconciled:
    """Decisions about `job`, and their changes; at most `room` of them, then another pass has to follow.

    `conditions` are the leader's judgements of nodes by id; a node without one counts as neither ready nor down.
    `setting_out` are moves of other jobs that were decided on and are not in `state` yet. `timers` are those of
    exclusive tasks made now. `scope` is what passes before have left to look at (see `attention`): the work depends on
    it, the decisions do not. `leads_since_s` is when this leader began to decide.
    """
    run = Pass(
        state,
        job,
        conditions,
        now_s,
        rng,
        setting_out=setting_out,
        timers=timers,
        scope=scope,
        room=room,
        leads_since_s=leads_since_s,
    )
    _judge_losses(run)
    if not run.wants_tasks():
        _stop_all(run, _stop_reason(run))
    elif run.spec.mode.ends and batch.overdue(job, run.spec, now_s) and not _is_over(run):
        _count(run, is_overdue=True)
        _stop_all(run, _stop_reason(run))
    elif run.spec.gang:
        _keep_gang(run)
        _count(run)
    else:
        _give_way(run)
        _judge_wishes(run)
        _fill_slots(run)
        _shed_slots(run)
        roll_out(run)
        _count(run)
    run.decide(*history.forgettable(state, job, run.slots, conditions, run.targets))
    seen = _seen(run)
    return Reconciled(decisions=tuple(run.decisions), groups=tuple(run.groups), wake_at_s=run.wake_at_s, seen=seen)


def _seen(run: Pass) -> Scope | None:
    """Which slots turned out to be quiet. Time may make a difference to the others, and to a rollout."""
    if not run.wants_tasks():
        return None
    fixed = (
        run.spec.mode is JobMode.SERVICE and not run.spec.gang
    )  # others get new slots with nodes that join, or with those that end
    quiet = _quiet_among(run) if fixed else {}
    loud = tuple(number for number in run.numbers if number not in quiet)
    _wake_as_tasks_settle(run, loud, quiet)
    return Scope(slots=loud, quiet=quiet) if fixed else None


def _quiet_among(run: Pass) -> QuietSlots:
    return {
        number: since[0]
        for number, slot in run.slots.items()
        if not run.touched(slot) and (since := quiet_since_s(run.state, run.job, slot, run.conditions)) is not None
    }


def _wake_as_tasks_settle(run: Pass, loud: Iterable[int], found: QuietSlots) -> None:
    """A rollout goes on with each slot that passes; where nothing else is left to do it ends with the last."""
    for number in loud:
        slot = run.slots.get(number)
        for task in slot.wanted if slot is not None and number in run.targets.numbers else ():
            for at_s in settles_at_s(task, run.spec_of(task)):
                run.wake(at_s)
    if not run.unsettled() and not run.changing:
        return
    moments = [at_s for quiet in (run.quiet, found) for at_s in pass_at_s(quiet, run.spec, run.now_s)]
    if moments:
        run.wake(min(moments) if run.changing else max(moments))


def _stop_reason(run: Pass) -> str:
    if run.job.removed:
        return "the job was removed"
    if run.job.desired is DesiredState.RUN and run.spec.schedule is None:
        return f"its deadline of {run.spec.batch.deadline_s:g} s passed"
    return "the job was stopped" if run.job.desired is DesiredState.STOP else "the job has a schedule now"


# --- nodes that went away or came back


def _judge_losses(run: Pass) -> None:
    for slot in run.slots.values():
        for task in (*slot.wanted, *slot.stopping):
            if node_down(task, run.state, run.conditions):
                run.decide(Lose(task=task, reason=_loss(task)))
        _welcome_all_back(run, slot)


def _loss(task: Task) -> str:
    if not task.lost_after_s:
        return "its node is down"
    return f"its node is down, and was silent for {task.lost_after_s:g} s: by then its agent has stopped it"


def _welcome_all_back(run: Pass, slot: SlotView) -> None:
    """Of several originals that come back together one is kept: of the newest version, rather one that does its work,
    and of these the one that was there first."""
    back = [task for task in slot.lost if task.desired is DesiredState.RUN and node_back(task, run.conditions)]
    kept: list[Task] = []
    for task in sorted(back, key=lambda task: (-task.version, not run.good(task), task.created_at_s, task.id)):
        if any(not run.base or other.version == task.version for other in kept):
            run.decide(Stop(task=task, reason="another of its slot came back with it"))
        elif _welcome_back(run, slot, task):
            kept.append(task)


def _welcome_back(run: Pass, slot: SlotView, task: Task) -> bool:
    """The original is kept unless its replacement is already good, its version is old, or its slot is gone."""
    replacements = [
        other
        for other in slot.wanted
        if run.still_there(other) and (not run.base or other.version == task.version)  # the other is no replacement
    ]
    if (
        not run.wants_tasks()
        or run.spec.gang  # the rest of it was stopped
        or task.fence_after_s > 0  # its agent has stopped it, or is told to: see `AssignmentSet`
        or any(map(run.good, replacements))
        or task.version not in run.kept_versions()
        or slot.number not in run.targets
        or slot.number in run.targets.through
    ):
        run.decide(Stop(task=task, reason="its node came back after it was given up"))
        return False
    run.decide(Recover(task=task))
    # One that it has to leave for anyway may go on.
    spare = [other for other in replacements if other.moves != task.id or not must_move(task, run.state)]
    run.decide(*[Stop(task=other, reason="the original came back") for other in spare])
    return True


# --- tasks that were to move


def _judge_wishes(run: Pass) -> None:
    """Give up the wishes that nothing comes of: their tasks count as staying in what is decided next."""
    for slot, task in moving.wishes(run.slots.values()):
        why = moving.given_up_because(run.state, run.job, slot, task, run.conditions, run.now_s)
        if why:
            run.decide(Remain(task=task, reason=why))
            run.replace(slot, task, msgspec.structs.replace(task, moves_to=""))
        for at_s in moving.overdue_at_s(slot, task):
            run.wake(at_s)


# --- what should not be


def _stop_all(run: Pass, reason: str) -> None:
    for slot in run.slots.values():
        run.decide(*[Stop(task=task, reason=reason) for task in slot.wanted if run.still_there(task)])
        _close_failures(run, slot, reason)


def _shed_slots(run: Pass) -> None:
    for number, slot in run.slots.items():
        if number not in run.targets:
            reason = _given_up_because(run, number)
            run.decide(*[Stop(task=task, reason=reason) for task in slot.wanted if run.still_there(task)])
            _close_failures(run, slot, reason)
        elif number in run.targets.through:
            _close_slot(run, slot)


def _close_slot(run: Pass, slot: SlotView) -> None:
    """Of a slot that is through: what still runs goes, what failed is noted."""
    current = [task for task in slot.wanted if run.still_there(task)]
    run.decide(*[Stop(task=task, reason="its slot is through") for task in current])
    _note_failures(run, slot, run.state.slot_of(run.job.id, slot.number))


def _given_up_because(run: Pass, number: int) -> str:
    if not run.spec.mode.per_node:
        return f"scaled to {run.job.replicas}"
    return daemon.left_because(run.state, run.job, run.state.slot_of(run.job.id, number).only_node)


def _close_failures(run: Pass, slot: SlotView, reason: str) -> None:
    satisfied = () if run.spec.mode.ends and slot.number in run.targets else slot.satisfied  # those count
    run.decide(*[Stop(task=task, reason=reason) for task in (*slot.failed, *satisfied)])


# --- what should be


def _fill_slots(run: Pass) -> None:
    if run.base:
        _fill_beside(run)
        return
    version = run.filled_version()
    for number in run.numbers:
        if run.full:
            break
        if number in run.targets.numbers:
            _fill_slot(run, run.slot(number), version)


def _fill_beside(run: Pass) -> None:
    """Every slot has a task that serves, and those of the step one of the new version beside it."""
    stands = run.held() or run.stands()
    for number in (number for number in run.numbers if number in run.targets.numbers):
        slot = run.slot(number)
        _fill_slot(run, line(slot, run.job.version, of_it=False), run.base)
        beside = line(slot, run.job.version)
        if number <= run.stage.replicas:
            because = f"version {run.job.version} is tried beside version {run.base}"
            _fill_slot(run, beside, 0 if stands else run.job.version, because)
        else:
            text = f"version {run.job.version} is tried in {run.stage.replicas} slots"
            left = (*(task for task in beside.wanted if run.still_there(task)), *beside.failed)
            run.decide(*[Stop(task=task, reason=text) for task in left])


def _fill_slot(run: Pass, slot: SlotView, version: int, because: str = "the slot was empty") -> None:
    memory = run.memory_of(slot.number)
    kept = max(slot.satisfied, key=lambda task: task.version == run.job.version, default=None)
    run.decide(*[Stop(task=task, reason="its slot has another task") for task in slot.satisfied if task is not kept])
    present = [task for task in slot.wanted if run.still_there(task)]
    recovering = [
        task
        for task in slot.lost
        if task.desired is DesiredState.RUN and node_back(task, run.conditions) and task.version in run.kept_versions()
    ]
    memory = _note_failures(run, slot, memory)
    if present or recovering:
        _tend(run, slot, present)
    elif version and not _at_rest(run, slot):
        run.decide(*[Stop(task=task, reason=rollout.stop_reason(task, version, run.state)) for task in slot.satisfied])
        _create(run, slot, version, memory, because)


def _note_failures(run: Pass, slot: SlotView, memory: Slot) -> Slot:
    """Close the slot's failed tasks; its memory with them."""
    for task in slot.failed:
        if task.status.state is TaskState.STOPPED:  # by its own agent, which says nothing against task or node
            run.decide(Stop(task=task, reason=task.status.message or "its agent stopped it"))
            continue
        run.decide(Fail(task=task, slot=memory, reason=f"{task.status.state.value}: {task.status.message}"))
        memory = msgspec.structs.replace(
            memory, failures=memory.failures + 1, failed_at_s=run.now_s, failed_version=run.job.version
        )
    return memory


def _tend(run: Pass, slot: SlotView, present: list[Task]) -> None:
    """A slot with wanted tasks: forgive it when it runs well, and let only one task of a version stay."""
    memory = run.memory_of(slot.number)
    if memory.failures and not run.spec.mode.ends and any(_proven(run, task) for task in present):
        run.decide(Forgive(slot=memory))
    for version in sorted({task.version for task in present}):
        same = [task for task in present if task.version == version and not must_move(task, run.state)]
        best = max(same, key=lambda task: (run.good(task), -task.created_at_s), default=None)
        run.decide(*[Stop(task=task, reason="its slot has another task") for task in same if task is not best])


def _proven(run: Pass, task: Task) -> bool:
    """Ran well for as long as its restart policy takes to forget failures."""
    if not run.good(task):
        return False
    window_s = run.spec_of(task).task.restart.window_s
    run.wake(task.observed_at_s + window_s)
    return since_s(task.observed_at_s, run.now_s) >= window_s


def _at_rest(run: Pass, slot: SlotView) -> bool:
    """Whether the slot needs no task although it has none: it ended as it should, or has to wait."""
    if any(task.version == run.job.version for task in slot.satisfied):
        return True
    # Where two cannot be beside each other its successor waits until it is gone.
    return bool(slot.stopping) and rollout.order_of(run.spec) is UpdateOrder.STOP_FIRST


def _create(run: Pass, slot: SlotView, version: int, memory: Slot, because: str) -> None:
    failures = memory.failures
    if not run.waited_enough(failures, memory.failed_at_s):
        return
    lost = [*slot.lost, *(task for task in slot.wanted if not run.still_there(task))]
    if lost:
        reason = "replaces a task whose node is down"
    elif by := _displaced_by(slot):
        reason = f"replaces a task that was preempted by {by}"
    elif failures:
        reason = f"replaces a task that failed ({failures} in a row)"
    else:
        reason = because
    run.decide(Create(slot=slot.number, version=version, reason=reason, displaced_by=_displaced_by(slot)))


def _displaced_by(slot: SlotView) -> str:
    """Who displaced the slot's last task; empty when it went for another reason."""
    last = max((*slot.stopping, *slot.ended), key=lambda task: task.created_at_s, default=None)
    if last is None or last.displaced is None or not last.displaced.task_id:
        return ""
    return last.displaced.by


def _give_way(run: Pass) -> None:
    """Displaced tasks whose room nobody waits for any more stay; those whose successor is long in coming stop."""
    for task in (task for slot in run.slots.values() for task in slot.wanted):
        if task.displaced is None or not task.displaced.task_id:
            continue
        if not makes_room(task, run.state):
            run.decide(Remain(task=task, reason=f"{task.displaced.by} needs its room no more"))
        elif since_s(task.displaced.at_s, run.now_s) >= DISPLACED_MOVE_S:
            waited = f"its successor was not well within {DISPLACED_MOVE_S:g} s"
            run.decide(Stop(task=task, reason=f"preempted by {task.displaced.by}; {waited}"))
        else:
            run.wake(task.displaced.at_s + DISPLACED_MOVE_S)


# --- all together


def _keep_gang(run: Pass) -> None:
    """All of a gang or none: what is left of one that broke stops, and it starts again when nothing of it is there."""
    failures = failures_of(run.state, run.job, run.job.version)
    memories = [_note_failures(run, slot, _of_gang(run, slot, failures)) for slot in run.slots.values()]
    slots = [present(run, slot) for number, slot in run.slots.items() if number in run.targets.numbers]
    if (failed := failing(run, slots)) is not None:
        run.decide(failed)
        return
    _shed_slots(run)
    version = run.filled_version()
    there = [task for slot in run.slots.values() for task in (*present(run, slot).wanted, *slot.satisfied)]
    members = [task for task in there if task.version == version and task.slot in run.targets.numbers]
    others = [task for task in there if task.version != version and not task.ended]
    missing = sorted(set(run.targets.numbers) - {task.slot for task in members})
    if not version or (run.job.paused and others):
        return
    if because := _broken_because(run, members, missing):
        run.decide(*[Stop(task=task, reason=because) for task in members if task.node_id])
    elif others:
        run.decide(*[Stop(task=task, reason=rollout.stop_reason(task, version, run.state)) for task in others])
    elif missing and not any(_is_there(run, task) for task in run.tasks if task not in members):
        _begin_gang(run, missing, version, memories)
    else:
        _tend_gang(run)


def _of_gang(run: Pass, slot: SlotView, failures: int) -> Slot:
    """A slot's memory; before a failure is noted it takes over how often the gang failed, whichever member it was."""
    memory = run.memory_of(slot.number)
    return msgspec.structs.replace(memory, failures=max(memory.failures, failures)) if slot.failed else memory


def _broken_because(run: Pass, members: list[Task], missing: list[int]) -> str:
    placed = [task for task in members if task.node_id]
    if not placed:
        return ""
    if any(run.touched(slot) for slot in run.slots.values() if slot.number not in run.targets):
        return f"the gang starts again as a whole: it was scaled to {run.job.replicas}"
    if missing:
        return f"the gang starts again as a whole, since {run.job.name}.{missing[0]} has no task"
    leaving = next((task for task in placed if must_move(task, run.state)), None)
    if leaving is None:
        return ""
    return f"the gang moves as a whole: the node of {run.job.name}.{leaving.slot} is being drained"


def _is_there(run: Pass, task: Task) -> bool:
    """Whether something of the task may still run, as far as is known."""
    return bool(task.node_id) and not task.ended and not task.lost_at_s and run.still_there(task)


def _begin_gang(run: Pass, missing: list[int], version: int, memories: list[Slot]) -> None:
    worst = max(memories, key=lambda memory: (memory.failures, memory.failed_at_s), default=None)
    if worst is not None and not run.waited_enough(worst.failures, worst.failed_at_s):
        return
    reason = f"the gang starts again ({worst.failures} in a row)" if worst and worst.failures else "the slot was empty"
    run.decide(*[Create(slot=number, version=version, reason=reason) for number in missing])


def _tend_gang(run: Pass) -> None:
    slots = [present(run, slot) for number, slot in run.slots.items() if number in run.targets.numbers]
    for slot in slots:
        _tend(run, slot, list(slot.wanted))
    if run.spec.mode.ends or not run.unsettled():
        return
    for task in (task for slot in slots for task in slot.wanted):
        for at_s in settles_at_s(task, run.spec_of(task)):
            run.wake(at_s)
    follow(run, slots)


# --- how far a job has come whose tasks end


def _count(run: Pass, *, is_overdue: bool = False) -> None:
    known = run.targets.known
    if known is None or run.held():
        return
    job, over = run.job, _is_over(run)
    begins = run.begun() or any(isinstance(decision, Create) for decision in run.decisions)
    progress = batch.counted(job, known, run.now_s, begins=begins, over=over, is_overdue=is_overdue)
    if run.spec.batch.deadline_s and progress.started_at_s and not progress.ended_at_s:
        run.wake(progress.started_at_s + run.spec.batch.deadline_s)
    if progress == job.progress:
        return
    ended = bool(progress.ended_at_s)
    text = batch.outcome(msgspec.structs.replace(job, progress=progress), known, run.targets.slots, run.spec)
    run.decide(Count(progress=progress, good=ended and not known.failed and not is_overdue, text=text if ended else ""))


def _is_over(run: Pass) -> bool:
    """Whether every slot is through."""
    resting = run.targets.resting
    leaving = any(number in resting for number, slot in run.slots.items() if slot.wanted)
    return through_as_a_whole(run.targets, run.spec) and not leaving
