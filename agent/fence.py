"""Carries out what `agent.core.self_fence` decides: asks in time, tells the tasks' runners, and keeps the guard true.

Whoever may start an exclusive container asks here first, and every step of such a task begins with a look at the clock:
an agent that stood still for long learns what it has lost before it does anything else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress

from agent.core import self_fence
from agent.core.self_fence import FenceMemory, Look
from agent.guard.interface import Guard, HeldContainer

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""At most so long between looks while something is watched: the loop's timers stand still while the machine sleeps."""


class SelfFence:
    """See the module. `boottime` counts while the machine sleeps."""

    def __init__(self, guard: Guard, boottime: Callable[[], float]) -> None:
        self._guard = guard
        self._boottime = boottime
        self._memory = FenceMemory(acknowledged_s=guard.acknowledged_s())
        self._wakers: dict[str, Callable[[str], None]] = {}
        self._changed = asyncio.Event()
        self._permits = 0
        """That are waited for."""

    def now_s(self) -> float:
        """By which heartbeats are dated."""
        return self._boottime()

    async def begin(self, task_ids: Collection[str]) -> None:
        """Before anything else is done on the node; `task_ids` are those of the journal. Raises `Unavailable`."""
        await self._guard.begin(task_ids)

    async def close(self) -> None:
        await self._guard.close()

    def acknowledged(self, sent_s: float) -> None:
        """A heartbeat sent then was acknowledged by the leader."""
        self._take(self_fence.acknowledge(self._memory, sent_s, self.now_s()))
        if self._memory.watched:
            self._guard.extend(self._memory.acknowledged_s)
        if self._memory.watched or self._permits:
            self._wake()

    def renounce(self, reason: str) -> None:
        self._take(self_fence.renounce(self._memory, reason))

    def watch(self, task_id: str, fence_after_s: float, lapsed: Callable[[str], None]) -> None:
        """A container of the task may run already. `lapsed` is called with the reason when it has to stop."""
        self._wakers[task_id] = lapsed
        self._take(self_fence.watch(self._memory, task_id, fence_after_s, self.now_s()))
        self._wake()

    def forget(self, task_id: str) -> None:
        """The task has ended."""
        self._memory = self_fence.forget(self._memory, task_id)
        self._guard.release(task_id)
        self._wakers.pop(task_id, None)
        self._wake()

    def reason(self, task_id: str) -> str:
        """Why the task must not run any more, as of now; empty while it may."""
        self._take(self_fence.look(self._memory, self.now_s()))
        return self._memory.lapsed.get(task_id, "")

    async def permit(self, container: HeldContainer, lapsed: Callable[[str], None]) -> str:
        """Return when the container may be started, and is guarded; or why it may not. Raises `Unavailable`."""
        while not (reason := self.reason(container.task_id)):
            if self_fence.may_start(self._memory, container.fence_after_s, self.now_s()):
                break
            await self._until_changed()
        else:
            return reason
        self.watch(container.task_id, container.fence_after_s, lapsed)
        await self._guard.hold(container, self._memory.acknowledged_s)
        return self.reason(container.task_id)

    async def run(self) -> None:
        """Look in time, for as long as the agent lives."""
        while True:
            self._take(self_fence.look(self._memory, self.now_s()))
            wait_s = min(LOOK_S, max(0.0, self_fence.next_look_s(self._memory) - self.now_s()))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if self._memory.watched else None):
                    await self._changed.wait()

    async def _until_changed(self) -> None:
        self._permits += 1
        try:
            await self._changed.wait()
        finally:
            self._permits -= 1

    def _take(self, look: Look) -> None:
        self._memory = look.memory
        for task_id in look.lapsed:
            reason = self._memory.lapsed[task_id]
            logger.warning("task %s: %s", task_id, reason)
            if task_id in self._wakers:
                self._wakers[task_id](reason)
        if look.lapsed:
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
