"""What a stream has told so far, so that it can be resumed where it broke off: jobs watched, events and logs seen."""

from __future__ import annotations

from collections.abc import Iterable

from common.model.api import JobDelta, JobDetail, WatchedJobs
from common.model.event import Event
from common.model.session import LogLine


class Watched:
    """The jobs of one stream: whole at first, then as the deltas change them."""

    def __init__(self) -> None:
        self._jobs: dict[str, WatchedJob] = {}

    def take(self, answer: WatchedJobs) -> None:
        for detail in answer.jobs:
            name = detail.view.job.full_name
            if detail.view.job.removed and not detail.tasks:
                self._jobs.pop(name, None)
            else:
                self._jobs[name] = WatchedJob(detail)
        for delta in answer.deltas:
            self._jobs[delta.view.job.full_name].take(delta)

    def jobs(self) -> tuple[JobDetail, ...]:
        """By name."""
        return tuple(self._jobs[name].detail() for name in sorted(self._jobs))


class WatchedJob:
    def __init__(self, detail: JobDetail) -> None:
        self._view = detail.view
        self._tasks = {view.task.id: view for view in detail.tasks}
        self._slots = {slot.slot: slot for slot in detail.slots}
        self._detail: JobDetail | None = detail

    def take(self, delta: JobDelta) -> None:
        self._view = delta.view
        self._tasks.update((view.task.id, view) for view in delta.tasks)
        for task_id in delta.gone:
            self._tasks.pop(task_id, None)
        self._slots.update((slot.slot, slot) for slot in delta.slots)
        self._detail = None

    def detail(self) -> JobDetail:
        if self._detail is None:
            tasks = tuple(sorted(self._tasks.values(), key=lambda view: view.order))
            slots = tuple(slot for _, slot in sorted(self._slots.items()))
            self._detail = JobDetail(view=self._view, tasks=tasks, slots=slots)
        return self._detail


class EventsSeen:
    """Where a broken event stream is taken up, without repeating what was shown."""

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self._latest: set[Event] = set()

    def fresh(self, events: Iterable[Event]) -> list[Event]:
        return [event for event in events if self._note(event)]

    def _note(self, event: Event) -> bool:
        if event in self._latest:
            return False
        if event.time_s > self.since_s:
            self.since_s = event.time_s
            self._latest.clear()
        self._latest.add(event)
        return True


class LogsSeen:
    """Where a broken log is taken up: per task the time of its last line, since nodes lag behind each other."""

    def __init__(self) -> None:
        self.untimed = False
        self._shown_s: dict[str, float] = {}
        self._floor_s: dict[str, float] = {}

    @property
    def since_s(self) -> float:
        """Ask again from here, and let it be known which lines repeat."""
        self._floor_s = dict(self._shown_s)
        return min(self._shown_s.values(), default=0.0)

    def fresh(self, lines: Iterable[LogLine]) -> tuple[LogLine, ...]:
        return tuple(line for line in lines if self._note(line))

    def _note(self, line: LogLine) -> bool:
        self.untimed = self.untimed or not line.time_s
        if line.time_s and line.time_s <= self._floor_s.get(line.task_id, 0.0):
            return False
        self._shown_s[line.task_id] = max(line.time_s, self._shown_s.get(line.task_id, 0.0))
        return True
