"""Keeps every job converging: reconciles those that something happened to, and those whose time has come.

A thin shell around `controller.core.reconcile`, which decides. Work follows change: commits, conditions of nodes and
timers mark jobs, and only marked jobs are looked at. Decisions are taken inside the ledger's transaction, on the
committed state, so they are never based on anything older.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import islice

import msgspec

from common.model.ids import Rng
from common.model.node import NodeCondition
from controller.core.attention import Attention
from controller.core.concern import Concerns
from controller.core.decisions import Create, Decision
from controller.core.exclusive import ExclusiveTimers
from controller.core.reconcile import reconcile
from controller.ledger import Committed, Ledger
from controller.loops.alarms import Alarms
from controller.presence import Presence
from controller.state import Group, State


class ConvergenceLimits(msgspec.Struct, frozen=True, kw_only=True):
    jobs: int = 64
    """Reconciled in one transaction: it is evaluated without a break, and 64 small jobs take a few milliseconds."""
    turn_s: float = 0.02
    """No further job of a transaction is looked at after this long: heartbeats must not wait for many large ones."""
    groups: int = 480
    """Changes taken from one transaction, 4 commits and 40 ms: others must get their turn beside a huge job."""
    rest_factor: float = 3.0
    """A job whose reconciliation took t seconds rests for this many t: one huge job gets a quarter of the loop."""
    rest_from_s: float = 0.005
    """Shorter reconciliations need no rest."""
    give_way_s: float = 1.0
    """A transaction waits so long at most while nodes are heard late: its few hundred tasks would make it worse."""
    look_s: float = 0.05
    """Between two looks at how late they are."""


CONVERGENCE_LIMITS = ConvergenceLimits()


Place = Callable[[State, list[Group]], list[Group]]
"""Called inside the ledger's transaction with the changes it is to make; what it answers is committed."""

DecisionObserver = Callable[[Decision], None]
"""Told of each decision that was committed."""


class ConvergenceLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time."""

    def __init__(
        self,
        ledger: Ledger,
        presence: Presence,
        *,
        clock: Callable[[], float],
        rng: Rng,
        limits: ConvergenceLimits = CONVERGENCE_LIMITS,
        observe: DecisionObserver = lambda _decision: None,
        exclusive: Callable[[], ExclusiveTimers] = ExclusiveTimers,
        place: Place = lambda _state, groups: groups,
        behind: Callable[[], bool] = lambda: False,
    ) -> None:
        """`place` gives new tasks their nodes, as far as that can be done at once. `behind`: whether this leader does
        not come to hear its nodes in time."""
        self._ledger = ledger
        self._state = ledger.state
        self._presence = presence
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._observe = observe
        self._exclusive = exclusive
        self._place = place
        self._behind = behind
        self._marked: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._alarms = Alarms(self._mark)
        self._rests_until_s: dict[str, float] = {}
        self._concerns = Concerns(self._state)
        self._attention = Attention()
        self._leads_since_s = clock()

    @property
    def attention(self) -> Attention:
        """What the next passes have to look at; only to be read."""
        return self._attention

    async def run(self) -> None:
        self._concerns = Concerns(self._state)
        unsubscribe = self._ledger.subscribe(self._committed), self._presence.subscribe(self._condition_changed)
        try:
            for job_id in self._state.jobs:
                self._mark(job_id)
            while True:
                await self._wake.wait()
                await self._give_way()
                await self._converge(tuple(islice(self._marked, self._limits.jobs)))
        finally:
            for stop in unsubscribe:
                stop()
            self._alarms.close()

    async def _give_way(self) -> None:
        """To heartbeats: whoever submits a hundred thousand tasks must not make the leader deaf to its nodes."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._limits.give_way_s
        while self._behind() and loop.time() < until_s:  # noqa: ASYNC110 - it is about time that passes
            await asyncio.sleep(self._limits.look_s)

    async def _converge(self, job_ids: tuple[str, ...]) -> None:
        """Reconcile these jobs as one transaction. Each is committed only whole or not at all."""
        for job_id in job_ids:
            del self._marked[job_id]
        if not self._marked:
            self._wake.clear()
        decided: list[Decision] = []

        def transaction(state: State) -> list[Group]:
            decided.clear()
            groups: list[Group] = []
            loop = asyncio.get_running_loop()
            until_s = loop.time() + self._limits.turn_s
            for number, job_id in enumerate(job_ids):
                room = self._limits.groups - len(groups)
                if not room or (number and loop.time() > until_s):
                    self._mark(job_id)
                else:
                    groups += self._reconcile(state, job_id, room, decided)
            return self._place(state, groups)

        await self._ledger.submit(transaction)
        for decision in decided:
            self._observe(decision)

    def _reconcile(self, state: State, job_id: str, room: int, decided: list[Decision]) -> tuple[Group, ...]:
        """The next changes of one job, at most `room`: their commit marks the job again for what did not fit."""
        self._alarms.cancel(job_id)
        job = state.jobs.get(job_id)
        if job is None:
            self._rests_until_s.pop(job_id, None)
            self._attention.forget(job_id)
            return ()
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        setting_out = sum(isinstance(decision, Create) and bool(decision.moves) for decision in decided)
        found = reconcile(
            state,
            job,
            self._presence.conditions,
            self._clock(),
            self._rng,
            setting_out=setting_out,
            timers=self._exclusive(),
            scope=self._attention.scope(job_id),
            room=room,
            leads_since_s=self._leads_since_s,
        )
        self._attention.saw(job_id, found.seen)
        took_s = loop.time() - begun_s
        if took_s >= self._limits.rest_from_s:
            self._rests_until_s[job_id] = loop.time() + took_s * self._limits.rest_factor
        if math.isfinite(found.wake_at_s):
            self._alarms.set(job_id, found.wake_at_s - self._clock())
        decided += found.decisions
        return found.groups

    # --- which jobs

    def _mark(self, job_id: str) -> None:
        rest_s = self._rests_until_s.get(job_id, 0.0) - asyncio.get_running_loop().time()
        if rest_s > 0:
            self._alarms.set(job_id, rest_s)
            return
        self._rests_until_s.pop(job_id, None)
        self._marked[job_id] = None
        self._wake.set()

    def _committed(self, committed: Committed) -> None:
        concerned: dict[str, None] = {}
        for applied in committed.applied:
            if self._attention.follow(applied, self._state, self._presence.conditions):
                concerned.update(dict.fromkeys(self._concerns.of_change(applied)))
        for job_id in concerned:
            self._mark(job_id)

    def _condition_changed(self, before: NodeCondition | None, after: NodeCondition) -> None:
        self._attention.condition_changed(before, after, self._state)
        for job_id in dict.fromkeys(self._concerns.of_condition(before, after)):
            self._mark(job_id)
