"""Brings the logs of a task, or of all tasks of a job, from their nodes to one engineer, merged by time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress

import msgspec

from common.errors import Conflict, Invalid, Unavailable
from common.model.api import LogLines, LogsRequest
from common.model.job import Job
from common.model.task import Task
from controller.api.names import find_job_or_task
from controller.api.term import ApiTerm
from controller.core.log_merge import FOLLOWING, READING, LogMerge
from controller.dispatcher.logs import LogPart
from controller.ledger import Committed

TASKS_LIMIT = 256
"""Read at once: more lines than these write nobody reads side by side."""
LINES_PER_MESSAGE = 500
LINES_WAITING = 2_000
"""Of one task, to be merged. Then its log is left alone until some have gone out."""


async def read_logs(term: ApiTerm, request: LogsRequest, send: Callable[[LogLines], Awaitable[None]]) -> None:
    """Send the lines by their times, those of one task in their own order, until all logs have ended.

    With `follow` the log of a job also takes up tasks that it gets later, and lasts until cancelled.
    """
    found = find_job_or_task(term.state, request.namespace, request.name)
    reading = _Reading(term, request, send)
    if isinstance(found, Task):
        await reading.run([found], None)
        return
    tasks = sorted(term.state.tasks_of_job(found.id).values(), key=lambda task: (task.slot, task.created_at_s))
    await reading.run(tasks, found)


class _Reading:
    """One log task for each task, which fill the merge, and one that empties it into the engineer's stream."""

    def __init__(self, term: ApiTerm, request: LogsRequest, send: Callable[[LogLines], Awaitable[None]]) -> None:
        self._term = term
        self._request = request
        self._send = send
        self._merge = LogMerge(FOLLOWING if request.follow else READING)
        self._warnings: list[str] = []
        self._lost: dict[str, int] = {}
        """Lines by task that were dropped and nobody was told of."""
        self._ended: set[str] = set()
        """Tasks of a job that had ended before, and whose logs have not answered yet."""
        self._gone = 0
        """Of those, how many have left no output."""
        self._read: dict[str, None] = {}
        self._open: set[str] = set()
        self._changed = asyncio.Event()
        self._taken = asyncio.Condition()

    async def run(self, tasks: Iterable[Task], job: Job | None) -> None:
        """`job`: all of its tasks are asked for, not one by its name."""
        follow = job if self._request.follow else None
        placed = [task for task in tasks if task.node_id]
        if len(placed) > TASKS_LIMIT:
            text = f"has {len(placed)} tasks; the logs of at most {TASKS_LIMIT} are read at once: name one task"
            raise Invalid(f"{self._request.name} {text}")
        if job is not None:
            self._ended = {task.id for task in placed if task.ended}
        async with asyncio.TaskGroup() as group:

            def committed(changes: Committed) -> None:
                for task in self._fresh(changes, follow):
                    self._take_up(task, group)

            unsubscribe = self._term.ledger.subscribe(committed)
            try:
                for task in placed:
                    self._take_up(task, group)
                await self._send_merged(endless=follow is not None)
            finally:
                unsubscribe()

    def _take_up(self, task: Task, group: asyncio.TaskGroup) -> None:
        self._read[task.id] = None
        self._open.add(task.id)
        self._merge.open(task.id, _now_s())
        group.create_task(self._one(task), name=f"log {task.id}")

    def _fresh(self, committed: Committed, follow: Job | None) -> Iterator[Task]:
        """Tasks of the followed job that just got a node; those beyond the limit are told of and left out."""
        for applied in committed.applied:
            task = applied.after
            if follow is None or not isinstance(task, Task) or task.job_id != follow.id or not task.node_id:
                continue
            if task.id not in self._read and len(self._open) < TASKS_LIMIT:
                yield task
            elif task.id not in self._read:
                self._read[task.id] = None
                self._warn(f"{_who(task)}: {TASKS_LIMIT} logs are read already; this one is left out")

    async def _one(self, task: Task) -> None:
        request = self._request
        try:
            async with self._term.logs.open(
                task.node_id, task.id, tail=request.tail, since_s=request.since_s, follow=request.follow
            ) as reader:
                done = False
                while not done:
                    await self._room(task)
                    part = await reader.read()
                    done = part.done
                    self._add(task, part)
        except (Unavailable, Conflict) as error:
            self._warn(f"{_who(task)}: {error}")
        finally:
            self._ended.discard(task.id)
            self._merge.close(task.id)
            self._open.discard(task.id)
            self._changed.set()

    async def _room(self, task: Task) -> None:
        async with self._taken:
            await self._taken.wait_for(lambda: self._merge.waiting(task.id) < LINES_WAITING)

    def _add(self, task: Task, part: LogPart) -> None:
        lines = [
            msgspec.structs.replace(line, task_id=task.id, job=task.job_name, slot=task.slot) for line in part.lines
        ]
        self._merge.add(task.id, lines, _now_s())
        if part.dropped:
            self._lost[_who(task)] = self._lost.get(_who(task), 0) + part.dropped
        if part.error and task.id in self._ended and not lines:
            self._gone += 1  # of each version before there are as many: nobody reads a line for each
        elif part.error:
            self._warn(f"{_who(task)}: {part.error}")
        self._changed.set()

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._changed.set()

    async def _send_merged(self, *, endless: bool) -> None:
        """Until all logs have ended and all lines are sent."""
        while True:
            self._changed.clear()
            lines, again_s = self._merge.take(_now_s(), LINES_PER_MESSAGE)
            warnings = self._take_warnings()
            if lines or warnings:
                async with self._taken:
                    self._taken.notify_all()
                await self._send(LogLines(lines=tuple(lines), warnings=warnings))
            elif again_s is None and not self._open and not endless:
                return
            else:
                await self._wait_until(again_s)

    async def _wait_until(self, again_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(again_s):
                await self._changed.wait()

    def _take_warnings(self) -> tuple[str, ...]:
        lost = [
            f"{who}: {lines} lines were dropped: they came faster than they were read"
            for who, lines in self._lost.items()
        ]
        gone = ""
        if self._gone and not self._ended:
            tasks = "tasks" if self._gone > 1 else "task"
            gone = f"{self._gone} {tasks} that ended earlier: the output is not kept any more"
            self._gone = 0
        taken = (*lost, *self._warnings, *([gone] if gone else []))
        self._lost.clear()
        self._warnings.clear()
        return taken


def _who(task: Task) -> str:
    return f"{task.job}.{task.slot} ({task.id})"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
