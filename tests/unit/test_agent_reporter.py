"""What goes to the controller at once, and what waits: statuses of tasks that crash again and again are merged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from agent.core.restart import RestartMemory, is_habit
from agent.reporter import Reporter
from agent.settings import AgentBounds
from common.model.session import StatusBatch
from common.model.task import Attempt, TaskReport, TaskState, TaskStatus
from tests.virtual_time import on_virtual_time

BOUNDS = AgentBounds()
INTERVAL_S = BOUNDS.unhurried_interval_s


def report(attempt: int, task_id: str = "t1") -> TaskReport:
    ended = Attempt(task_id=task_id, number=attempt, node_id="n1", version=1)
    status = TaskStatus(attempt=attempt, state=TaskState.RESTARTING, sequence=attempt)
    return TaskReport(task_id=task_id, status=status, ended=(ended,))


class Told:
    """Every batch, with its moment."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, StatusBatch]] = []

    async def send(self, batch: StatusBatch) -> None:
        self.batches.append((asyncio.get_running_loop().time(), batch))

    def of(self, task_id: str) -> list[tuple[float, TaskReport]]:
        return [(at_s, one) for at_s, batch in self.batches for one in batch.reports if one.task_id == task_id]


@asynccontextmanager
async def session(reporter: Reporter) -> AsyncIterator[Told]:
    told = Told()
    running = asyncio.create_task(reporter.run(told.send))
    try:
        yield told
    finally:
        running.cancel()
        await asyncio.wait({running})


def a_reporter() -> Reporter:
    return Reporter(BOUNDS, lambda _task_id, _numbers: None)


@on_virtual_time
async def test_what_waits_is_told_merged_and_no_crash_record_is_lost() -> None:
    reporter = a_reporter()
    async with session(reporter) as told:
        for attempt in range(1, 6):
            reporter.report(report(attempt), unhurried=True)
            await asyncio.sleep(INTERVAL_S / 10)
        await asyncio.sleep(2 * INTERVAL_S)
    [(at_s, only)] = told.of("t1")
    assert at_s >= INTERVAL_S
    assert only.status.attempt == 5
    assert [attempt.number for attempt in only.ended] == [1, 2, 3, 4, 5]


@on_virtual_time
async def test_two_of_them_are_never_told_closer_than_the_interval() -> None:
    reporter = a_reporter()
    async with session(reporter) as told:
        for attempt in range(1, 40):
            reporter.report(report(attempt), unhurried=True)
            await asyncio.sleep(INTERVAL_S / 7)
        await asyncio.sleep(2 * INTERVAL_S)
    times = [at_s for at_s, _ in told.of("t1")]
    assert len(times) > 3
    assert all(after - before >= INTERVAL_S for before, after in pairwise(times))
    assert told.of("t1")[-1][1].status.attempt == 39


@on_virtual_time
async def test_others_do_not_wait_for_it_and_what_is_urgent_takes_it_along() -> None:
    reporter = a_reporter()
    loop = asyncio.get_running_loop()
    async with session(reporter) as told:
        reporter.report(report(1), unhurried=True)
        reporter.report(report(1, "t2"))
        await asyncio.sleep(BOUNDS.batch_interval_s)
        assert [batch.reports[0].task_id for _, batch in told.batches] == ["t2"]
        reporter.report(report(2))
        urgent_at_s = loop.time()
        await asyncio.sleep(2 * BOUNDS.batch_interval_s)
    [(at_s, only)] = told.of("t1")
    assert at_s - urgent_at_s <= BOUNDS.batch_interval_s
    assert [attempt.number for attempt in only.ended] == [1, 2]


@on_virtual_time
async def test_a_task_that_runs_at_once_is_told_of_once_and_one_on_its_way_for_long_after_a_moment() -> None:
    reporter = a_reporter()
    async with session(reporter) as told:
        reporter.report(report(1), passing=True)
        await asyncio.sleep(BOUNDS.passing_s / 2)
        reporter.report(report(2))
        await asyncio.sleep(0)
        reporter.report(report(1, "t2"), passing=True)
        await asyncio.sleep(2 * BOUNDS.passing_s)
        reporter.report(report(2, "t2"))
        await asyncio.sleep(BOUNDS.batch_interval_s)
    [(at_s, only)] = told.of("t1")
    assert only.status.attempt == 2
    assert at_s <= BOUNDS.passing_s / 2 + BOUNDS.batch_interval_s, "what does not pass waits for nothing"
    assert [one.status.attempt for _, one in told.of("t2")] == [1, 2]


def test_one_crash_is_no_habit() -> None:
    assert not is_habit(RestartMemory(in_a_row=1), 0)
    assert is_habit(RestartMemory(in_a_row=2), 0)
    assert is_habit(RestartMemory(), 1)


@on_virtual_time
async def test_what_one_turn_of_the_loop_brings_is_one_message() -> None:
    reporter, loop = a_reporter(), asyncio.get_running_loop()
    async with session(reporter) as told:
        await asyncio.sleep(0)  # it waits for news

        def happens(*task_ids: str) -> None:
            """As containers start that one set of assignments asked for: each in a call of its own."""
            first, *others = task_ids
            reporter.report(report(1, first))
            if others:
                loop.call_soon(happens, *others)

        loop.call_soon(happens, "t1", "t2")
        await asyncio.sleep(INTERVAL_S)
    assert [[one.task_id for one in batch.reports] for _, batch in told.batches] == [["t1", "t2"]]


@on_virtual_time
async def test_what_is_forgotten_as_it_is_told_makes_no_empty_message() -> None:
    reporter, loop = a_reporter(), asyncio.get_running_loop()
    async with session(reporter) as told:
        await asyncio.sleep(0)
        reporter.report(report(1))
        loop.call_soon(reporter.forget, "t1")
        await asyncio.sleep(INTERVAL_S)
    assert told.batches == []
