"""Sees to it that the cluster has an authority, sealed under the current cluster key, and a first user.

Both are made in the first term of all. A thin shell around `controller.security` and `controller.core.joining`: writes
once in a cluster's life, once more after the cluster key was replaced, and when something is to be forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from common.certificates import fingerprint
from common.model.ids import Rng
from common.model.trust import Denied, JoinToken, Role, User
from common.tokens import USER, Token
from controller.core.joining import forget_at_s, forgettable
from controller.core.secrets import digest_of
from controller.ledger import Committed, Ledger
from controller.security.authority import new_authority, rewrapped
from controller.security.sealing import KeyRing
from controller.security.tokens import derived_secret
from controller.state import Group, State, Write

FIRST_USER = "admin"
_LOOK_S = 3_600.0
"""The wall clock may be set meanwhile."""


class AuthorityLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time; `tell` is told the first user's token."""

    def __init__(
        self, ledger: Ledger, ring: KeyRing, *, clock: Callable[[], float], rng: Rng, tell: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._ring = ring
        self._clock = clock
        self._rng = rng
        self._tell = tell
        self._changed = asyncio.Event()

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed)
        try:
            await self._ledger.submit(self._established)
            self._tell_first_user()
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
        first = User(name=FIRST_USER, role=Role.ADMIN, digest=digest_of(self._first_secret()), created_at_s=now_s)
        return [(Write(new_authority(self._ring, now_s, self._rng)), Write(first))]

    def _first_secret(self) -> str:
        """Of the cluster key: whoever has that is master of the cluster anyway, and a lost token can be told again."""
        return derived_secret(self._ring.current, f"user {FIRST_USER}")

    def _tell_first_user(self) -> None:
        state, secret = self._ledger.state, self._first_secret()
        user = state.users.get(FIRST_USER)
        if user is not None and user.digest == digest_of(secret):
            (authority,) = state.authorities.values()
            pin = fingerprint(authority.certificates[0])
            self._tell(str(Token(purpose=USER, id=FIRST_USER, secret=secret, pin=pin)))

    def _committed(self, committed: Committed) -> None:
        if any(isinstance(applied.after, (JoinToken, Denied)) for applied in committed.applied):
            self._changed.set()
