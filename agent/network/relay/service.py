"""One service in the relay: its endpoints, its counters, and how a connection waits for one that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent.network.relay.balancer import Balancer, Member
from common.model.endpoint import Endpoint, Service

CONNECT_TIMEOUT_S = 1.0
"""To one endpoint; a machine that is gone must not hold a client longer before the next one is tried."""

PARK_S = 5.0
"""How long a connection waits while no endpoint answers: a crashed single replica is back by then."""

PARKED_LIMIT = 1_000
"""Connections of one service that may wait at a time; more are closed at once, so that memory stays bounded."""

Opened = TypeVar("Opened")


class PublishedService:
    """What the listeners of a service share. `changed` is called when something drains."""

    def __init__(self, service: Service, changed: Callable[[], None]) -> None:
        self.service = service
        self.accepted = 0
        self._balancer = Balancer()
        self._changed = changed
        self._parked = 0
        self._news = asyncio.Event()
        self.update(service)

    def update(self, service: Service) -> None:
        self.service = service
        self._balancer.update(service.endpoints, asyncio.get_running_loop().time(), service.slow_start_s)
        self._news.set()
        self._news = asyncio.Event()

    def draining(self) -> list[str]:
        return self._balancer.draining()

    async def reach(self, connect: Callable[[Endpoint], Awaitable[Opened]]) -> tuple[Member, Opened] | None:
        """Open a connection to an endpoint that answers; None when none did within `PARK_S`.

        The caller gives the member back with `release`.
        """
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + PARK_S
        while True:
            member = self._balancer.choose(clock())
            if member is not None:
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        opened = await connect(member.endpoint)
                except OSError:  # TimeoutError is one of them
                    self._balancer.failed(member, clock())
                    continue
                self._balancer.opened(member)
                return member, opened
            if clock() >= deadline_s or not await self._park(
                min(deadline_s, clock() + self._balancer.next_try_s(clock()))
            ):
                return None

    def release(self, member: Member) -> None:
        if self._balancer.closed(member):
            self._changed()

    async def _park(self, until_s: float) -> bool:
        """Wait for other endpoints or for the moment; False when too many wait already."""
        if self._parked >= PARKED_LIMIT:
            return False
        self._parked += 1
        try:
            async with asyncio.timeout_at(until_s):
                await self._news.wait()
        except TimeoutError:
            pass
        finally:
            self._parked -= 1
        return True
