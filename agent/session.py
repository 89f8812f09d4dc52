"""Keeps the node in touch with whoever leads: which controller to dial, in which order, and when again.

Owns the addresses. Follows redirects, tries each address once a round, asks the next one beside one that does not
answer soon, backs off with full jitter between rounds, and goes on for ever: everything else on the node goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import msgspec

from agent.conversation import Conversation, Parts, Redirected
from agent.metrics import Metrics
from common.dispatch import Dialer
from common.errors import Invalid, Unavailable
from common.model.session import Redirect, Registered

logger = logging.getLogger(__name__)


class _End(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt at one address ended."""

    was_registered: bool
    redirect: Redirect | None

    @property
    def wait_s(self) -> float:
        return self.redirect.retry_after_s if self.redirect else 0.0


class Session:
    """See the module. `controllers` are the addresses the operator gave."""

    def __init__(self, dialer: Dialer, controllers: tuple[str, ...], parts: Parts, metrics: Metrics) -> None:
        self._dialer = dialer
        self._given = controllers
        self._parts = parts
        self._metrics = metrics
        self._registered = asyncio.Event()
        self._serving = ""
        self._attempts: dict[str, asyncio.Task[_End]] = {}
        """By address; one of them serves, or none does yet."""
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
        async with asyncio.TaskGroup() as group:
            while True:
                was_registered, wait_s = await self._round(group)
                failures = 1 if was_registered else failures + 1
                jitter_s = self._parts.timers.redial.full_jitter_s(failures, self._parts.rng)
                await asyncio.sleep(jitter_s + min(wait_s, self._parts.timers.wait_limit_s))

    async def _round(self, group: asyncio.TaskGroup) -> tuple[bool, float]:
        """Try each address once, and those we are redirected to. Ends early after a session that was registered.

        An address that does not answer soon goes on being asked beside the next ones, also in later rounds: the first
        that registers us wins. Answers whether one did, and how long the controllers ask us to wait.
        """
        waiting = deque[str]()
        if not self.registered:
            waiting.extend(address for address in self._addresses() if address not in self._attempts)
        tried: list[str] = []
        heard, wait_s = False, 0.0
        while True:
            if waiting and len(tried) < self._parts.timers.controllers_limit:
                tried.append(waiting.popleft())
                self._attempts[tried[-1]] = group.create_task(self._attempt(tried[-1]), name=f"session {tried[-1]}")
            elif tried or heard or not self._attempts:
                return False, wait_s
            for address, end in await self._ended(patient=not tried):
                heard = True
                leader = end.redirect.leader if end.redirect else ""
                if leader and leader not in tried and leader not in self._attempts:
                    waiting.appendleft(leader)  # a leader that stops names its successor: go there at once
                elif end.was_registered:
                    return True, end.wait_s  # what others said before that session is long past
                wait_s = max(wait_s, end.wait_s)
                waiting = deque(item for item in dict.fromkeys(waiting) if item not in (*tried, address))

    async def _ended(self, *, patient: bool) -> list[tuple[str, _End]]:
        """Attempts that have ended, in the order they were made; none when no controller has registered us for long."""
        while True:
            timeout_s = None if patient or self.registered else self._parts.timers.hedge_s
            await asyncio.wait(set(self._attempts.values()), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            done = [(address, task) for address, task in self._attempts.items() if task.done()]
            for address, _task in done:
                del self._attempts[address]
            ends = [(address, task.result()) for address, task in done if not task.cancelled()]
            if ends or not (self.registered or done):
                return ends

    async def _attempt(self, address: str) -> _End:
        """A session with the controller at `address`, until it ends; at once when the controller takes us not in."""
        redirect = None
        try:
            async with self._dialer.dial(address) as link:
                await Conversation(link, self._parts, lambda registered: self._begun(address, registered)).run()
        except Redirected as redirected:
            redirect = redirected.redirect
            self._tell(f"controller {address}: {redirect.reason or f'the leader is {redirect.leader}'}")
        except (Unavailable, Invalid) as error:
            self._tell(f"controller {address}: {error}")
        return _End(was_registered=self._over(address), redirect=redirect)

    def _begun(self, address: str, registered: Registered) -> None:
        logger.info("registered with %s (session %s)", address, registered.session_id)
        self._problem = ""
        self._serving = address
        self._registered.set()
        for other, attempt in self._attempts.items():
            if other != address:
                attempt.cancel()
        self._metrics.connected(True)
        self._parts.taken_in.set()
        self._remember(address)

    def _remember(self, leader: str) -> None:
        """For the next dial and for a restarted agent; a full disk must not keep a node from its controller."""
        journal, here = self._parts.journal, self._parts.describe().address
        others = (other for other in journal.controllers if other != leader)
        known = (leader, *others)[: self._parts.timers.controllers_limit]
        try:
            if known != journal.controllers:
                journal.remember_controllers(known)
            if here != journal.address:
                journal.remember_address(here)
        except Unavailable as error:
            logger.warning("the leader's address, or this node's own, is not remembered: %s", error)

    def _over(self, address: str) -> bool:
        """Whether the session that just ended had been registered; it no longer is."""
        if self._serving != address:
            return False
        self._serving = ""
        self._registered.clear()
        self._metrics.connected(False)
        return True

    def _addresses(self) -> tuple[str, ...]:
        """The last leader first, then those given, then others heard of."""
        remembered = self._parts.journal.controllers
        return tuple(dict.fromkeys((*remembered[:1], *self._given, *remembered[1:])))

    def _tell(self, problem: str) -> None:
        """Once for each problem in a row: an agent may be cut off for days."""
        level = logging.DEBUG if problem == self._problem else logging.WARNING
        self._problem = problem
        logger.log(level, "%s", problem)
