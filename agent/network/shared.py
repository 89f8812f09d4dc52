"""One data plane for several agents in one process (`podium dev`): the newest endpoints any was told are served.

All agents of a cluster are told the same endpoints, so the highest revision is right for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent.network.interface import DataPlane, DataPlaneState
from common.model.endpoint import Service


class SharedDataPlane:
    """Itself a `DataPlane`. Started by the first user; stopped by whoever made it, through `close_all`."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._started = False
        self._applied = -1
        self._lock = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._plane.name

    @property
    def pid(self) -> int:
        return self._plane.pid

    async def start(self) -> None:
        async with self._lock:
            if not self._started:
                await self._plane.start()
                self._started = True

    async def apply(self, revision: int, services: tuple[Service, ...]) -> None:
        async with self._lock:
            if revision > self._applied:
                await self._plane.apply(revision, services)
                self._applied = revision

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._plane.subscribe(changed)

    async def metrics(self) -> bytes:
        return await self._plane.metrics()

    async def close(self, *, stop: bool) -> None:
        """One user leaves; the others still need it."""

    async def close_all(self, *, stop: bool) -> None:
        """Let go of the plane itself, begun or half begun; with `stop`, end it."""
        await self._plane.close(stop=stop)
