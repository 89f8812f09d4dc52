"""Brings the logs of a task, or of all tasks of a job, from their nodes to one engineer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from common.errors import Conflict, Invalid, Unavailable
from common.model.api import LogLines, LogsRequest
from common.model.job import Job
from common.model.task import Task
from controller.api.names import find_job_or_task
from controller.api.term import ApiTerm
from controller.dispatcher.logs import LogPart
from controller.ledger import Committed

TASKS_LIMIT = 256
"""Read at once: more lines than these write nobody reads side by side."""


async def read_logs(term: ApiTerm, request: LogsRequest, send: Callable[[LogLines], Awaitable[None]]) -> None:
    """Send the lines as they come, those of one task in order, until all logs have ended.

    With `follow` the log of a job also takes up tasks that it gets later, and lasts until cancelled.
    """
    found = find_job_or_task(term.state, request.namespace, request.name)
    reading = _Reading(term, request, send)
    if isinstance(found, Task):
        await reading.run([found], None)
        return
    tasks = sorted(term.state.tasks_of_job(found.id).values(), key=lambda task: (task.slot, task.created_at_s))
    await reading.run(tasks, found if request.follow else None)


class _Reading:
    def __init__(self, term: ApiTerm, request: LogsRequest, send: Callable[[LogLines], Awaitable[None]]) -> None:
        self._term = term
        self._request = request
        self._send_to = send
        self._sending = asyncio.Lock()
        self._read: dict[str, None] = {}
        self._fresh: asyncio.Queue[Task] = asyncio.Queue()

    async def run(self, tasks: Iterable[Task], follow: Job | None) -> None:
        placed = [task for task in tasks if task.node_id]
        if len(placed) > TASKS_LIMIT:
            text = f"has {len(placed)} tasks; the logs of at most {TASKS_LIMIT} are read at once: name one task"
            raise Invalid(f"{self._request.name} {text}")
        unsubscribe = self._term.ledger.subscribe(lambda committed: self._committed(committed, follow))
        try:
            async with asyncio.TaskGroup() as group:
                for task in placed:
                    self._read[task.id] = None
                    group.create_task(self._one(task))
                while follow is not None:
                    task = await self._fresh.get()
                    self._read[task.id] = None
                    group.create_task(self._one(task))
        finally:
            unsubscribe()

    def _committed(self, committed: Committed, follow: Job | None) -> None:
        """Take up tasks of the followed job that just got a node."""
        for applied in committed.applied:
            task = applied.after
            fresh = isinstance(task, Task) and task.node_id and task.id not in self._read
            if follow is not None and isinstance(task, Task) and fresh and task.job_id == follow.id:
                self._read[task.id] = None
                self._fresh.put_nowait(task)

    async def _one(self, task: Task) -> None:
        request = self._request
        try:
            async with self._term.logs.open(
                task.node_id, task.id, tail=request.tail, since_s=request.since_s, follow=request.follow
            ) as reader:
                done = False
                while not done:
                    part = await reader.read()
                    done = part.done
                    await self._send(task, part)
        except (Unavailable, Conflict) as error:
            await self._warn(f"{task.job}.{task.slot} ({task.id}): {error}")

    async def _send(self, task: Task, part: LogPart) -> None:
        lines = tuple(
            msgspec.structs.replace(line, task_id=task.id, job=task.job_name, slot=task.slot) for line in part.lines
        )
        who = f"{task.job}.{task.slot} ({task.id})"
        warnings = [f"{who}: {part.dropped} lines were dropped: they came faster than they were read"]
        warnings = warnings if part.dropped else []
        if part.error:
            warnings.append(f"{who}: {part.error}")
        if lines or warnings:
            async with self._sending:
                await self._send_to(LogLines(lines=lines, warnings=tuple(warnings)))

    async def _warn(self, text: str) -> None:
        async with self._sending:
            await self._send_to(LogLines(warnings=(text,)))
