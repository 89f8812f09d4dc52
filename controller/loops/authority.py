"""Sees to it that the cluster has an authority, sealed under the current cluster key, and a first user.

Both are made in the first term of all. A thin shell around `controller.security` and `controller.core.joining`: writes
once in a cluster's life, once more after the cluster key was replaced, and when something is to be forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from common.model.ids import Rng
from common.model.trust import Denied, JoinToken, Role, User
from controller.core.joining import forget_at_s, forgettable
from controller.core.secrets import digest_of
from controller.ledger import Committed, Ledger
from controller.security.authority import new_authority, rewrapped
from controller.security.sealing import KeyRing
from controller.security.tokens import FIRST_USER, first_secret
from controller.state import Group, State, Write

_LOOK_S = 3_600.0
"""The wall clock may be set meanwhile."""


class AuthorityLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time."""

    def __init__(self, ledger: Ledger, ring: KeyRing, *, clock: Callable[[], float], rng: Rng) -> None:
        self._ledger = ledger
        self._ring = ring
        self._clock = clock
        self._rng = rng
        self._changed = asyncio.Event()

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed)
        try:
            await self._ledger.submit(self._established)
            while True:
                await self._ledger.submit(lambda state: list(forgettable(state, self._clock())))
                self._changed.clear()
                wait_s = min(max(forget_at_s(self._ledger.state) - self._clock(), 1.0), _LOOK_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
        finally:
            unsubscribe()

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
        if any(isinstance(applied.after, (JoinToken, Denied)) for applied in committed.applied):
            self._changed.set()
