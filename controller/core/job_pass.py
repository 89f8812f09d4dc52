"""One reconciliation of one job: its inputs, and what was decided so far. Decides nothing itself, but sees to it that
of two decisions about one record the second waits, and that no slot gets a task that may not be.
"""

from __future__ import annotations

import math

import msgspec

from common.model.ids import Rng
from common.model.job import DesiredState, Job, JobSpec
from common.model.rollout import RolloutPhase
from common.model.task import Slot, Task
from controller.core import batch, exclusive, rollout_verdict
from controller.core import rollout_machine as machine
from controller.core.clocks import since_s
from controller.core.decisions import (
    Create,
    Decision,
    Forgive,
    changes,
)
from controller.core.dependencies import waits_for
from controller.core.exclusive import ExclusiveTimers
from controller.core.quiet import QuietSlots, Scope
from controller.core.quota import may_grow
from controller.core.settings import (
    QUOTA_LOOK_S,
    REPLACEMENT_BACKOFF,
)
from controller.core.slots import (
    Conditions,
    SlotView,
    good,
    node_down,
    passed,
    sick,
    slot_view,
    slots_of,
)
from controller.core.targets import targets_of
from controller.state import Group, State
from controller.store.keys import key_of
from controller.usage import holds_slot


class Pass:
    """One reconciliation of one job: its inputs, and what it has decided so far."""

    def __init__(
        self,
        state: State,
        job: Job,
        conditions: Conditions,
        now_s: float,
        rng: Rng,
        *,
        setting_out: int,
        timers: ExclusiveTimers,
        scope: Scope | None,
        room: int,
        leads_since_s: float,
    ) -> None:
        self.state, self.job, self.conditions, self.now_s = state, job, conditions, now_s
        self.setting_out = setting_out
        self.specs = {number: version.spec for number, version in state.versions_of(job.id).items()}
        self.rollout = machine.current(job, self.specs[job.version])
        self.spec = self._wanted_spec()
        self.targets = targets_of(state, job, self.spec, conditions)
        all_slots = {*self.targets.numbers, *state.slots_with_tasks(job.id)} if scope is None else scope.slots
        self.numbers = sorted(all_slots)
        self.quiet: QuietSlots = {} if scope is None else scope.quiet
        self.tasks = tuple(task for number in self.numbers for task in state.tasks_in_slot(job.id, number))
        self.slots = slots_of(self.tasks, self.specs)
        self.sized = msgspec.structs.replace(job, replicas=len(self.targets.numbers))
        """The job with as many replicas as slots of it should have a task, whatever its kind."""
        self.stage = self._stage()
        self.base = job.good_version if self.stage.beside and job.good_version in self.specs else 0
        """The version that all slots keep while another one is watched beside it; 0 when there is none."""
        self.leads_since_s = leads_since_s
        self.decisions: list[Decision] = []
        self.groups: list[Group] = []
        self.wake_at_s = math.inf
        self._rng = rng
        self._exclusive = timers
        self._touched: set[str] = set()
        self._room = room
        self._created = 0
        self.changing = False
        """Whether some slot has a task that is to be followed by another one."""

    def _wanted_spec(self) -> JobSpec:
        """That of the wanted version, with the policy of the way there: a rollback has its own."""
        spec = self.specs[self.job.version]
        left = self.specs.get(self.rollout.from_version) if self.rollout is not None else None
        policy = machine.policy_of(self.rollout, spec, left)
        return spec if policy is spec.update else msgspec.structs.replace(spec, update=policy)

    def _stage(self) -> machine.Stage:
        """The step of the rollout; what is none has one step, which asks for every slot."""
        if self.rollout is None or machine.over(self.rollout):
            return machine.Stage(replicas=self.sized.replicas)
        return machine.stage_of(self.rollout, self.spec, self.sized.replicas)

    @property
    def full(self) -> bool:
        """Whether so much was decided that the rest has to wait for the next pass."""
        return len(self.groups) >= self._room

    def touched(self, slot: SlotView) -> bool:
        """Whether something was decided about one of its tasks."""
        return any(key_of(task) in self._touched for task in (*slot.wanted, *slot.satisfied, *slot.ended))

    def decide(self, *decisions: Decision) -> None:
        """Take decisions in order. One about a record that was already decided on waits for the next pass."""
        for decision in map(self._armed, decisions):
            if isinstance(decision, Create) and (self._occupied(decision) or self._over_quota(decision)):
                continue
            if self.full:
                return
            group = changes(self.job, self.specs[self.job.version], decision, self.now_s, self._rng)
            keys = {key_of(change.record) for change in group}
            if keys.isdisjoint(self._touched):
                self._touched |= keys
                self.decisions.append(decision)
                self.groups.append(group)
                self._created += isinstance(decision, Create)

    def _armed(self, decision: Decision) -> Decision:
        if not isinstance(decision, Create):
            return decision
        armed = exclusive.armed(decision, self.specs[decision.version], self.state, self._exclusive)
        node_id = self.targets.nodes.get(decision.slot, "")
        memory = self.state.slot_of(self.job.id, decision.slot)
        return msgspec.structs.replace(armed, only_node=node_id, marks=memory if memory.only_node != node_id else None)

    def _occupied(self, create: Create) -> bool:
        """Whether the slot's next task has to wait for the end of another: that, when it comes, marks the job."""
        tasks = self.state.tasks_in_slot(self.job.id, create.slot)
        return bool(exclusive.in_the_way(tasks, create, self.specs[create.version], self.state, self.conditions))

    def _over_quota(self, create: Create) -> bool:
        """Whether the job, which grows by itself, would have a slot more than its namespace may have."""
        if any(map(holds_slot, self.state.tasks_in_slot(self.job.id, create.slot))):
            return False
        if not may_grow(self.state, self.job, self.specs[create.version], self._created):
            return False
        self.wake(self.now_s + QUOTA_LOOK_S)
        return True

    def good(self, task: Task) -> bool:
        return good(task, self.spec_of(task), self.conditions, self.now_s)

    def passed(self, task: Task) -> bool:
        return passed(task, self.spec_of(task), self.conditions, self.now_s)

    def sick(self, task: Task) -> bool:
        return sick(task, self.spec_of(task), self.conditions)

    def wake(self, at_s: float) -> None:
        if at_s > self.now_s:
            self.wake_at_s = min(self.wake_at_s, at_s)

    def replace(self, slot: SlotView, task: Task, after: Task) -> None:
        """Take a wanted task for another one from here on."""
        wanted = tuple(after if other is task else other for other in self.slots[slot.number].wanted)
        self.slots[slot.number] = msgspec.structs.replace(self.slots[slot.number], wanted=wanted)

    def slot(self, number: int) -> SlotView:
        return self.slots.get(number) or slot_view(number, {})

    def memory_of(self, number: int) -> Slot:
        """The slot's memory. What failed under another version than the wanted one says nothing about that.

        Told by the version and not by the time: two leaders' clocks may be hours apart.
        """
        memory = self.state.slot_of(self.job.id, number)
        if memory.failures and memory.failed_version != self.job.version:
            self.decide(Forgive(slot=memory))
            return msgspec.structs.replace(memory, failures=0, failed_nodes=())
        return memory

    def spec_of(self, task: Task) -> JobSpec:
        return self.spec if task.version == self.job.version else self.specs[task.version]

    def wants_tasks(self) -> bool:
        wanted = self.job.desired is DesiredState.RUN and not self.job.removed and self.spec.schedule is None
        return wanted and not (self.spec.mode.ends and batch.expired(self.job))

    def still_there(self, task: Task) -> bool:
        return not node_down(task, self.state, self.conditions)

    def filled_version(self) -> int:
        """Of tasks for empty slots; 0 while there is none to be had."""
        if self.spec.mode.ends:  # what ran once is not run again because the next version waits
            return 0 if self.held() else self.job.version
        version = self.job.good_version if self.held() else self.job.version
        return self.job.good_version or version if self.job.paused else version

    def held(self) -> bool:
        """Whether the rollout waits for jobs that this one depends on."""
        return bool(waits_for(self.state, self.spec)) and not self.begun()

    def begun(self) -> bool:
        """Whether the wanted version was ever started: dependencies order starts, they hold no running job back."""
        if self.quiet or (self.spec.mode.ends and self.job.progress.version == self.job.version):
            return True
        return any(task.version == self.job.version for task in self.tasks)

    def waited_enough(self, failures: int, failed_at_s: float) -> bool:
        """Whether the slot may have its next task; otherwise the pass wakes when it may."""
        if failures <= 1:
            return True
        wait_s = REPLACEMENT_BACKOFF.ceiling_s(failures - 1)
        self.wake(failed_at_s + wait_s)
        return since_s(failed_at_s, self.now_s) >= wait_s

    def kept_versions(self) -> tuple[int, ...]:
        """What is worth keeping of a node that comes back."""
        return (self.base, self.job.version) if self.base else (self.job.version,)

    def stands(self) -> bool:
        """Whether the rollout is not to go on: paused, or failed although something else works, or did."""
        if self.job.paused:
            return True
        failed = self.rollout is not None and self.rollout.phase is RolloutPhase.FAILED
        return failed and self.rollout is not None and rollout_verdict.has_another(self.job, self.rollout)

    def unsettled(self) -> bool:
        """Whether it has to be seen yet that every slot runs the wanted version well."""
        return self.job.good_version != self.job.version or not machine.over(self.rollout)
