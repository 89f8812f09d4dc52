"""A machine's guard on virtual time: as `agent.guard.watchman`, it lives on whatever becomes of the agent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection

from agent.guard.interface import HeldContainer
from agent.guard.watchman import LATE_S, LOOK_S
from agent.runtime.fake import KILLED, FakeEngine
from common.errors import NotFound
from tests.sim.loop import outside


class SimGuard:
    """A `Guard`. Never polite: what its agent does not stop in time is killed at the end of its grace."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._acknowledged_s = -math.inf
        self._held: dict[str, HeldContainer] = {}
        self._doomed: dict[str, float] = {}
        self._looking: asyncio.TimerHandle | None = None
        self.kills = 0

    def lose_power(self) -> None:
        """What is on disk is of another start of the machine."""
        self._acknowledged_s = -math.inf
        self._doomed.clear()

    def acknowledged_s(self) -> float:
        return self._acknowledged_s

    async def begin(self, task_ids: Collection[str]) -> None:
        for task_id, held in list(self._held.items()):
            if task_id not in task_ids:
                self._kill(held)
                self.release(task_id)

    async def hold(self, container: HeldContainer, acknowledged_s: float) -> None:
        await asyncio.sleep(0.01)
        self._held[container.task_id] = container
        self.extend(acknowledged_s)
        if self._looking is None:
            self._look()

    def release(self, task_id: str) -> None:
        self._held.pop(task_id, None)

    def extend(self, acknowledged_s: float) -> None:
        self._acknowledged_s = max(self._acknowledged_s, acknowledged_s)

    async def close(self) -> None: ...

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for held in self._held.values():
            due_s = self._acknowledged_s + held.fence_after_s + LATE_S
            if loop.time() >= due_s:
                self._doomed.setdefault(held.container_id, due_s + held.grace_s)
            if loop.time() >= self._doomed.get(held.container_id, math.inf):
                self._kill(held)
        self._looking = loop.call_later(LOOK_S, self._look, context=outside()) if self._held else None

    def _kill(self, held: HeldContainer) -> None:
        try:
            container = self._engine.containers[held.container_id]
        except (KeyError, NotFound):
            return
        self.kills += container.running
        self._engine.end(container, KILLED)
