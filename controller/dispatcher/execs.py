"""Carries what engineers and the programs they run inside tasks say to each other, over the sessions of nodes.

Holds a bounded amount of either direction: input waits until the node allows more, and the node is allowed more output
as it is read. Knows nothing of terminals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from common.credit import Credit
from common.errors import Conflict, Unavailable
from common.model.ids import Rng, new_id
from common.model.session import CloseExec, ExecInput, ExecOutput, OpenExec, Program, StreamCredit, input_cost
from controller.dispatcher.logs import Post
from controller.dispatcher.settings import DispatcherSettings


class ExecChannel:
    """One program: its input goes in, its output comes out."""

    def __init__(self, node_id: str, request_id: str, post: Post, window_bytes: int) -> None:
        self.node_id = node_id
        self._id = request_id
        self._post = post
        self._window_bytes = window_bytes
        self._allowed = Credit(0)
        self._outputs: deque[ExecOutput] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._done = False

    async def send(self, given: ExecInput) -> None:
        """Give the program input, once its node takes it. Raises `Unavailable` when the node is gone."""
        await self._allowed.spend(input_cost(given))
        if not self._post(self.node_id, msgspec.structs.replace(given, request_id=self._id)):
            raise Unavailable("its node is not connected any more")

    async def read(self) -> ExecOutput:
        """What comes next; after one with `done` there is no other. Reading on lets the node send more."""
        while not self._outputs:
            self._arrived.clear()
            await self._arrived.wait()
        output = self._outputs.popleft()
        if output.content:
            self._waiting_bytes -= len(output.content)
            self._post(self.node_id, StreamCredit(request_id=self._id, amount=len(output.content)))
        return msgspec.structs.replace(output, request_id="")

    def put(self, output: ExecOutput) -> None:
        """The node sent it. One that sends more than it may is not listened to any more."""
        if self._done:
            return
        if self._waiting_bytes + len(output.content) > 2 * self._window_bytes:
            output = ExecOutput(done=True, error="its node sent more output than it was allowed")
        self._done = output.done
        self._waiting_bytes += len(output.content)
        self._outputs.append(output)
        self._arrived.set()

    def allow(self, amount: int) -> None:
        self._allowed.add(amount)


class ExecRouter:
    """See the module."""

    def __init__(self, post: Post, rng: Rng, settings: DispatcherSettings) -> None:
        self._post = post
        self._rng = rng
        self._settings = settings
        self._channels: dict[str, ExecChannel] = {}

    @property
    def begin_timeout_s(self) -> float:
        return self._settings.exec_begin_timeout_s

    @asynccontextmanager
    async def open(self, node_id: str, task_id: str, program: Program) -> AsyncIterator[ExecChannel]:
        """Run a program inside a task of a node for as long as the context lasts.

        Raises `Unavailable` when the node is not connected, `Conflict` when too many run on it.
        """
        limit = self._settings.execs_per_node
        if sum(channel.node_id == node_id for channel in self._channels.values()) >= limit:
            raise Conflict(f"{limit} programs are run inside tasks of its node already; end one first")
        request_id, window = new_id(self._rng), self._settings.exec_window_bytes
        channel = ExecChannel(node_id, request_id, self._post, window)
        if not self._post(node_id, OpenExec(request_id=request_id, task_id=task_id, program=program, window=window)):
            raise Unavailable("its node is not connected: nothing can be run there")
        self._channels[request_id] = channel
        try:
            yield channel
        finally:
            del self._channels[request_id]
            self._post(node_id, CloseExec(request_id=request_id))

    def route(self, node_id: str, output: ExecOutput) -> None:
        """An agent sent output. Of a program nobody (on this node) asked for it is dropped: its engineer just left."""
        channel = self._channels.get(output.request_id)
        if channel is not None and channel.node_id == node_id:
            channel.put(output)

    def credit(self, node_id: str, more: StreamCredit) -> None:
        """An agent takes more input."""
        channel = self._channels.get(more.request_id)
        if channel is not None and channel.node_id == node_id:
            channel.allow(more.amount)

    def node_left(self, node_id: str) -> None:
        """The node's session ended, and the programs with it."""
        for channel in self._channels.values():
            if channel.node_id == node_id:
                channel.put(ExecOutput(done=True, error="the node's connection broke, and the program was ended"))
