"""What the agent asks of a data plane, whichever program carries the traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from common.model.endpoint import Service


class DataPlaneState(msgspec.Struct, frozen=True, kw_only=True):
    """What the data plane carries out at the moment."""

    revision: int
    """Of the endpoints it was last given."""
    draining: tuple[str, ...] = ()
    """Withdrawn tasks whose connections have not ended yet."""
    problems: tuple[str, ...] = ()
    """E.g. `port 8080/tcp on 10.0.0.5 is taken by another program`."""
    connections: dict[str, int] = {}
    """Connections accepted so far by job name `namespace/job`."""


class DataPlane(Protocol):
    async def start(self) -> None:
        """Start the program, or find the one that runs already and serves its last knowledge."""

    async def apply(self, revision: int, services: tuple[Service, ...]) -> None:
        """Serve exactly these services from now on. Returns when it is carried out. `Unavailable` when it is away."""

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        """Call back with the state at every change: applied revisions, drained endpoints, problems."""

    async def close(self, *, stop: bool) -> None:
        """Let go of it; with `stop`, end it and free its ports and files."""
