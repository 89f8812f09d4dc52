"""One agent's session after its registration: carries messages both ways until either side ends it.

What is sent waits in a bounded outbox; a node that falls too far behind loses its session and begins anew. Every
message carries the term's epoch. What a message of the agent means is the dispatcher's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeAlias

from common.dispatch import ControllerLink
from common.errors import Invalid, Unavailable
from common.model.epoch import Epoch
from common.model.session import AgentMessage, ControllerBody, ControllerMessage, Redirect, StatusAck
from common.model.task import TaskReport
from common.settings import LIMITS
from controller.core.endpoints import Relay
from controller.dispatcher.assignments import AssignmentSet
from controller.dispatcher.endpoint_messages import EndpointMessages
from controller.dispatcher.settings import DispatcherSettings

logger = logging.getLogger(__name__)

Body: TypeAlias = ControllerBody
Handler: TypeAlias = Callable[["Session", AgentMessage], None]
"""Called with each message; must not block. Raises `Invalid` for one that an agent must not send."""


class Session:
    """See the module."""

    def __init__(
        self,
        link: ControllerLink,
        epoch: Epoch,
        *,
        session_id: str,
        node_id: str,
        node_name: str,
        instance: str,
        peer: str,
        assignments: AssignmentSet,
        endpoints: EndpointMessages,
        settings: DispatcherSettings,
        missing: tuple[TaskReport, ...] = (),
    ) -> None:
        self.id = session_id
        self.node_id = node_id
        self.node_name = node_name
        self.instance = instance
        """Of the agent's process; empty for an older agent, which does not say."""
        self.peer = peer
        self.assignments = assignments
        self.endpoints = endpoints
        self.missing = missing
        """The end of tasks that the node seems to have lost, until it has said anything in this session."""
        self.draining: frozenset[str] = frozenset()
        """Withdrawn tasks that still have connections through the node's data plane, as it said in this session."""
        self._link = link
        self._epoch = epoch
        self._settings = settings
        self._outbox: asyncio.Queue[Body] = asyncio.Queue(settings.outbox_messages)
        self._last_beat_s: float | None = None
        self._sequences: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._sending_since_s: float | None = None
        self._stored = 0
        self._told_stored = 0
        """Up to which of its batches the node was told that they are in the store."""
        self._ended: asyncio.Future[Redirect] = asyncio.get_running_loop().create_future()

    @property
    def relay(self) -> Relay:
        """How far the node's data plane said it is, in this session."""
        return Relay(revision=self.endpoints.reached, draining=self.draining)

    def post(self, body: Body) -> None:
        """Send in order, without waiting. A full outbox ends the session."""
        try:
            self._outbox.put_nowait(body)
        except asyncio.QueueFull:
            self.end(f"the node is {self._settings.outbox_messages} messages behind")

    @property
    def waiting(self) -> int:
        """Messages that the node has not taken yet."""
        return self._outbox.qsize()

    def acknowledge(self, sequence: int) -> None:
        """These are in the store: told with the next heartbeat's acknowledgement, at once when the node may wait."""
        self._stored = sequence
        if sequence - self._told_stored >= self._settings.unacknowledged_batches:
            self.post(StatusAck(sequence=self.stored()))

    def stored(self) -> int:
        """The last batch that is in the store; from now on the node knows."""
        self._told_stored = self._stored
        return self._stored

    def end(self, reason: str, *, leader: str = "", retry_after_s: float = 0.0) -> None:
        """Close the session soon, with a last word to the agent."""
        if not self._ended.done():
            self._ended.set_result(Redirect(leader=leader, reason=reason, retry_after_s=retry_after_s))

    def check_order(self, kind: str, sequence: int) -> None:
        """Raises `Invalid` for a message that was sent before: agents number those of a kind upwards."""
        before = self._sequences.get(kind, 0)
        if not before < sequence <= LIMITS.largest_integer:
            raise Invalid(f"{kind} {sequence} came after {before}: it is an old one, sent again")
        self._sequences[kind] = sequence

    def check(self, now_s: float, silence_limit_s: float) -> None:
        """Close a session that says nothing, or takes nothing. Looked at from outside: a timer for each message would
        cost as much as the message."""
        if now_s - self._heard_s > silence_limit_s:
            self._give_up(f"nothing was heard for {silence_limit_s:g} s")
        elif self._sending_since_s is not None and now_s - self._sending_since_s > self._settings.send_timeout_s:
            self._give_up(f"it took no message for {self._settings.send_timeout_s:g} s")

    def _give_up(self, reason: str) -> None:
        """Without a last word: it would not arrive."""
        if not self._ended.done():
            self._ended.set_exception(Unavailable(reason))

    def late_s(self, now_s: float, period_s: float) -> float:
        """How late a heartbeat that came at `now_s` is against the one before it."""
        before_s, self._last_beat_s = self._last_beat_s, now_s
        return 0.0 if before_s is None else max(0.0, now_s - before_s - period_s)

    async def run(self, handle: Handler) -> None:
        """Until the link or the session ends. Raises what `handle` raises."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all(), name=f"send {self.node_name}")
                group.create_task(self._receive_all(handle), name=f"receive {self.node_name}")
                raise _Over(await self._ended)
        except ExceptionGroup as group:
            await self._ended_by(group.exceptions[0])

    async def _ended_by(self, error: Exception) -> None:
        match error:
            case _Over(farewell=farewell):
                logger.info("node %s: session of %s closed: %s", self.node_name, self.peer, farewell.reason)
                await self._say_farewell(farewell)
            case Unavailable():
                logger.info("node %s: session of %s ended: %s", self.node_name, self.peer, error)
            case _:
                raise error

    async def _send_all(self) -> None:
        outbox, now_s = self._outbox, self._loop.time
        while True:
            body = await outbox.get()
            self._sending_since_s = now_s()
            await self._link.send(ControllerMessage(epoch=self._epoch, body=body))
            self._sending_since_s = None

    async def _receive_all(self, handle: Handler) -> None:
        receive, now_s = self._link.receive, self._loop.time
        while True:
            message = await receive()
            self._heard_s = now_s()
            handle(self, message)

    async def _say_farewell(self, farewell: Redirect) -> None:
        try:
            async with asyncio.timeout(self._settings.farewell_timeout_s):
                await self._link.send(ControllerMessage(epoch=self._epoch, body=farewell))
        except (TimeoutError, Unavailable) as error:
            logger.debug("node %s: no last word: %s", self.node_name, error)


class _Over(Exception):
    """Ends the session's tasks."""

    def __init__(self, farewell: Redirect) -> None:
        self.farewell = farewell
        super().__init__(farewell.reason)
