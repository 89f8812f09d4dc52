"""What a reconciliation does about versions: what becomes of the job's rollout, and which slots change now.

Whether the rollout failed, where it stands and which slots change now is decided by `rollout_verdict`,
`rollout_machine` and `rollout`; this brings them together.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from common.model.rollout import Rollout
from controller.core import daemon, rollout, rollout_verdict
from controller.core import rollout_machine as machine
from controller.core.clocks import since_s
from controller.core.decisions import Advance, Create, Settle, Stop
from controller.core.job_pass import Pass
from controller.core.quiet import passed as passed_quietly
from controller.core.quiet import passing
from controller.core.settings import (
    MOVE_COUNTS_S,
    MOVE_LOOK_S,
    MOVES_AT_ONCE,
    WISHED_MOVES_AT_ONCE,
)
from controller.core.slots import (
    SlotView,
    line,
    must_move,
)
from controller.state import State


def roll_out(run: Pass) -> None:
    slots = [present(run, slot) for number, slot in run.slots.items() if number in run.targets.numbers]
    if (failed := failing(run, slots)) is not None:
        run.decide(failed)
        return
    run.changing = any(rollout.outdated(task, run.job.version, run.state) for slot in slots for task in slot.wanted)
    follow(run, slots)
    decided = {number for number, slot in run.slots.items() if run.touched(slot)}
    for step in _side_by_side(run, _steps(run, slots)) if run.changing else ():
        if isinstance(step, Create) and step.slot in decided:
            continue  # an original may just have taken its slot back: what it lacks is seen in the next pass
        memory = run.memory_of(step.slot) if isinstance(step, Create) else None
        if memory is None or run.waited_enough(memory.failures, memory.failed_at_s):
            run.decide(step)


def follow(run: Pass, slots: list[SlotView]) -> None:
    """Take what is seen of the slots into the rollout, which may be through with that."""
    if _settles(run, slots):
        run.decide(Settle(version=run.job.version))
    elif run.rollout is not None and machine.active(run.rollout) and not run.job.paused:
        _advance(run, run.rollout, slots)


def failing(run: Pass, slots: list[SlotView]) -> rollout_verdict.Failing | None:
    """What to do about a rollout that fails; None while it does not."""
    if run.rollout is None or not machine.active(run.rollout) or run.job.paused:
        return None
    deadline_at_s = machine.deadline_at_s(run.rollout, run.spec.update, run.leads_since_s)
    case = rollout_verdict.Case(
        job=run.sized,
        rollout=run.rollout,
        policy=run.spec.update,
        stage=run.stage,
        tasks=run.tasks,
        slots=tuple(run.state.slots_of(run.job.id).values()),
        well=len(_well(run, slots)),
        deadline_at_s=deadline_at_s,
    )
    run.wake(deadline_at_s)
    return rollout_verdict.verdict(case, run.now_s)


def _advance(run: Pass, before: Rollout, slots: list[SlotView]) -> None:
    """Take what is seen now into the rollout; what it leads to is decided in the next pass."""
    known = machine.stages(before.strategy, run.spec, run.sized.replicas)
    seen = machine.Seen(well=_well(run, slots), held=run.held(), exact=bool(run.spec.update.delay_s))
    after = machine.moved(before, known, seen, run.now_s)
    if after is not before:
        run.decide(Advance(rollout=after))
        run.rollout = after if after.step == before.step else before
    run.wake(machine.baked_at_s(after, run.stage))


def _well(run: Pass, slots: list[SlotView]) -> tuple[int, ...]:
    """Slots of the step that run the wanted version well."""
    looked_at = [slot.number for slot in slots if _runs_well(run, slot)]
    found = sorted((*looked_at, *passing(run.quiet, run.spec, run.now_s)))
    return tuple(number for number in found if number <= run.stage.replicas or not run.stage.beside)


def _runs_well(run: Pass, slot: SlotView) -> bool:
    """Whether the slot has a task of the wanted version that is to be relied on, or that ended as it should."""
    version = run.job.version
    if any(task.version == version for task in slot.satisfied):
        return True
    return any(task.version == version and run.passed(task) for task in slot.wanted)


def _steps(run: Pass, slots: list[SlotView]) -> list[rollout.Step]:
    """Towards the wanted version, or of each of two that run side by side among its own."""
    pace, version = _pace(run, slots), run.job.version
    if not run.base:
        return rollout.steps(run.state, run.sized, run.spec, slots, run, pace)
    old = msgspec.structs.replace(
        pace, wanted_version=run.base, filled_version=run.base, held=False, quiet_slots=0, quiet_passed=0
    )
    new = msgspec.structs.replace(pace, filled_version=version)
    specs = run.specs[run.base], run.spec
    lines = ((line(slot, version, of_it=False) for slot in slots), (line(slot, version) for slot in slots))
    return [
        step
        for spec, views, its_pace in zip(specs, lines, (old, new), strict=True)
        for step in rollout.steps(
            run.state, run.sized, spec, [view for view in views if view.wanted or view.satisfied], run, its_pace
        )
    ]


def _side_by_side(run: Pass, steps: list[rollout.Step]) -> Iterator[rollout.Step]:
    """The steps, but that of a slot that has one node only, and no room on it for two, the old task goes first."""
    if not run.spec.mode.per_node:
        yield from steps
        return
    cramped = {number: text for number, slot in run.slots.items() if (text := _cramped(run, slot))}
    for step in steps:
        if not isinstance(step, Create) or step.slot not in cramped:
            yield step
    begun = {step.slot for step in steps if isinstance(step, Create)}
    for number, text in cramped.items():
        slot = run.slots[number]
        for task in slot.wanted:
            new = [other for other in slot.wanted if other.version == run.job.version]
            if task.version != run.job.version and (number in begun or new):
                reason = rollout.stop_reason(task, run.job.version, run.state)
                yield Stop(task=task, reason=f"{reason}; stopped before the next one starts, since {text}")


def _cramped(run: Pass, slot: SlotView) -> str:
    """Why the slot's next task has no room on its node beside the one that is there; empty where it has, or has it."""
    if any(task.node_id and task.version == run.job.version for task in slot.wanted) or slot.number not in run.targets:
        return ""
    return daemon.no_room_beside(run.state, run.targets.nodes.get(slot.number, ""), run.spec.task)


def _pace(run: Pass, slots: list[SlotView]) -> rollout.Pace:
    room = _moves_at_once(run, slots) - run.setting_out - _arriving(run.state, run.now_s)
    if room < _moves_at_once(run, slots) and any(must_move(task, run.state) for slot in slots for task in slot.wanted):
        run.wake(run.now_s + MOVE_LOOK_S)
    return rollout.Pace(
        wanted_version=run.job.version,
        filled_version=run.filled_version(),
        held=run.held(),
        paused=run.stands(),
        begin=_delay_over(run),
        quiet_slots=len(run.quiet),
        quiet_passed=passed_quietly(run.quiet, run.spec, run.now_s),
        moves=max(0, room),
    )


def _delay_over(run: Pass) -> bool:
    """Whether the next slot may begin after the last one that is through."""
    if run.rollout is None or machine.over(run.rollout) or not run.rollout.most or not run.spec.update.delay_s:
        return True
    run.wake(run.rollout.advanced_at_s + run.spec.update.delay_s)
    return since_s(run.rollout.advanced_at_s, run.now_s) >= run.spec.update.delay_s


def _moves_at_once(run: Pass, slots: list[SlotView]) -> int:
    """Fewer while all that moves of the job does so for a better balance only."""
    must = [task for slot in slots for task in slot.wanted if must_move(task, run.state)]
    return WISHED_MOVES_AT_ONCE if must and all(task.moves_to for task in must) else MOVES_AT_ONCE


def _arriving(state: State, now_s: float) -> int:
    """Tasks anywhere that have set out lately and do not run yet."""
    return sum(since_s(task.created_at_s, now_s) < MOVE_COUNTS_S for task in state.arriving.values())


def present(run: Pass, slot: SlotView) -> SlotView:
    """Without the tasks whose nodes are given up."""
    return msgspec.structs.replace(slot, wanted=tuple(task for task in slot.wanted if run.still_there(task)))


def _settles(run: Pass, slots: list[SlotView]) -> bool:
    """Whether the rollout is through only now."""
    if run.rollout is None or not run.unsettled():  # jobs whose tasks end are counted instead
        return False
    return machine.is_last(run.rollout, run.spec, run.sized.replicas) and _settled(run, slots)


def _settled(run: Pass, slots: list[SlotView]) -> bool:
    done = [
        slot
        for slot in slots
        if any(task.version == run.job.version for task in slot.satisfied)
        or (slot.wanted and all(task.version == run.job.version and run.passed(task) for task in slot.wanted))
    ]
    return len(done) + passed_quietly(run.quiet, run.spec, run.now_s) >= run.sized.replicas > 0
