"""Keeps the node in touch with whoever leads: which controller to dial, in which order, and when again.

Owns the addresses. Follows redirects, tries each address once a round, backs off with full jitter between rounds, and
goes on for ever: everything else on the node goes on in the meantime.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from agent.conversation import Conversation, Parts, Redirected
from agent.metrics import Metrics
from common.dispatch import Dialer
from common.errors import Invalid, Unavailable
from common.model.session import Registered

logger = logging.getLogger(__name__)


class Session:
    """See the module. `controllers` are the addresses the operator gave."""

    def __init__(self, dialer: Dialer, controllers: tuple[str, ...], parts: Parts, metrics: Metrics) -> None:
        self._dialer = dialer
        self._given = controllers
        self._parts = parts
        self._metrics = metrics
        self._registered = asyncio.Event()
        self._problem = ""

    @property
    def registered(self) -> bool:
        """Whether a controller has taken the node in and is still there."""
        return self._registered.is_set()

    @property
    def problem(self) -> str:
        """Why the node is not registered, for people."""
        return self._problem or "no controller has been asked yet"

    async def until_registered(self) -> None:
        await self._registered.wait()

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            was_registered, wait_s = await self._round(self._patience_s(failures))
            failures = 1 if was_registered else failures + 1
            jitter_s = self._parts.timers.redial.full_jitter_s(failures, self._parts.rng)
            await asyncio.sleep(jitter_s + min(wait_s, self._parts.timers.wait_limit_s))

    def _patience_s(self, failures: int) -> float:
        """How long an address has to answer a registration."""
        timers = self._parts.timers
        if len(self._addresses()) == 1:
            return timers.register_timeout_s
        return min(timers.register_timeout_s, timers.register_first_s * 2.0 ** min(max(0, failures - 1), 10))

    async def _round(self, patience_s: float) -> tuple[bool, float]:
        """Try each address once, and those we are redirected to. Ends early after a session that was registered.

        Answers whether there was one, and how long the controllers ask us to wait.
        """
        waiting = deque(self._addresses())
        tried: list[str] = []
        wait_s = 0.0
        while waiting and len(tried) < self._parts.timers.controllers_limit:
            address = waiting.popleft()
            tried.append(address)
            redirected_to = ""
            try:
                await self._converse(address, patience_s)
            except Redirected as redirected:
                redirect = redirected.redirect
                self._tell(f"controller {address}: {redirect.reason or f'the leader is {redirect.leader}'}")
                wait_s = max(wait_s, redirect.retry_after_s)
                if redirect.leader and redirect.leader not in tried:
                    redirected_to = redirect.leader
                    waiting.appendleft(redirected_to)
            except (Unavailable, Invalid) as error:
                self._tell(f"controller {address}: {error}")
            waiting = deque(item for item in waiting if item not in tried)
            if self._over() and not redirected_to:  # a leader that stops names its successor: go there at once
                return True, wait_s
        return False, wait_s

    async def _converse(self, address: str, patience_s: float) -> None:
        async with self._dialer.dial(address) as link:
            conversation = Conversation(link, self._parts, lambda registered: self._begun(address, registered))
            await conversation.run(patience_s)

    def _begun(self, address: str, registered: Registered) -> None:
        logger.info("registered with %s (session %s)", address, registered.session_id)
        self._problem = ""
        self._registered.set()
        self._metrics.connected(True)
        self._remember(address)

    def _remember(self, leader: str) -> None:
        """For the next dial and for a restarted agent; a full disk must not keep a node from its controller."""
        journal = self._parts.journal
        others = (other for other in journal.controllers if other != leader)
        known = (leader, *others)[: self._parts.timers.controllers_limit]
        try:
            if known != journal.controllers:
                journal.remember_controllers(known)
        except Unavailable as error:
            logger.warning("the leader's address is not remembered: %s", error)

    def _over(self) -> bool:
        """Whether the session that just ended had been registered; it no longer is."""
        was_registered = self._registered.is_set()
        self._registered.clear()
        self._metrics.connected(False)
        return was_registered

    def _addresses(self) -> tuple[str, ...]:
        """The last leader first, then those given, then others heard of."""
        remembered = self._parts.journal.controllers
        return tuple(dict.fromkeys((*remembered[:1], *self._given, *remembered[1:])))

    def _tell(self, problem: str) -> None:
        """Once for each problem in a row: an agent may be cut off for days."""
        level = logging.DEBUG if problem == self._problem else logging.WARNING
        self._problem = problem
        logger.log(level, "%s", problem)
