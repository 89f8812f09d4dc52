"""One watch over all containers of a node: says when to look at a container again, and remembers memory peaks.

One event stream and one list serve any number of waiters. Events are hints and may be lost with the engine; the list,
taken after every connection and every `list_period_s`, is the truth. Never decides how a container ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from agent.runtime.cgroups import engine_memory_directory, memory_peak_bytes
from agent.runtime.docker_engine import Engine
from common.backoff import Backoff
from common.errors import PodiumError

logger = logging.getLogger(__name__)

RETRY_LIST_S = 1.0
"""After a list that failed: the engine is away or busy, and the event stream tells when it is back."""


class ExitWatch:
    """Set an `asyncio.Event` of each watched container whenever it may have ended."""

    def __init__(self, engine: Engine, labels: dict[str, str], *, local: bool) -> None:
        self._engine = engine
        self._labels = labels
        self._settings = engine.settings
        self._hints: dict[str, asyncio.Event] = {}
        self._list_wanted = asyncio.Event()
        self._last_event_ns = 0
        self._local = local
        self._groups: dict[str, Path] = {}
        self._peaks: dict[str, int] = {}

    def watch(self, container_id: str) -> asyncio.Event:
        """The hint of a container. Watch one before it is started and no end can be missed."""
        return self._hints.setdefault(container_id, asyncio.Event())

    def watches(self, container_id: str) -> bool:
        return container_id in self._hints

    def forget(self, container_id: str) -> None:
        for known in (self._hints, self._groups, self._peaks):
            known.pop(container_id, None)

    def peak_bytes(self, container_id: str) -> int:
        """The most memory it was seen with, measured now if it still runs; 0: not measured."""
        self._measure(container_id)
        return self._peaks.get(container_id, 0)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_events())
            group.create_task(self._compare_lists())
            if self._local:
                group.create_task(self._every(self._settings.peak_period_s, self._measure_all))

    async def _follow_events(self) -> None:
        backoff = Backoff(first_s=0.1, limit_s=self._settings.reconnect_limit_s)
        failures = 0
        while True:
            try:
                async with self._engine.ends(self._labels, self._last_event_ns) as events:
                    failures = 0
                    self._list_wanted.set()
                    async for event in events:
                        self._last_event_ns = max(self._last_event_ns, event.time_ns)
                        self._hint(event.actor.id)
            except PodiumError as error:
                logger.debug("event stream ended, connecting anew: %s", error)
            failures += 1
            await asyncio.sleep(backoff.ceiling_s(failures))

    async def _compare_lists(self) -> None:
        while True:
            await self._until_wanted()
            if not self._hints:
                continue
            watched = tuple(self._hints)  # one watched after the list was taken must not count as missing from it
            try:
                running = {listed.id for listed in await self._engine.find(self._labels, ended=False)}
            except PodiumError as error:
                logger.debug("containers cannot be listed: %s", error)
                await asyncio.sleep(RETRY_LIST_S)
                self._list_wanted.set()
                continue
            for container_id in watched:
                if container_id not in running:
                    self._hint(container_id)

    async def _until_wanted(self) -> None:
        try:
            async with asyncio.timeout(self._settings.list_period_s):
                await self._list_wanted.wait()
        except TimeoutError:
            return
        finally:
            self._list_wanted.clear()

    def _hint(self, container_id: str) -> None:
        if hint := self._hints.get(container_id):
            hint.set()

    async def _every(self, period_s: float, act: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(period_s)
            act()

    def _measure_all(self) -> None:
        for container_id in self._hints:
            self._measure(container_id)

    def _measure(self, container_id: str) -> None:
        if not self._local:
            return
        group = self._groups.get(container_id) or engine_memory_directory(container_id)
        if group is None:
            return
        self._groups[container_id] = group
        self._peaks[container_id] = max(self._peaks.get(container_id, 0), memory_peak_bytes(group))
