"""The leader's memory of what happened: a bounded log of events that people and scripts read and follow.

It begins anew with every term; what must outlive the leader stands in the records themselves. Never decides anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from itertools import islice

import msgspec

from common.model.event import Event
from common.model.node import NodeCondition
from controller.core.events import condition_event, events_of
from controller.ledger import Committed
from controller.state import State

EVENTS_KEPT = 10_000
"""About 4 MB, and an hour of a cluster with three events a second."""


class EventLog:
    """See the module. `state` and `clock` (Unix seconds) are the leader's."""

    def __init__(self, state: State, clock: Callable[[], float], *, kept: int = EVENTS_KEPT) -> None:
        self._state = state
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=kept)
        self._sequence = 0
        self._followers: dict[int, asyncio.Event] = {}
        self._next_follower = 0

    def committed(self, committed: Committed) -> None:
        """Record what a commit changed; a subscriber of the ledger."""
        for applied in committed.applied:
            event = events_of(applied, self._state)
            if event is not None:
                self.record(event)

    def condition_changed(self, before: NodeCondition | None, after: NodeCondition) -> None:
        """Record a change of a node's condition; a subscriber of the presence."""
        event = condition_event(self._state.nodes.get(after.node_id), before, after)
        if event is not None:
            self.record(event)

    def record(self, event: Event) -> None:
        """Give `event` its time and place in the order, and wake whoever follows."""
        self._sequence += 1
        self._events.append(msgspec.structs.replace(event, time_s=self._clock(), sequence=self._sequence))
        for wake in self._followers.values():
            wake.set()

    def since(self, time_s: float) -> tuple[Event, ...]:
        """The events kept from `time_s` on, oldest first."""
        return tuple(event for event in self._events if event.time_s >= time_s)

    async def follow(self, time_s: float) -> AsyncGenerator[tuple[Event, ...]]:
        """The events kept from `time_s` on, then new ones in batches as they come.

        A reader slower than the log's whole length misses the oldest; the gap shows in their sequence.
        """
        seen, batch = self._sequence, self.since(time_s)
        key, wake = self._next_follower, asyncio.Event()
        self._next_follower += 1
        self._followers[key] = wake
        try:
            while True:
                yield batch
                await wake.wait()
                wake.clear()
                seen, batch = self._sequence, self._after(seen)
        finally:
            del self._followers[key]

    def _after(self, sequence: int) -> tuple[Event, ...]:
        fresh = min(self._sequence - sequence, len(self._events))
        return tuple(islice(self._events, len(self._events) - fresh, None))
