"""Looks ahead on the leader: whether any node could be lost, and what would be more even; by setting orders the moves.

A thin shell around `controller.core.survival` and `controller.core.balance`, which find out and decide. Looks only
after something changed, at most every `LOOK_EVERY_S`, and never for more than a twentieth of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.model.api import Loss
from common.model.event import Event
from common.model.node import NodeCondition
from controller.core.balance import Look, Patience, held_because, held_until_s, looking, under_way, wish, worth_ordering
from controller.core.events import balance_event, balance_ordered, survival_event
from controller.core.survival import losing
from controller.ledger import Committed, Ledger
from controller.presence import Presence
from controller.scheduler.node_table import NodeTable
from controller.turns import Disturbed, in_turns

LOOK_EVERY_S = 30.0
REST_FACTOR = 19.0
"""A look that took t seconds is followed by so many t of rest: a twentieth of the time at most."""


class ForesightLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time; `auto`: it may order moves."""

    def __init__(
        self,
        ledger: Ledger,
        presence: Presence,
        table: NodeTable,
        *,
        clock: Callable[[], float],
        record: Callable[[Event], None],
        auto: bool = False,
    ) -> None:
        self._ledger, self._presence, self._table = ledger, presence, table
        self._clock, self._record, self._auto = clock, record, auto
        self._changed = asyncio.Event()
        self._changes = 0
        self._patience = Patience()
        self._suggested = 0
        self._told: bool | None = None
        self.survives: bool | None = None
        """Whether the loss of any one node could be absorbed, as of the last look; None before the first."""

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed), self._presence.subscribe(self._condition_changed)
        loop = asyncio.get_running_loop()
        try:
            self._changed.set()
            while True:
                await self._until_due()
                self._changed.clear()
                begun_s = loop.time()
                if not await self._look():
                    self._changed.set()
                await asyncio.sleep(max(LOOK_EVERY_S, REST_FACTOR * (loop.time() - begun_s)))
        finally:
            for stop in unsubscribe:
                stop()

    async def _until_due(self) -> None:
        """Until something changed, or what was worth moving has been so for long enough."""
        wait_s = self._patience.due_at_s() - self._clock() if self._auto else None
        try:
            async with asyncio.timeout(wait_s if wait_s is None or wait_s < 1e9 else None):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _look(self) -> bool:
        """Whether it came to an end before something changed under it."""
        state, conditions, begun = self._ledger.state, self._presence.conditions, self._changes
        try:
            losses = await in_turns(losing(state, conditions, self._table), lambda: self._changes != begun)
            self._survived(losses)
            now_s = self._clock()
            found = await in_turns(looking(state, conditions, self._table, now_s), lambda: self._changes != begun)
        except Disturbed:
            return False
        await self._balanced(found, now_s)
        return True

    def _survived(self, losses: tuple[Loss, ...] | None) -> None:
        self.survives = losses == ()
        if losses is None:  # of one node nothing is said that everybody knows
            return
        if self._told is not None and self._told is not self.survives:
            self._record(survival_event(losses[0].text if losses else ""))
        self._told = self.survives

    async def _balanced(self, found: Look, now_s: float) -> None:
        if found.moves and not self._suggested:
            self._record(balance_event(len(found.moves)))
        self._suggested = len(found.moves)
        if not self._auto:
            return
        state = self._ledger.state
        held = held_because(state, self._presence.conditions, self._presence.brake, now_s)
        held = held or ("moves are under way" if under_way(state) else "")
        self._patience = self._patience.after(found.gain, held, now_s, held_until_s(state, now_s))
        if now_s >= self._patience.due_at_s():
            moves = worth_ordering(found.moves)
            await self._ledger.submit(lambda state: list(wish(state, moves)))
            self._record(balance_ordered(len(moves)))
            self._patience = self._patience.ordered(now_s)

    def _committed(self, _committed: Committed) -> None:
        self._changes += 1
        self._changed.set()

    def _condition_changed(self, before: NodeCondition | None, after: NodeCondition) -> None:
        if before is None or before.status is not after.status:
            self._changes += 1
            self._changed.set()
