"""The door that agents knock at, whoever leads: hands a session to the term's dispatcher, or names the leader.

Between two terms it keeps an agent at the door for a moment: after a leader's clean stop the next one is there before
an agent that was sent away would have come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from common.dispatch import ControllerLink, Dispatcher
from common.errors import Unavailable
from common.model.epoch import Epoch
from common.model.session import ControllerMessage, Redirect
from controller.dispatcher.settings import SETTINGS, DispatcherSettings
from controller.store.interface import LeaderRecord

logger = logging.getLogger(__name__)


class FrontDispatcher:
    """Implements `common.dispatch.Dispatcher`; see the module. `leader` is who leads as far as the store says."""

    def __init__(
        self,
        leader: Callable[[], LeaderRecord | None],
        own_address: str,
        settings: DispatcherSettings = SETTINGS,
    ) -> None:
        self._leader = leader
        self._own_address = own_address
        self._settings = settings
        self._leading: Dispatcher | None = None
        self._changed = asyncio.Event()

    def leader_changed(self) -> None:
        """`leader` says something else than before."""
        self._changed.set()
        self._changed = asyncio.Event()

    @contextmanager
    def lead(self, dispatcher: Dispatcher) -> Iterator[None]:
        """Hand sessions to `dispatcher` while the context lasts."""
        self._leading = dispatcher
        self.leader_changed()
        try:
            yield
        finally:
            self._leading = None

    async def serve(self, link: ControllerLink, peer: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.wait_s):
                await self._until_led()
        if self._leading is not None:
            await self._leading.serve(link, peer)
            return
        leader = self._leader()
        try:
            async with asyncio.timeout(self._settings.farewell_timeout_s):
                await link.send(self._redirect(leader))
        except (TimeoutError, Unavailable):
            logger.debug("%s did not wait to hear who leads", peer)

    async def _until_led(self) -> None:
        while self._leading is None and self._leads_nowhere(self._leader()):
            await self._changed.wait()

    def _leads_nowhere(self, leader: LeaderRecord | None) -> bool:
        """Nobody does, or this one was elected and is still loading."""
        return leader is None or leader.address == self._own_address

    def _redirect(self, leader: LeaderRecord | None) -> ControllerMessage:
        epoch = leader.epoch if leader else Epoch()
        if leader is None or self._leads_nowhere(leader):
            body = Redirect(leader="", reason="no controller leads at the moment", retry_after_s=self._settings.wait_s)
        else:
            body = Redirect(leader=leader.address, reason="this controller follows")
        return ControllerMessage(epoch=epoch, body=body)
