"""Brings the log lines that agents send to the reader that asked for them.

Every request has a bounded queue. What is followed does not wait for its reader: one slower than the log loses lines,
which are counted. What is only read is asked for piece by piece as it is read, so nothing of it is lost. Neither holds
the node's session up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from common.errors import Conflict, Unavailable
from common.model.ids import Rng, new_id
from common.model.session import CloseLog, LogChunk, LogLine, OpenLog, StreamCredit
from controller.dispatcher.session import Body
from controller.dispatcher.settings import DispatcherSettings

Post = Callable[[str, Body], bool]
"""Send to the session of a node by its id; False when it has none."""


class LogPart(msgspec.Struct, frozen=True, kw_only=True):
    lines: tuple[LogLine, ...] = ()
    dropped: int = 0
    """Lines lost before these."""
    done: bool = False
    error: str = ""


class LogReader:
    """One open request: what came and was not read yet."""

    def __init__(
        self, node_id: str, task_id: str, limit: int, used: Callable[[int], object] = lambda _lines: None
    ) -> None:
        self.node_id = node_id
        self._task_id = task_id
        self._limit = limit
        self._used = used
        self._lines: deque[LogLine] = deque()
        self._dropped = 0
        self._done = False
        self._error = ""
        self._arrived = asyncio.Event()

    def put(self, chunk: LogChunk) -> None:
        """Lines of another task than was asked for are none of ours."""
        for line in chunk.lines:
            if line.task_id != self._task_id:
                continue
            if len(self._lines) >= self._limit:
                self._lines.popleft()
                self._dropped += 1
            self._lines.append(line)
        self._done = self._done or chunk.done or bool(chunk.error)
        self._error = self._error or chunk.error
        self._arrived.set()

    async def read(self) -> LogPart:
        """What has come since the last read, waiting for something; after a part with `done` there is no other."""
        await self._arrived.wait()
        self._arrived.clear()
        part = LogPart(lines=tuple(self._lines), dropped=self._dropped, done=self._done, error=self._error)
        self._lines.clear()
        self._dropped = 0
        if part.lines:
            self._used(len(part.lines))
        return part


class LogRouter:
    """See the module."""

    def __init__(self, post: Post, rng: Rng, settings: DispatcherSettings) -> None:
        self._post = post
        self._rng = rng
        self._settings = settings
        self._readers: dict[str, LogReader] = {}
        self._open_on: dict[str, int] = {}

    @asynccontextmanager
    async def open(
        self, node_id: str, task_id: str, *, tail: int = -1, since_s: float = 0.0, follow: bool = False
    ) -> AsyncIterator[LogReader]:
        """Ask a task's node for its log. Raises `Unavailable` when the node is not connected, `Conflict` when too
        many logs of the node are open."""
        if self._open_on.get(node_id, 0) >= self._settings.log_requests_per_node:
            raise Conflict(f"{self._open_on[node_id]} logs of this node are open already; close one first")
        request_id = new_id(self._rng)
        limit = self._settings.log_lines_waiting
        window = 0 if follow else limit // 2  # a piece may exceed it: what comes then has room all the same
        request = OpenLog(
            request_id=request_id, task_id=task_id, tail=tail, since_s=since_s, follow=follow, window=window
        )
        if not self._post(node_id, request):
            raise Unavailable("its node is not connected; the log is kept there")

        def used(lines: int) -> None:
            if window:
                self._post(node_id, StreamCredit(request_id=request_id, amount=lines))

        reader = self._readers[request_id] = LogReader(node_id, task_id, limit, used)
        self._open_on[node_id] = self._open_on.get(node_id, 0) + 1
        try:
            yield reader
        finally:
            self._close(request_id, node_id)

    def route(self, node_id: str, chunk: LogChunk) -> None:
        """An agent sent lines. Those nobody (on this node) asked for are dropped: their reader just left."""
        reader = self._readers.get(chunk.request_id)
        if reader is not None and reader.node_id == node_id:
            reader.put(chunk)

    def node_left(self, node_id: str) -> None:
        """The node's session ended: what it has not sent will not come."""
        for request_id, reader in self._readers.items():
            if reader.node_id == node_id:
                reader.put(LogChunk(request_id=request_id, done=True, error="the node's connection broke"))

    def _close(self, request_id: str, node_id: str) -> None:
        self._readers.pop(request_id, None)
        left = self._open_on.get(node_id, 1) - 1
        if left:
            self._open_on[node_id] = left
        else:
            self._open_on.pop(node_id, None)
        self._post(node_id, CloseLog(request_id=request_id))
