"""What is asked of the autoscaled jobs: the work that their running containers share, and the number that Prometheus
knows, when it answers. The simulation sets it; what becomes of it is the product's business."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from agent.runtime.fake import FakeContainer
from common.model.job import Job
from common.model.resources import Usage
from controller.core.load import Answer
from tests.sim.jobs import BURST, CPU_PERCENT, MIB, TASK_CPU_MILLIS

ANSWER_S = 0.02
SPARE = 0.3
"""Of one replica, less than what would fill them all: so far from the next number that no tolerance covers it."""


class Demand:
    """See the module. `containers`: all that run, anywhere."""

    def __init__(self, containers: Callable[[], Iterable[FakeContainer]]) -> None:
        self._containers = containers
        self._wanted: dict[str, int] = {}
        self.away_since_s = math.inf
        """When Prometheus last ceased to answer; infinity while it does."""

    def set(self, job: str, replicas: int) -> None:
        """From now on there is work for so many replicas of it, each at its target."""
        self._wanted[job] = replicas

    def lose_source(self) -> None:
        self.away_since_s = min(self.away_since_s, asyncio.get_running_loop().time())

    def find_source(self) -> None:
        self.away_since_s = math.inf

    def replicas(self, job: Job) -> int:
        """How many the job is to come to, within its ends."""
        assert job.autoscale is not None
        return min(max(self._wanted.get(job.name, 1), job.autoscale.least), job.autoscale.most)

    # --- what the product measures and asks

    def use_of(self, container: FakeContainer) -> Usage:
        """Of one that runs: the work is spread evenly over all of its job that do."""
        name = container.identity.job
        if name != BURST.name:
            return container.behaviour.usage
        sharing = sum(other.identity.job == name for other in self._containers())
        share = self._work(name) / max(1, sharing)
        return Usage(cpu_millis=round(share * TASK_CPU_MILLIS * CPU_PERCENT / 100), memory_bytes=16 * MIB)

    async def ask(self, job: str) -> Answer:
        """The expression of a query is the name of its job, and its target 1."""
        await asyncio.sleep(ANSWER_S)
        if self.away_since_s < math.inf:
            return Answer(problem="connection refused")
        return Answer(value=self._work(job))

    def _work(self, job: str) -> float:
        return max(0.0, self._wanted.get(job, 1) - SPARE)
