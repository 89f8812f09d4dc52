"""Exclusive jobs, the controller's half: by which deadlines a task lives, its token, and when its slot is free.

A slot of an exclusive job gets its next task only when nothing of the ones before can still run: each has ended by its
agent's word, or was silent for longer than an agent waits before it stops the task itself, or its node was removed. The
agent's half is `agent.core.self_fence`; docs/exclusive.md has the argument. Decides nothing else about tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from common.model.job import Container, JobSpec
from common.model.task import Task
from controller.core.decisions import Create
from controller.core.slots import Conditions, node_back
from controller.state import State

GENERATION_BITS = 40
"""Of a token stand below its generation: at a thousand commits a second a store's revisions last for 34 years."""


class ExclusiveTimers(msgspec.Struct, frozen=True, kw_only=True):
    """When both sides let go of an exclusive task, each by its own clock and without asking the other."""

    self_s: float = 15.0
    """An agent stops the task when nothing it sent for this long was acknowledged: a failover (4 s) and a restarted
    agent fit in three times. Counted from the sending, by a clock that counts while the machine sleeps."""
    lost_s: float = 40.0
    """The leader takes the task for gone when it heard nothing of the node for this long. Counted from the arrival."""
    margin_s: float = 5.0
    """Between the last moment a task can run and the first its successor can: for the guard, which looks five times a
    second and begins a second late, for a kill that takes its time, and for clocks that run at different rates (5 s in
    40 are 12 percent, clocks differ by less than 0.1)."""
    periods: float = 4.0
    """`self_s` is at least so many heartbeats: in clusters whose heartbeats are stretched both grow with them."""

    @property
    def grace_limit_s(self) -> float:
        """The longest `stop_grace_period` of an exclusive job."""
        return self.lost_s - self.self_s - self.margin_s

    def stretched(self, period_s: float) -> ExclusiveTimers:
        """The timers for tasks made while heartbeats come every `period_s`."""
        longer_s = max(0.0, period_s * self.periods - self.self_s)
        return msgspec.structs.replace(self, self_s=self.self_s + longer_s, lost_s=self.lost_s + longer_s)

    def lost_after_s(self, stop_grace_s: float) -> float:
        """Never too early, whatever the grace: a spec may be older than the settings."""
        return max(self.lost_s, self.self_s + stop_grace_s + self.margin_s)


EXCLUSIVE_TIMERS = ExclusiveTimers()


def timer_faults(timers: ExclusiveTimers) -> Iterator[tuple[str, str]]:
    """What would let two tasks of a slot overlap, or stop them at every missed heartbeat: (path, text) pairs."""
    if timers.self_s <= 0:
        yield "timers.exclusive.self_s", f"{timers.self_s:g} s is no time: agents would stop exclusive tasks at once"
    if timers.margin_s <= 0:
        yield (
            "timers.exclusive.margin_s",
            f"{timers.margin_s:g} s leaves no room for clocks and slow kills",
        )
    least_s = timers.self_s + Container().stop_grace_s + timers.margin_s
    if timers.lost_s < least_s:
        text = (
            f"{timers.lost_s:g} s is too short: agents stop exclusive tasks after self_s ({timers.self_s:g} s), the "
            f"default stop grace is {Container().stop_grace_s:g} s and margin_s {timers.margin_s:g} s, so replacing "
            f"them before {least_s:g} s would run two at once; raise lost_s or lower self_s"
        )
        yield "timers.exclusive.lost_s", text


def spec_fault(spec: JobSpec, timers: ExclusiveTimers) -> str:
    """Why the cluster cannot run the spec as exclusive, of its `task.container.stop_grace_s`; empty when it can."""
    grace_s = spec.task.container.stop_grace_s
    if not spec.task.exclusive or grace_s <= timers.grace_limit_s:
        return ""
    return (
        f"{grace_s:g} s is too long for an exclusive job: its agent stops it after {timers.self_s:g} s without "
        f"the controller, and it is replaced after {timers.lost_s:g} s, so with a margin of {timers.margin_s:g} s at "
        f"most {timers.grace_limit_s:g} s are left to stop in; shorten it, or have the operator raise T_lost"
    )


def armed(create: Create, spec: JobSpec, state: State, timers: ExclusiveTimers) -> Create:
    """The decision with what an exclusive task carries for its whole life; one of another job as it is."""
    if not spec.task.exclusive:
        return create
    return msgspec.structs.replace(
        create,
        fencing_token=token(state),
        fence_after_s=timers.self_s,
        lost_after_s=timers.lost_after_s(spec.task.container.stop_grace_s),
    )


def token(state: State) -> int:
    """Greater than every token decided on before.

    The commit that writes a task has a greater revision than the state it was decided on, and a later task of the slot
    is decided on a state that has that commit: its token, that state's revision plus one, is greater. Revisions rise
    over terms, and over jobs that are removed and made again; a restore may set them back, but raises the generation.
    """
    return (state.generation << GENERATION_BITS) + state.revision + 1


def in_the_way(
    tasks: Iterable[Task], create: Create, spec: JobSpec, state: State, conditions: Conditions
) -> list[Task]:
    """Tasks of the slot that keep its next one from being made: they may run, and one of the two must run alone."""
    return [
        task
        for task in tasks
        if task.slot == create.slot and (spec.task.exclusive or task.fence_after_s) and may_run(task, state, conditions)
    ]


def may_run(task: Task, state: State, conditions: Conditions) -> bool:
    """Whether anything of the task could be running at this moment.

    An exclusive task is declared lost only when its agent must have stopped it. Should its node come back and say that
    it runs (its clock stood still, perhaps), it counts again until it has ended. Of a lost task of another kind nobody
    knows anything.
    """
    if not task.node_id or task.ended or task.node_id not in state.nodes:
        return False
    if task.lost_at_s and task.fence_after_s:
        return node_back(task, conditions)
    return True
