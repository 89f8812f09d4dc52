"""Which volumes the node keeps: told to the controller whenever that changes, and deleted when somebody asks.

Never deletes anything by itself. While a runtime is away nothing is said: a list in part would look like lost data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from agent.runtime.interface import Runtime
from common.errors import PodiumError
from common.model.session import RemoveVolume, VolumeRemoved, VolumeReport

logger = logging.getLogger(__name__)

LOOK_S = 60.0
"""Somebody may have deleted or made one behind our back."""
AGAIN_S = 5.0
"""After a runtime did not answer."""

Send = Callable[[VolumeReport | VolumeRemoved], Awaitable[None]]


class VolumeKeeper:
    """See the module."""

    def __init__(self, runtimes: Callable[[], Iterable[Runtime]]) -> None:
        self._runtimes = runtimes
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """A container with volumes was made: there may be a new one."""
        self._changed.set()

    async def report(self, send: Send) -> None:
        """Within one session."""
        told: tuple[str, ...] | None = None
        while True:
            self._changed.clear()
            found = await self._all()
            if found is not None and found != told:
                await send(VolumeReport(volumes=found))
                told = found
            try:
                async with asyncio.timeout(LOOK_S if found is not None else AGAIN_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def remove(self, request: RemoveVolume) -> VolumeRemoved:
        """From whichever runtime has it."""
        try:
            for runtime in self._runtimes():
                if request.name in await runtime.volumes():
                    await runtime.remove_volume(request.name)
        except PodiumError as error:
            return VolumeRemoved(request_id=request.request_id, error=str(error))
        self.changed()
        return VolumeRemoved(request_id=request.request_id)

    async def _all(self) -> tuple[str, ...] | None:
        """None while a runtime does not answer."""
        found: set[str] = set()
        for runtime in self._runtimes():
            try:
                found |= set(await runtime.volumes())
            except PodiumError as error:
                logger.debug("volumes of runtime %s are not known: %s", runtime.name, error)
                return None
        return tuple(sorted(found))
