"""A data plane for nodes that only pretend: carries no traffic, and says at once that it does what it was told."""

from __future__ import annotations

from collections.abc import Callable

from agent.network.interface import NO_CERTIFICATES, Certificates, DataPlaneState
from common.model.endpoint import Service


class PretendedDataPlane:
    """See the module. Implements `DataPlane` for one agent."""

    def __init__(self) -> None:
        self._changed: Callable[[DataPlaneState], None] = lambda _state: None

    pid = 0

    @property
    def name(self) -> str:
        return "pretended"

    async def start(self) -> None:
        """Nothing is there to be started."""

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        self._changed(DataPlaneState(revision=revision))

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._changed = changed

    async def metrics(self) -> bytes:
        return b""

    async def close(self, *, stop: bool) -> None:
        """Nothing to let go of."""
