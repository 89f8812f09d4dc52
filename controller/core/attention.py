"""What of each job has to be looked at: the memory between two reconciliations, kept by what changed.

It only spares work: a pass that looks at what is here decides what a pass over the whole job would.
"""

from __future__ import annotations

import msgspec

from common.model.job import Job, JobVersion
from common.model.node import Availability, Node, NodeCondition, NodeStatus
from common.model.rollout import Rollout, RolloutPhase, RolloutStrategy
from common.model.task import Slot, Task
from controller.core.quiet import Scope, quiet_with_s
from controller.core.slots import Conditions, merely_nearer
from controller.state import Applied, State


class _Memory:
    """Of one job's slots, all of them."""

    def __init__(self) -> None:
        self.loud: dict[int, None] = {}
        self.quiet: dict[int, float | None] = {}

    def copy(self) -> _Memory:
        copy = _Memory()
        copy.loud, copy.quiet = dict(self.loud), dict(self.quiet)
        return copy

    def touch(self, slot: int) -> None:
        self.quiet.pop(slot, None)
        self.loud[slot] = None


class Attention:
    """See the module. A job of which nothing is known yet is looked at as a whole."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Memory] = {}

    def scope(self, job_id: str) -> Scope | None:
        """For the next pass. Its `quiet` must not be kept."""
        memory = self._jobs.get(job_id)
        return None if memory is None else Scope(slots=tuple(memory.loud), quiet=memory.quiet)

    def saw(self, job_id: str, seen: Scope | None) -> None:
        """What the pass found of the slots it looked at."""
        if seen is None:
            self.forget(job_id)
            return
        memory = self._jobs.setdefault(job_id, _Memory())
        memory.loud = dict.fromkeys(seen.slots)
        memory.quiet.update(seen.quiet)

    def copy(self) -> Attention:
        """For a caller that imagines what comes next."""
        copy = Attention()
        copy._jobs = {job_id: memory.copy() for job_id, memory in self._jobs.items()}
        return copy

    def forget(self, job_id: str) -> None:
        self._jobs.pop(job_id, None)

    def follow(self, applied: Applied, state: State, conditions: Conditions) -> bool:
        """Something was committed. Returns whether that may ask for a decision at all."""
        if _merely_nearer(applied) or self._placed_as_hoped(applied, state, conditions):
            return False
        match applied.after or applied.before:
            case Job() as job:
                if not _merely_settled(applied):
                    self.forget(job.id)
            case JobVersion(job_id=job_id):
                self.forget(job_id)
            case Task() as task:
                self._follow_task(task, state, conditions)
            case Slot(job_id=job_id, slot=slot):
                self._touch(job_id, slot)
            case Node(id=node_id):
                self._touch_node(node_id, state)
            case _:
                pass
        return True

    def _follow_task(self, task: Task, state: State, conditions: Conditions) -> None:
        """A slot that is quiet with what became of its task needs no look: most come from a task that was just made, or
        that runs now. The job does: its rollout may go on."""
        memory = self._jobs.get(task.job_id)
        if memory is None:
            return
        memory.touch(task.slot)
        job = state.jobs.get(task.job_id)
        since = None if job is None else quiet_with_s(state, job, task, conditions)
        if since is not None:
            memory.loud.pop(task.slot)
            memory.quiet[task.slot] = since[0]

    def condition_changed(self, before: NodeCondition | None, after: NodeCondition, state: State) -> None:
        """A node is judged anew. Most often only its usage is: that asks for no decision."""
        if before is None or (before.status, before.silent_s) != (after.status, after.silent_s):
            self._touch_node(after.node_id, state)

    def _touch_node(self, node_id: str, state: State) -> None:
        for task in state.tasks_of_node(node_id).values():
            self._touch(task.job_id, task.slot)

    def _placed_as_hoped(self, applied: Applied, state: State, conditions: Conditions) -> bool:
        """Whether all that happened is that a quiet slot's task got a node that is well: no decision asks for that."""
        before, after = applied.before, applied.after
        if not isinstance(before, Task) or not isinstance(after, Task) or before.node_id or not after.node_id:
            return False
        memory = self._jobs.get(after.job_id)
        if memory is None or after.slot not in memory.quiet:
            return False
        node, condition = state.nodes.get(after.node_id), conditions.get(after.node_id)
        well = node is not None and node.availability is Availability.ACTIVE
        ready = condition is not None and condition.status is NodeStatus.READY
        return well and ready and msgspec.structs.replace(before, node_id=after.node_id, devices=after.devices) == after

    def _touch(self, job_id: str, slot: int) -> None:
        memory = self._jobs.get(job_id)
        if memory is not None:
            memory.touch(slot)


def _merely_nearer(applied: Applied) -> bool:
    before, after = applied.before, applied.after
    return isinstance(before, Task) and isinstance(after, Task) and merely_nearer(before, after)


def _merely_settled(applied: Applied) -> bool:
    """Whether all that happened to a job is that its version came further or proved good: its slots are as before."""
    before, after = applied.before, applied.after
    if not isinstance(before, Job) or not isinstance(after, Job):
        return False
    rollout = before.rollout
    if rollout is not None and after.rollout is not None and _same_step(rollout, after.rollout):
        rollout = after.rollout
    return msgspec.structs.replace(before, good_version=after.good_version, rollout=rollout) == after


def _same_step(before: Rollout, after: Rollout) -> bool:
    """Whether it asks for the same of every slot."""
    through = after.phase is RolloutPhase.DONE and before.strategy is RolloutStrategy.ROLLING
    same = (before.version, before.step, before.back) == (after.version, after.step, after.back)
    return same and (before.phase is after.phase or through)
