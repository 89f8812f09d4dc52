"""Looks ahead on the leader: whether any node could be lost, and what would be more even; by setting orders the moves.

A thin shell around `controller.core.survival` and `controller.core.balance`, which find out and decide. Looks only
after something changed, at most every `LOOK_EVERY_S`, and never for more than a twentieth of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TypeVar

from common.model.api import Loss
from common.model.event import Event
from common.model.node import NodeCondition
from controller.core.balance import Look, Patience, held_because, looking, under_way, wish, worth_ordering
from controller.core.events import balance_event, balance_ordered, survival_event
from controller.core.survival import LOSSES_AT_MOST, losing
from controller.ledger import Committed, Ledger
from controller.presence import Presence
from controller.scheduler.node_table import NodeTable

LOOK_EVERY_S = 30.0
REST_FACTOR = 19.0
"""A look that took t seconds is followed by so many t of rest: a twentieth of the time at most."""
TURN_S = 0.02
"""How long others wait for their turn: half of what a heartbeat may be late before it is noticed."""

_T = TypeVar("_T")


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
        losses = await self._pieces(losing(self._ledger.state, self._presence.conditions, self._table))
        if losses is None:
            return False
        self._survived(bool(losses), [loss for loss in losses if loss is not None][:LOSSES_AT_MOST])
        now_s = self._clock()
        pieces = looking(self._ledger.state, self._presence.conditions, self._table, now_s)
        found = await self._pieces(pieces)
        if found is None:
            return False
        last = found[-1]
        assert last is not None, "a look ends with what it found"
        await self._balanced(last, now_s)
        return True

    async def _pieces(self, pieces: Iterator[_T]) -> list[_T] | None:
        """All of them, with turns for others in between; None when something changed meanwhile."""
        loop, begun = asyncio.get_running_loop(), self._changes
        found: list[_T] = []
        turn_s = loop.time()
        for piece in pieces:
            found.append(piece)
            if loop.time() - turn_s > TURN_S:
                await asyncio.sleep(0)
                turn_s = loop.time()
                if self._changes != begun:
                    return None
        return found

    def _survived(self, several: bool, losses: list[Loss]) -> None:
        self.survives = several and not losses
        if not several:  # of one node nothing is said that everybody knows
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
        held = held_because(state, self._presence.conditions, self._presence.brake)
        held = held or ("moves are under way" if under_way(state) else "")
        self._patience = self._patience.after(found.gain, held, now_s)
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
