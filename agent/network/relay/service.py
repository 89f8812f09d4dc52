"""One service in the relay: its endpoints, its counters, and how a connection waits for one that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent.network.interface import PARKED_LIMIT, wait_s
from agent.network.relay.balancer import Balancer, Member
from common.model.endpoint import Endpoint, Service

CONNECT_TIMEOUT_S = 1.0
"""To one endpoint; a machine that is gone must not hold a client longer before the next one is tried."""

Opened = TypeVar("Opened")


FILES_PER_CONNECTION = 2
FILES_SPARED = 512
"""For listeners, the agent and the disk: a relay that has no file left can neither listen nor be told anything."""


class Places:
    """How many connections all services together may have: as many as there are files for. Half of them may wait."""

    def __init__(self, files: int) -> None:
        self._free = max(files - FILES_SPARED, files // 2) // FILES_PER_CONNECTION
        self.may_wait = self._free // 2
        """More of them."""

    def take(self) -> bool:
        """Whether there was one left."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        self._free += 1


class PublishedService:
    """What the listeners of a service share. `changed` is called when something drains or the job becomes wanted."""

    def __init__(self, service: Service, changed: Callable[[], None], places: Places) -> None:
        self.service = service
        self.places = places
        self.accepted = 0
        self.open = 0
        """Connections that stand or wait, kept by the listeners."""
        self.parked = 0
        self.refused = 0
        self._balancer = Balancer()
        self._changed = changed
        self._news = asyncio.Event()
        self.update(service)

    def update(self, service: Service) -> None:
        self.service = service
        self._balancer.update(service.endpoints, asyncio.get_running_loop().time(), service.slow_start_s)
        self._news.set()
        self._news = asyncio.Event()

    def draining(self) -> list[str]:
        return self._balancer.draining()

    @property
    def wanted(self) -> bool:
        """Whether connections wait for a job that has to be started for them."""
        return bool(self.parked and self.service.wake_wait_s and not self.service.endpoints)

    async def reach(self, connect: Callable[[Endpoint], Awaitable[Opened]]) -> tuple[Member, Opened] | None:
        """Open a connection to an endpoint that answers; None when none did within `wait_s`.

        The caller gives the member back with `release`.
        """
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + wait_s(self.service)
        while True:
            member = self._balancer.choose(clock())
            if member is not None:
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        opened = await connect(member.endpoint)
                except (OSError, ValueError, OverflowError):  # TimeoutError is one; the others: no address, and no port
                    self._balancer.failed(member, clock())
                    continue
                self._balancer.opened(member)
                return member, opened
            if clock() >= deadline_s or not await self._park(
                min(deadline_s, clock() + self._balancer.next_try_s(clock()))
            ):
                self.refused += 1
                return None

    def release(self, member: Member) -> None:
        if self._balancer.closed(member):
            self._changed()

    async def _park(self, until_s: float) -> bool:
        """Wait for other endpoints or for the moment; False when too many wait already."""
        if self.parked >= PARKED_LIMIT or not self.places.may_wait:
            return False
        self._count_parked(1)
        try:
            async with asyncio.timeout_at(until_s):
                await self._news.wait()
        except TimeoutError:
            pass
        finally:
            self._count_parked(-1)
        return True

    def _count_parked(self, more: int) -> None:
        before = self.wanted
        self.parked += more
        self.places.may_wait -= more
        if self.wanted is not before:
            self._changed()
