"""Finds nodes for pending tasks, and remembers why the others have none.

A thin shell around `controller.scheduler`, which chooses. Follows commits and conditions of nodes with one node table,
so the table always says what the ledger's state says; the choice is made inside the ledger's transaction, on both. What
fits nowhere is tried again when something changed that could make it fit, or when room was kept for it in vain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice
from types import MappingProxyType

import msgspec

from common.model.job import Job, JobSpec, JobVersion, Strategy
from common.model.node import Node, NodeCondition
from common.model.task import Task
from common.model.verdict import Verdict
from controller.core.gang import groups_of
from controller.core.pending import pending, placed_at
from controller.core.placing import Placing, place_newborn, place_pending, ranked
from controller.core.preemption import told
from controller.core.settings import NOMINATION_S
from controller.ledger import Committed, Ledger
from controller.presence import Presence
from controller.scheduler.node_table import NodeTable, counts_as_demand, holds_reservation
from controller.state import Applied, Group, State, Write


class PlacementLimits(msgspec.Struct, frozen=True, kw_only=True):
    tasks: int = 2_000
    """Scheduled in one transaction, 16 commits: others must get their turn while a huge job is placed."""
    rest_factor: float = 3.0
    """After a pass of t seconds that left something unplaced the next one waits this many t: it may fare no better."""


PLACEMENT_LIMITS = PlacementLimits()

_AFTER_S = 0.01
"""Later than the moment itself: both clocks are read once more before it is decided."""

PlacementObserver = Callable[[int, float], None]
"""Told the tasks placed and the seconds the choice took, after the commit."""


class PlacementLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time."""

    def __init__(
        self,
        ledger: Ledger,
        presence: Presence,
        *,
        clock: Callable[[], float],
        limits: PlacementLimits = PLACEMENT_LIMITS,
        observe: PlacementObserver = lambda _placed, _seconds: None,
        strategy: Strategy = Strategy.SPREAD,
    ) -> None:
        self._ledger = ledger
        self._state = ledger.state
        self._presence = presence
        self._clock = clock
        self._limits = limits
        self._observe = observe
        self._waiting: dict[str, None] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._all_again = False
        self._sought: set[str] = set()
        """Names of jobs beside which tasks that have no node must be."""
        self._wake = asyncio.Event()
        self._kept_in_vain: asyncio.TimerHandle | None = None
        self._took_s = 0.0
        """To choose nodes for the last newborn tasks."""
        self.table = NodeTable(strategy=strategy)
        """Every node with what is set aside on it; to be read, or copied, by whoever explains or imagines."""
        self.verdicts: Mapping[str, Verdict] = MappingProxyType(self._verdicts)
        """Why tasks have no node, by task id, as of their last try."""

    @property
    def pending(self) -> int:
        """Tasks that should run and have no node."""
        return len(self._waiting.keys() | self._verdicts.keys())

    def newborn(self, state: State, groups: list[Group]) -> list[Group]:
        """Changes that are about to be committed, with nodes for the tasks they make: see `place_newborn`.

        To be called inside the ledger's transaction, so that the table says what `state` says.
        """
        if self._waiting or self._verdicts or state.nominated or not groups:
            return groups
        begun_s = asyncio.get_running_loop().time()
        placed = place_newborn(state, self.table.copy(), groups)
        self._took_s = asyncio.get_running_loop().time() - begun_s
        return placed

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed), self._presence.subscribe(self._condition_changed)
        try:
            self._take_over()
            while True:
                await self._wake.wait()
                await self._place(self._next())
        finally:
            if self._kept_in_vain is not None:
                self._kept_in_vain.cancel()
            for stop in unsubscribe:
                stop()

    def _next(self) -> tuple[str, ...]:
        """What is tried next: when it is too much for one pass, the most important, then the oldest."""
        if self._all_again:
            self._waiting.update(dict.fromkeys(self._verdicts))
            self._all_again = False
        if len(self._waiting) <= self._limits.tasks or not ranked(self._state):
            return tuple(islice(self._waiting, self._limits.tasks))
        state = self._state
        return tuple(sorted(self._waiting, key=lambda id_: -state.priority_of(state.tasks[id_]))[: self._limits.tasks])

    async def _place(self, task_ids: tuple[str, ...]) -> None:
        """One pass over these tasks: those that get a node are committed, with whoever makes room for the others; these
        get their verdicts."""
        for task_id in task_ids:
            del self._waiting[task_id]
        if not self._waiting:
            self._wake.clear()
        if not task_ids:
            return
        placing, took_s = Placing(), 0.0
        loop = asyncio.get_running_loop()

        def transaction(state: State) -> list[Group]:
            nonlocal placing, took_s
            begun_s = loop.time()
            placing = place_pending(state, self.table.copy(), task_ids, self._presence.conditions, self._clock())
            took_s = loop.time() - begun_s
            self._remember(state, placing)
            placed = groups_of(state, (placed_at(state.tasks[one.task_id], one) for one in placing.plan.placements))
            writes = (tuple(map(Write, tasks)) for tasks in placed)
            return [*writes, *(entry.group for entry in placing.displacing), *placing.withdrawn, *placing.keeping]

        await self._ledger.submit(transaction)
        self._observe(len(placing.plan.placements), took_s)
        self._look_again()
        if placing.plan.unplaced:
            await asyncio.sleep(took_s * self._limits.rest_factor)

    def _remember(self, state: State, placing: Placing) -> None:
        """Keep the verdicts from the moment they are found: what changes from now on asks for another try."""
        self._sought = {
            affinity.job
            for unplaced in placing.plan.unplaced
            for affinity in unplaced.request.spec.task.placement.affinities
            if affinity.required
        } | (self._sought if self._verdicts else set())
        making = {entry.task.id: entry for entry in placing.displacing}
        for unplaced in placing.plan.unplaced:
            for task_id in unplaced.task_ids:
                self._verdicts[task_id] = told(state, state.tasks[task_id], making.get(task_id), unplaced.verdict)

    def _look_again(self) -> None:
        """While room is kept for tasks: when the first of them has waited for too long."""
        if self._kept_in_vain is not None:
            self._kept_in_vain.cancel()
            self._kept_in_vain = None
        kept = (task.nomination for task in self._state.nominated.values())
        since_s = min((nomination.at_s for nomination in kept if nomination is not None), default=None)
        if since_s is not None:
            wait_s = min(max(since_s + NOMINATION_S - self._clock(), 0.0), NOMINATION_S) + _AFTER_S
            self._kept_in_vain = asyncio.get_running_loop().call_later(wait_s, self._try_again)

    # --- what changed

    def _take_over(self) -> None:
        for node in self._state.nodes.values():
            self._set_node(node)
        for task in self._state.tasks.values():
            self.table.follow_task(None, task, self._state.spec_of_task(task).task)
            self._follow_pending(task)

    def _committed(self, committed: Committed) -> None:
        erased = _erased_specs(committed)
        freed = False
        born = sum(_born_with_a_node(applied) for applied in committed.applied)
        if born:
            self._observe(born, self._took_s)
        for applied in committed.applied:
            match applied.after or applied.before:
                case Task() as task:
                    freed |= self._task_changed(task, applied, erased)
                case Node() as node:
                    self._node_changed(node, applied)
                case Job() as job:
                    freed |= isinstance(applied.before, Job) and applied.before.priority != job.priority
                case _:
                    pass
        if freed:
            self._try_again()

    def _task_changed(self, task: Task, applied: Applied, erased: Mapping[tuple[str, int], JobSpec]) -> bool:
        """Follow one task; whether that gave something back, or room that was kept for it is not kept any more."""
        before = applied.before if isinstance(applied.before, Task) else None
        after = applied.after if isinstance(applied.after, Task) else None
        held, holds = holds_reservation(before), holds_reservation(after)
        if held is not holds or counts_as_demand(before) is not counts_as_demand(after):
            version = self._state.versions_of(task.job_id).get(task.version)
            spec = version.spec if version else erased[task.job_id, task.version]
            self.table.follow_task(before, after, spec.task)
        if after is None:
            self._forget(task.id)
        else:
            self._follow_pending(after)
        kept = before is not None and before.nomination is not None
        beside = holds and not held and task.job_name in self._sought
        return beside or (held and not holds) or (kept and (after is None or after.nomination is None))

    def _follow_pending(self, task: Task) -> None:
        if not pending(task):
            self._forget(task.id)
        elif task.id not in self._verdicts:
            self._waiting[task.id] = None
            self._wake.set()

    def _forget(self, task_id: str) -> None:
        self._waiting.pop(task_id, None)
        self._verdicts.pop(task_id, None)

    def _node_changed(self, node: Node, applied: Applied) -> None:
        if applied.after is None:
            self.table.remove_node(node.id)
        else:
            self._set_node(node)
        self._try_again()  # also when it is gone: the verdicts speak of it

    def _condition_changed(self, _before: NodeCondition | None, after: NodeCondition) -> None:
        node = self._state.nodes.get(after.node_id)
        if node is not None:
            self._set_node(node)
            self._try_again()

    def _set_node(self, node: Node) -> None:
        self.table.set_node(node, self._presence.conditions.get(node.id) or NodeCondition(node_id=node.id))

    def _try_again(self) -> None:
        """Everything unplaced once more, oldest first; their old verdicts stand until the new ones.

        Only noted here: while a crowd of nodes joins this is asked for with each of them.
        """
        if self._verdicts:
            self._all_again = True
            self._wake.set()


def _born_with_a_node(applied: Applied) -> bool:
    return applied.before is None and isinstance(applied.after, Task) and bool(applied.after.node_id)


def _erased_specs(committed: Committed) -> dict[tuple[str, int], JobSpec]:
    """Specs that left with this commit: tasks that left with them still have to be taken off the books."""
    return {
        (applied.before.job_id, applied.before.version): applied.before.spec
        for applied in committed.applied
        if isinstance(applied.before, JobVersion) and applied.after is None
    }
