"""Brings statuses to the controller: batched by count and time, only what changed, repeated until acknowledged.

Owns the newest unacknowledged report of each task. Waiting reports are merged by task, so being cut off for days costs
one report a task; those of tasks that crash again and again are told once a second, merged. Never looks into a status.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import msgspec

from agent.settings import TICK_S, AgentBounds
from common.model.session import StatusBatch
from common.model.task import TaskReport
from common.settings import LIMITS

Send: TypeAlias = Callable[[StatusBatch], Awaitable[None]]
Acknowledged: TypeAlias = Callable[[str, tuple[int, ...]], None]
"""Told the task and the numbers of its crash records that are in the store."""


class Reporter:
    """See the module. `seed` holds what was not acknowledged before the agent's restart."""

    def __init__(self, bounds: AgentBounds, acknowledged: Acknowledged, seed: Iterable[TaskReport] = ()) -> None:
        self._bounds = bounds
        self._acknowledged = acknowledged
        self._waiting: dict[str, TaskReport] = {report.task_id: report for report in seed}
        self._in_flight: dict[int, dict[str, TaskReport]] = {}
        self._told_at_s: dict[str, float] = {}
        self._unhurried: dict[str, None] = {}
        """Tasks whose report waits until the last one is a while ago."""
        self._passing_until_s: dict[str, float] = {}
        """Tasks whose report waits until then for the one that will follow."""
        self._sequence = 0
        self._changed = asyncio.Event()

    def report(self, report: TaskReport, *, unhurried: bool = False, passing: bool = False) -> None:
        """Take over a task's new status and the attempts that ended with it.

        `unhurried`: once a second is enough. `passing`: another will follow, as a rule at once, and say all of it.
        """
        task_id = report.task_id
        if unhurried:
            self._told_at_s.setdefault(task_id, asyncio.get_running_loop().time())
            self._unhurried[task_id] = None
        else:
            self._unhurried.pop(task_id, None)
        if passing:
            until_s = asyncio.get_running_loop().time() + self._bounds.passing_s
            self._passing_until_s.setdefault(task_id, until_s)
        else:
            self._passing_until_s.pop(task_id, None)
        self._wait(report)

    def _wait(self, report: TaskReport) -> None:
        before = self._waiting.get(report.task_id)
        self._waiting[report.task_id] = report if before is None else _newer(before, report)
        self._changed.set()

    def forget(self, task_id: str) -> None:
        """The controller no longer knows the task."""
        for known in (self._waiting, self._told_at_s, self._unhurried, self._passing_until_s):
            known.pop(task_id, None)
        for batch in self._in_flight.values():
            batch.pop(task_id, None)

    def unacknowledged(self, task_id: str) -> TaskReport | None:
        """The task's report with every attempt nobody has acknowledged."""
        found: TaskReport | None = None
        for report in (*(batch.get(task_id) for batch in self._in_flight.values()), self._waiting.get(task_id)):
            if report is not None:
                found = report if found is None else _newer(found, report)
        return found

    def acknowledge(self, sequence: int) -> None:
        """All batches up to `sequence` are in the store."""
        for number in [number for number in self._in_flight if number <= sequence]:
            for report in self._in_flight.pop(number).values():
                if report.ended:
                    self._acknowledged(report.task_id, tuple(attempt.number for attempt in report.ended))
        self._changed.set()

    async def run(self, send: Send) -> None:
        """Report within one session, for as long as it lasts; begins with what the last one left unacknowledged."""
        self._take_back()
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            if len(self._in_flight) >= self._bounds.batches_in_flight:
                await self._changed.wait()
            elif self._due(loop.time()):
                await asyncio.sleep(0)  # what else this turn of the loop brings, of other tasks, goes along
                if due := self._due(sent_at := loop.time()):
                    await send(self._next_batch(due))
                    await asyncio.sleep(max(0.0, sent_at + self._bounds.batch_interval_s - loop.time()))
            else:
                await self._news()

    def _due(self, now_s: float) -> list[str]:
        return [task_id for task_id in self._waiting if self._due_at_s(task_id) - now_s < TICK_S]

    def _due_at_s(self, task_id: str) -> float:
        if task_id in self._unhurried:
            return self._told_at_s[task_id] + self._bounds.unhurried_interval_s
        return self._passing_until_s.get(task_id, -math.inf)

    async def _news(self) -> None:
        """Until something new is to be told, or what waits is due."""
        first_at_s = min(map(self._due_at_s, self._waiting), default=None)
        try:
            async with asyncio.timeout_at(first_at_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _next_batch(self, due: list[str]) -> StatusBatch:
        now_s = asyncio.get_running_loop().time()
        batch = {task_id: self._waiting.pop(task_id) for task_id in due[: self._bounds.batch_reports]}
        self._told_at_s |= dict.fromkeys(batch, now_s)
        for task_id in batch:
            self._passing_until_s.pop(task_id, None)
        self._sequence += 1
        self._in_flight[self._sequence] = batch
        return StatusBatch(sequence=self._sequence, reports=tuple(batch.values()))

    def _take_back(self) -> None:
        """A new session: nobody will acknowledge what was sent in the old one."""
        batches, self._in_flight, self._sequence = list(self._in_flight.values()), {}, 0
        newest, self._waiting = self._waiting, {}
        for batch in (*batches, newest):
            for report in batch.values():
                self._wait(report)


def _newer(before: TaskReport, after: TaskReport) -> TaskReport:
    if not before.ended:
        return after
    known = {attempt.number for attempt in after.ended}
    kept = [attempt for attempt in before.ended if attempt.number not in known]
    return msgspec.structs.replace(after, ended=(*kept, *after.ended)[-LIMITS.attempts_kept :])
