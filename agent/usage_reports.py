"""What the node's containers use: measured by one hand for whoever asks, since CPU only means something between two
readings, and reported to the controller while that wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from agent.metrics import ContainerUsage
from common.model.session import ServiceTraffic, TaskUsage, UsageReport

FIRST_S = 1.0
"""From the first reading, which has no CPU yet, to the second, which is reported: somebody is waiting for it."""
LEAST_S = 0.5
"""No more often: every reading asks the engine."""

Read = Callable[[], Awaitable[tuple[ContainerUsage, ...]]]
Send = Callable[[UsageReport], Awaitable[None]]


class Sample(msgspec.Struct, frozen=True):
    """One reading of all running containers."""

    usages: tuple[ContainerUsage, ...]
    at_s: float
    interval_s: float
    """Since the reading before, which is what CPU is averaged over; 0: there was none, and no CPU is known."""


class UsageSampler:
    """The one reader. `observe` is told of every sample."""

    def __init__(self, read: Read, observe: Callable[[tuple[ContainerUsage, ...], float], None]) -> None:
        self._read = read
        self._observe = observe
        self._last: Sample | None = None
        self._reading = asyncio.Lock()

    async def sample(self, most_age_s: float) -> Sample:
        """The last reading when it is so fresh, else another one."""
        async with self._reading:
            now_s = asyncio.get_running_loop().time()
            last = self._last
            if last is None or now_s - last.at_s >= most_age_s:
                usages = await self._read()
                last = Sample(usages, now_s, now_s - last.at_s if last is not None else 0.0)
                self._last = last
                self._observe(last.usages, last.interval_s)
            return last


class UsageReporter:
    """Of one session."""

    def __init__(self, sampler: UsageSampler, traffic: Callable[[], tuple[ServiceTraffic, ...]], send: Send) -> None:
        self._sampler = sampler
        self._traffic = traffic
        self._send = send
        self._every_s = 0.0
        self._wanted = asyncio.Event()

    def wanted(self, every_s: float) -> None:
        """How often the controller wants a report; 0: not at all."""
        self._every_s = max(every_s, LEAST_S) if every_s > 0 else 0.0
        if self._every_s:
            self._wanted.set()
        else:
            self._wanted.clear()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            await self._sampler.sample(LEAST_S)
            await asyncio.sleep(FIRST_S)
            while self._every_s:
                await self._report()
                await asyncio.sleep(self._every_s)

    async def _report(self) -> None:
        sample = await self._sampler.sample(LEAST_S)
        tasks = tuple(
            TaskUsage(
                task_id=seen.task_id,
                cpu_millis=seen.usage.cpu_millis,
                memory_bytes=seen.usage.memory_bytes,
                processes=seen.usage.tasks,
            )
            for seen in sample.usages
        )
        await self._send(UsageReport(interval_s=sample.interval_s, tasks=tasks, traffic=self._traffic()))
