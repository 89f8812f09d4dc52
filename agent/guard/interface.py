"""What the agent asks of its node's guard, which lives on when the agent dies or stands still.

A guard is told which containers are exclusive before they start, and again and again when the newest acknowledged
heartbeat was sent. It ends on its own what had no acknowledgement for too long. It never decides that early, and never
touches a container it was not told of.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Protocol

import msgspec


class HeldContainer(msgspec.Struct, frozen=True, kw_only=True):
    """An exclusive container that may run."""

    task_id: str
    attempt: int
    runtime: str
    container_id: str
    fence_after_s: float
    signal: str
    grace_s: float


class Guard(Protocol):
    def acknowledged_s(self) -> float:
        """What an earlier agent said last, if this machine was not started anew since; minus infinity otherwise."""

    async def begin(self, task_ids: Collection[str]) -> None:
        """An agent begins that knows these live tasks; end every held container of another one, and see it end.

        Their journal entries may be lost, so nobody else would. Raises `Unavailable` while one cannot be seen to end.
        """

    async def hold(self, container: HeldContainer, acknowledged_s: float) -> None:
        """Watch over a container, in the place of the task's one before. Raises `Unavailable`: then do not start it.

        `acknowledged_s` is when the newest acknowledged heartbeat was sent.
        """

    def release(self, task_id: str) -> None:
        """The task has ended, as its runtime says."""

    def extend(self, acknowledged_s: float) -> None:
        """A newer heartbeat was acknowledged. Never raises: what cannot be extended ends, which is safe."""

    async def close(self) -> None:
        """The agent ends; the guard does not while it has something to guard."""


class Unguarded:
    """No guard: exclusive tasks are stopped by the agent alone. For tests of what has no processes."""

    def acknowledged_s(self) -> float:
        return -math.inf

    async def begin(self, task_ids: Collection[str]) -> None: ...

    async def hold(self, container: HeldContainer, acknowledged_s: float) -> None: ...

    def release(self, task_id: str) -> None: ...

    def extend(self, acknowledged_s: float) -> None: ...

    async def close(self) -> None: ...
