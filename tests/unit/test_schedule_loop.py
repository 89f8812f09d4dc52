"""The loop of schedules: one timer, no writes while nothing is due, and a new leader goes on where the old one was."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from common.model.job import Job
from common.model.task import TaskState
from controller.core.runs import due_s
from controller.loops.convergence import ConvergenceLoop
from controller.loops.schedules import ScheduleLoop
from controller.store.keys import Record
from tests.builders import node
from tests.loops_rig import LoopsRig, rig, running
from tests.schedules import DAY_S, HOUR_S, MINUTE_S, NOON_S, nightly
from tests.virtual_time import on_virtual_time


class Clock:
    """Goes with the loop's time, from whenever it is set to."""

    def __init__(self, now_s: float = NOON_S) -> None:
        self.set(now_s)

    def set(self, now_s: float) -> None:
        self._ahead_s = now_s - asyncio.get_running_loop().time()

    def __call__(self) -> float:
        return self._ahead_s + asyncio.get_running_loop().time()


class CalendarRig(LoopsRig):
    clock: Clock

    @property
    def now_s(self) -> float:
        return self.clock()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Within a day, of which none really passes."""
        async with asyncio.timeout(DAY_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def last(self) -> Job:
        return max((job for job in self.state.jobs.values() if job.run_of), key=due_s)

    def runs(self) -> list[str]:
        runs = sorted(due_s(job) for job in self.state.jobs.values() if job.run_of)
        return [f"{datetime.fromtimestamp(at_s, UTC):%d. %H:%M}" for at_s in runs]


@asynccontextmanager
async def leading(clock: Clock, records: Iterable[Record] = ()) -> AsyncIterator[CalendarRig]:
    """A term that begins with these records."""
    async with rig(records) as plain:
        world = CalendarRig(plain.store, plain.ledger)
        world.clock = clock
        world.rng = random.Random(clock())  # a later term draws other ids
        schedules = ScheduleLoop(world.ledger, clock=clock, rng=world.rng)
        convergence = ConvergenceLoop(world.ledger, world.presence, clock=clock, rng=world.rng)
        async with running(schedules.run, convergence.run):
            yield world


async def finish(world: CalendarRig) -> None:
    """Every task that there is completes."""
    await world.ready(node("n1"))
    await world.at_rest()
    for task in list(world.state.tasks.values()):
        if not task.ended:
            await world.see(task, TaskState.COMPLETE)
    await world.at_rest()


@on_virtual_time
async def test_runs_start_when_they_are_due_and_get_their_tasks() -> None:
    clock = Clock()
    async with leading(clock) as world:
        await world.up(nightly("0 * * * *"))
        for hour in range(1, 4):
            await world.until(lambda hour=hour: len(world.runs()) == hour)
            assert clock() - (NOON_S + hour * HOUR_S) < 0.01
            await world.at_rest()
            assert [task.job for task in world.state.tasks.values() if not task.ended] == [world.last().name]
            await finish(world)
        assert world.runs() == ["01. 13:00", "01. 14:00", "01. 15:00"]


@on_virtual_time
async def test_an_idle_schedule_writes_nothing_and_no_schedule_sets_no_timer() -> None:
    clock = Clock()
    async with leading(clock) as world:
        await world.at_rest()
        before = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]
        await world.up(nightly())
        await world.at_rest()
        assert len(asyncio.get_running_loop()._scheduled) > before  # type: ignore[attr-defined]
        commits = len(world.store.commits)
        await asyncio.sleep(14 * HOUR_S)
        assert len(world.store.commits) == commits


@on_virtual_time
async def test_a_new_leader_runs_neither_what_ran_nor_loses_what_was_due() -> None:
    clock = Clock()
    async with leading(clock) as world:
        await world.up(nightly("*/10 * * * *", keep=50))
        await world.until(lambda: len(world.runs()) == 1)
        await world.at_rest()
        await finish(world)
        records = list(world.state.records())
    async with leading(clock, records) as world:  # at once
        await world.at_rest()
        assert world.runs() == ["01. 12:10"]
        await world.until(lambda: len(world.runs()) == 2)
        await finish(world)
        records = list(world.state.records())
    await asyncio.sleep(5 * HOUR_S + 3 * MINUTE_S)
    async with leading(clock, records) as world:  # after hours without any
        await world.until(lambda: len(world.runs()) == 3)
        await finish(world)
        await world.until(lambda: len(world.runs()) == 4)
        assert world.runs() == ["01. 12:10", "01. 12:20", "01. 17:20", "01. 17:30"]


@on_virtual_time
async def test_a_leader_that_dies_with_its_commit_on_the_way_leaves_all_of_it_or_nothing() -> None:
    clock = Clock()
    async with leading(clock) as world:
        await world.up(nightly("0 13 * * *"))
        await world.at_rest()
        records = list(world.state.records())
        world.store.commit_gate.clear()
        await asyncio.sleep(HOUR_S + 1)
        assert world.runs() == []
    async with leading(clock, records) as world:
        await world.until(lambda: len(world.runs()) == 1)
        await world.at_rest()
        assert world.runs() == ["01. 13:00"]


@on_virtual_time
async def test_a_clock_that_is_set_while_the_timer_runs_is_noticed() -> None:
    clock = Clock()
    async with leading(clock) as world:
        await world.up(nightly())
        await world.at_rest()
        clock.set(NOON_S + 15 * HOUR_S - 5 * MINUTE_S)
        await asyncio.sleep(5 * MINUTE_S + 1)
        await world.at_rest()
        assert world.runs() == ["02. 03:00"]
        await finish(world)
        clock.set(NOON_S + 15 * HOUR_S + 730 * DAY_S)
        await asyncio.sleep(2 * MINUTE_S)
        await finish(world)
        assert len(world.runs()) == 2
        clock.set(NOON_S + 16 * HOUR_S)
        await asyncio.sleep(24 * HOUR_S)
        await world.at_rest()
        assert world.runs()[1] == "03. 03:00"
