"""A world of jobs with schedules, for tests: its clock is moved by hand, its runs end when told to."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from common.model.job import JobMode, JobSpec, Overlap, RestartCondition, RestartPolicy, Schedule
from common.model.task import TaskState
from controller.core.recurrence import Outlook, look
from controller.core.runs import due_s, newest_first
from controller.core.views import over
from tests.world import World, web, with_task

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
NOON_S = datetime(2026, 6, 1, 12, 0, tzinfo=UTC).timestamp()


def nightly(cron: str = "0 3 * * *", name: str = "backup", **schedule: object) -> JobSpec:
    once = RestartPolicy(condition=RestartCondition.NONE)
    spec = with_task(web("backup:1", 1, name=name, mode=JobMode.BATCH), restart=once)
    return msgspec.structs.replace(spec, schedule=msgspec.structs.replace(Schedule(cron=cron), **schedule))


def overlapping(overlap: Overlap, **schedule: object) -> JobSpec:
    return nightly("*/10 * * * *", overlap=overlap, **schedule)


class Calendar(World):
    """`look` at the jobs is left to the test, or done minute by minute in `pass_time`."""

    def __init__(self, *specs: JobSpec) -> None:
        super().__init__()
        self.now_s = NOON_S
        self.writes = 0
        self.up(*specs)

    def look(self, name: str = "backup") -> Outlook:
        """Once, applied."""
        outlook = look(self.state, self.job(name), self.now_s, self.rng)
        for group in outlook.groups:
            self.writes += 1
            for change in group:
                self.state.apply(change)
        return outlook

    def at(self, now_s: float, name: str = "backup") -> None:
        """It is so late now, and all that follows from it is done."""
        self.now_s = now_s
        while self.look(name).groups:
            pass

    def until(self, now_s: float, name: str = "backup") -> None:
        """Time passes as a leader sees it: it wakes when something is due."""
        while (wake_at_s := self.look(name).wake_at_s) <= now_s:
            self.at(wake_at_s, name)
        self.at(now_s, name)

    def runs(self, name: str = "backup") -> list[str]:
        """Of those that are kept: when they were due, oldest first, and which ones have not ended (`03:00*`)."""
        return [
            f"{datetime.fromtimestamp(due_s(run), UTC):%H:%M}{'' if over(self.state, run) else '*'}"
            for run in reversed(newest_first(self.state, self.job(name)))
        ]

    def end(self, state: TaskState = TaskState.COMPLETE, name: str = "backup") -> None:
        """Everything that runs ends so."""
        for run in newest_first(self.state, self.job(name)):
            if over(self.state, run):
                continue
            for _ in range(3):
                self.decide(run.name)
                for task in self.tasks(run.name):
                    self.see(task if task.node_id else self.assign(task, "n1"), state)
