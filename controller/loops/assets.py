"""Forgets contents of configs and secrets that nobody can want any more; seals secrets under the current cluster key.

A thin shell around `controller.core.assets` and `controller.security.vault`: writes only when there is something to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

from common.model.asset import Asset, AssetVersion
from common.model.job import JobVersion
from common.model.trust import Authority
from controller.core.assets import forgettable
from controller.ledger import Committed, Ledger
from controller.security.vault import Vault
from controller.state import Group, State, Write

_LOOK_S = 3_600.0
"""The wall clock may be set meanwhile."""


class AssetLoop:
    """Constructed per term; `run` is part of its work. `clock` is Unix time; without `vault` there are no secrets.

    Once the authority is sealed under another cluster key, secrets are too (`controller.loops.authority`).
    """

    def __init__(self, ledger: Ledger, vault: Vault | None, *, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._vault = vault
        self._clock = clock
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Raises `Invalid` when a secret is sealed under a key that we were not given: such a controller must not
        lead."""
        unsubscribe = self._ledger.subscribe(self._committed)
        try:
            while True:
                self._changed.clear()
                await self._ledger.submit(
                    lambda state: [*self._rewrapped(state), *forgettable(state, self._clock()).groups]
                )
                next_s = forgettable(self._ledger.state, self._clock()).next_s
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(max(next_s - self._clock(), 1.0), _LOOK_S)):
                        await self._changed.wait()
        finally:
            unsubscribe()

    def _rewrapped(self, state: State) -> Iterator[Group]:
        if self._vault is None:
            return
        for asset in state.assets.named.values():
            moved = self._vault.rewrapped(asset)
            if moved is not None:
                yield (Write(moved),)

    def _committed(self, committed: Committed) -> None:
        for applied in committed.applied:
            match applied.before, applied.after:
                case (JobVersion(), _) | (_, AssetVersion()) | (Asset(), _) | (_, Authority()):
                    self._changed.set()
                case _:
                    pass
