"""One data plane for several agents in one process (`podium dev`): what any of them is told is served.

Each agent is told only what concerns its node, in a numbering of its own. So the plane gets all of it together,
numbered anew, and every agent hears how far the plane has come in its own numbers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from agent.network.interface import NO_CERTIFICATES, Certificates, DataPlane, DataPlaneState
from common.model.endpoint import Service


class SharedDataPlane:
    """See the module. Started by the first user; stopped by whoever made it, through `close_all`."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self._started = False
        self._round = -1
        self._told: dict[Seat, tuple[int, tuple[Service, ...], Certificates]] = {}
        """By agent: the round in which it last said something, and what."""
        self._lock = asyncio.Lock()
        plane.subscribe(self._heard)

    def seat(self) -> Seat:
        """A `DataPlane` for one more agent."""
        return Seat(self)

    async def start(self) -> None:
        async with self._lock:
            if not self._started:
                await self.plane.start()
                self._started = True

    async def apply(
        self, seat: Seat, services: tuple[Service, ...], certificates: Certificates, begins: Callable[[int], None]
    ) -> None:
        """Serve these for one agent, beside what the others were told; `begins` hears as which round."""
        async with self._lock:
            self._round += 1
            self._told[seat] = self._round, services, certificates
            begins(self._round)
            known = {digest: content for *_, some in self._told.values() for digest, content in some.items()}
            await self.plane.apply(self._round, self._together(), known)

    def leave(self, seat: Seat) -> None:
        """Its services are served until another agent says something."""
        self._told.pop(seat, None)

    async def close_all(self, *, stop: bool) -> None:
        """Let go of the plane itself, begun or half begun; with `stop`, end it."""
        await self.plane.close(stop=stop)

    def _heard(self, state: DataPlaneState) -> None:
        """One that ran before has counted further than we have."""
        self._round = max(self._round, state.revision)

    def _together(self) -> tuple[Service, ...]:
        """Of a service that several were told of, the latest is right."""
        told = sorted(self._told.values(), key=lambda one: one[0])
        services = {service.key: service for _, some, _ in told for service in some}
        return tuple(services[key] for key in sorted(services))


class Seat:
    """One agent's share of a plane; itself a `DataPlane`."""

    def __init__(self, shared: SharedDataPlane) -> None:
        self._shared = shared
        self._rounds: deque[tuple[int, int]] = deque()
        """The plane's number, and the agent's, of what was asked for."""
        self._reached = -1
        self._subscribers: list[Callable[[DataPlaneState], None]] = []
        shared.plane.subscribe(self._heard)

    @property
    def name(self) -> str:
        return self._shared.plane.name

    @property
    def pid(self) -> int:
        return self._shared.plane.pid

    async def start(self) -> None:
        await self._shared.start()

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        await self._shared.apply(self, services, certificates, lambda number: self._rounds.append((number, revision)))

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._subscribers.append(changed)

    async def metrics(self) -> bytes:
        return await self._shared.plane.metrics()

    async def close(self, *, stop: bool) -> None:
        """One user leaves; the others still need it."""
        self._shared.leave(self)

    def _heard(self, state: DataPlaneState) -> None:
        while self._rounds and self._rounds[0][0] <= state.revision:
            self._reached = self._rounds.popleft()[1]
        reached = self._reached if state.revision >= 0 else -1  # it was killed, and is told again what it served
        told = msgspec.structs.replace(state, revision=reached)
        for subscriber in self._subscribers:
            subscriber(told)
