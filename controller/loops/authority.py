"""Sees to it that the cluster has an authority, sealed under the current cluster key, and a first user; and takes a
replaced authority or cluster key through its steps until everybody has the new one.

Both are made in the first term of all. A thin shell around `controller.security`, `controller.core.joining` and
`controller.core.turnover`: writes once in a cluster's life, at the steps, and when something is to be forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterator
from contextlib import suppress

from common.certificates import fingerprint
from common.model.ids import Rng
from common.model.trust import Authority, Denied, JoinToken, NextKey, Role, User
from controller.core.joining import forget_at_s, forgettable
from controller.core.secrets import digest_of
from controller.core.turnover import asked_now, turnover
from controller.ledger import Committed, Ledger
from controller.security.authority import new_authority, rewrapped, settled
from controller.security.sealing import KeyRing
from controller.security.tokens import FIRST_USER, first_secret
from controller.settings import Timers
from controller.state import Erase, Group, State, Write

_LOOK_S = 3_600.0
"""The wall clock may be set meanwhile."""
_UNDER_WAY_LOOK_S = 1.0
"""A batch of nodes has renewed by then."""


class AuthorityLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time.

    `connected` tells which nodes hear us; `use_key` has this controller seal under one of its keys from now on;
    `changed` is called when the authority or the next cluster key changed.
    """

    def __init__(
        self,
        ledger: Ledger,
        ring: KeyRing,
        *,
        clock: Callable[[], float],
        rng: Rng,
        timers: Timers,
        connected: Callable[[], Container[str]],
        use_key: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._ring = ring
        self._clock = clock
        self._rng = rng
        self._timers = timers
        self._connected = connected
        self._use_key = use_key
        self._told = changed
        self._changed = asyncio.Event()
        self._asked: frozenset[str] = frozenset()
        self._current = ""

    def wanted_of(self, node_id: str) -> str:
        """Fingerprint of the authority that the node's certificate has to be of by now; empty: any that is believed."""
        return self._current if node_id in self._asked else ""

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed)
        try:
            await self._ledger.submit(self._established)
            while True:
                self._changed.clear()
                await self._turn()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._wait_s()):
                        await self._changed.wait()
        finally:
            unsubscribe()

    async def _turn(self) -> None:
        state, now_s = self._ledger.state, self._clock()
        for key in state.next_keys.values():
            if self._spread(key.created_at_s) and self._ring.knows(key.id) and self._ring.current.id != key.id:
                self._use_key(key.id)
        await self._ledger.submit(lambda state: [*forgettable(state, now_s), *self._next(state, now_s)])

    def _next(self, state: State, now_s: float) -> Iterator[Group]:
        """The next step of a replaced cluster key or authority."""
        for authority in state.authorities.values():
            moved = rewrapped(self._ring, authority)
            if moved is not None:
                yield (Write(moved),)
                return
            self._current = fingerprint(authority.certificates[0])
            if len(authority.certificates) > 1 and self._spread(authority.created_at_s):
                waiting = turnover(state, self._current, now_s).waiting
                self._asked = asked_now(waiting, self._connected())
                if not waiting:
                    yield (Write(settled(authority)),)
        for key in state.next_keys.values():
            if self._ring.current.id == key.id and now_s >= key.created_at_s + self._timers.key_kept_s:
                yield (Erase(key),)

    def _spread(self, since_s: float) -> bool:
        return self._clock() >= since_s + self._timers.spread_s

    def _wait_s(self) -> float:
        state = self._ledger.state
        under_way = any(len(authority.certificates) > 1 for authority in state.authorities.values())
        if under_way or state.next_keys:
            return _UNDER_WAY_LOOK_S
        return min(max(forget_at_s(state) - self._clock(), 1.0), _LOOK_S)

    def _established(self, state: State) -> list[Group]:
        """Raises `Invalid` when the authority cannot be opened with our keys: such a controller must not lead."""
        for authority in state.authorities.values():
            moved = rewrapped(self._ring, authority)
            return [] if moved is None else [(Write(moved),)]
        now_s = self._clock()
        first = User(
            name=FIRST_USER, role=Role.ADMIN, digest=digest_of(first_secret(self._ring.current)), created_at_s=now_s
        )
        return [(Write(new_authority(self._ring, now_s, self._rng)), Write(first))]

    def _committed(self, committed: Committed) -> None:
        changed = [applied.after or applied.before for applied in committed.applied]
        if any(isinstance(record, (JoinToken, Denied, Authority, NextKey)) for record in changed):
            self._changed.set()
        if any(isinstance(record, (Authority, NextKey)) for record in changed):
            self._told()
