"""One session with one controller, from Register to its end: says what the node has, obeys what may be obeyed.

An epoch is on disk before anything of it is obeyed, and a lower one than the highest known is refused. Holds no state
beyond the session; which controller to talk to, and when again, is decided in `agent.session`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Iterator

import msgspec

from agent.asset_requests import AssetAsker
from agent.core import assignment_diff
from agent.core.assignment_diff import Accept, AskAgain, Chain, Ignore
from agent.endpoint_feed import EndpointFeed
from agent.exec_streams import ExecStreams
from agent.fence import SelfFence
from agent.journal import Journal
from agent.log_streams import LogStreams
from agent.reporter import Reporter
from agent.settings import TICK_S, AgentBounds, SessionTimers
from agent.usage_reports import UsageReporter, UsageSampler
from agent.volume_reports import VolumeKeeper
from agent.worker import Worker
from common.dispatch import AgentLink
from common.errors import Unavailable
from common.model.epoch import Epoch
from common.model.ids import Rng
from common.model.node import NodeDescription, RuntimeStatus
from common.model.resources import Usage
from common.model.session import (
    AgentBody,
    AgentMessage,
    AssetContent,
    Assignments,
    CloseExec,
    CloseLog,
    ControllerMessage,
    Endpoints,
    ExecInput,
    Heartbeat,
    HeartbeatAck,
    OpenExec,
    OpenLog,
    Redirect,
    Register,
    Registered,
    RemoveVolume,
    ResyncRequest,
    StatusAck,
    StreamCredit,
)

logger = logging.getLogger(__name__)

_OWN_DELAY_S = 0.1
"""A sleep that took so much longer says that this process, or the whole machine, had no turn."""
PERIODS_TO_ACKNOWLEDGE = 2
"""A heartbeat's acknowledgement may take at least so many periods, as the controller has it when a session begins."""

RESTORED = "stopped by its own agent: it is exclusive, and the cluster's store was restored to what it was before"


class Redirected(Exception):
    """The controller does not serve us."""

    def __init__(self, redirect: Redirect) -> None:
        self.redirect = redirect
        super().__init__(redirect.reason)


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the agent that a session speaks for."""

    worker: Worker
    reporter: Reporter
    feed: EndpointFeed
    journal: Journal
    fence: SelfFence
    describe: Callable[[], NodeDescription]
    usage: Callable[[], Usage]
    sampler: UsageSampler
    volumes: VolumeKeeper
    asker: AssetAsker
    runtimes: Callable[[], tuple[RuntimeStatus, ...]]
    timers: SessionTimers
    bounds: AgentBounds
    rng: Rng
    taken_in: asyncio.Event
    """Set once a controller has taken the node in: see `Surroundings`."""
    renew: Callable[[str], None] = lambda _authority: None
    """Have the node's certificate renewed unless it is of this authority."""
    instance: str = ""
    """Tells this process from another one with the same journal: a copy of its disk."""
    registrations: Iterator[int] = msgspec.field(default_factory=lambda: itertools.count(1))
    """Numbers them: a controller refuses one that it has heard."""


class Conversation:
    """See the module. `run` lasts until it raises `Unavailable` or `Redirected`."""

    def __init__(self, link: AgentLink, parts: Parts, registered: Callable[[Registered], None]) -> None:
        self._link = link
        self._parts = parts
        self._registered = registered
        self._outbox: asyncio.Queue[AgentBody] = asyncio.Queue(parts.bounds.outbox_messages)
        self._chain = Chain()
        self._now_s = asyncio.get_running_loop().time
        self._period_s = 0.0
        self._acknowledge_s = 0.0
        self._beat = 0
        self._unacknowledged: dict[int, float] = {}
        """Heartbeats by sequence, and when (loop time) each was made."""
        self._heard_s = 0.0
        """When (loop time) an acknowledgement came last: what comes late comes from somebody who is alive."""
        self._sent_s: dict[int, float] = {}
        """... and by when each was sent, by the clock of the node's permissions."""
        self._writing_since_s: float | None = None
        self._complete_due_s = 0.0
        """When (loop time) to ask again for a complete set; 0: none is waited for."""
        self._logs: LogStreams | None = None
        self._execs: ExecStreams | None = None
        self._removals: asyncio.Queue[RemoveVolume] = asyncio.Queue()
        self._usage = UsageReporter(parts.sampler, lambda: parts.feed.traffic, self._send)

    async def run(self) -> None:
        """Register, then talk."""
        await self._register()
        self._parts.feed.begin_session()
        try:
            async with asyncio.TaskGroup() as group:
                self._logs = LogStreams(self._parts.worker, self._parts.bounds, self._send, group)
                self._execs = ExecStreams(self._parts.worker, self._parts.bounds, self._send, group)
                group.create_task(self._receive_all(), name="session receive")
                group.create_task(self._send_all(), name="session send")
                group.create_task(self._beat_in_time(), name="session heartbeats")
                group.create_task(self._parts.reporter.run(self._send), name="session statuses")
                group.create_task(self._parts.feed.report(self._send), name="session endpoints")
                group.create_task(self._usage.run(), name="session usage")
                group.create_task(self._parts.volumes.report(self._send), name="session volumes")
                group.create_task(self._parts.asker.run(self._send), name="session configs and secrets")
                group.create_task(self._remove_volumes(), name="session removals of volumes")
        except ExceptionGroup as group_error:
            raise _foremost(group_error) from None

    # --- beginning

    async def _register(self) -> None:
        parts = self._parts
        timeout_s = parts.timers.register_timeout_s
        register = Register(
            node=parts.describe(),
            inventory=parts.worker.inventory(),
            highest_epoch=parts.journal.highest_epoch,
            instance=parts.instance,
            registration=next(parts.registrations),
        )
        try:
            async with asyncio.timeout(timeout_s):
                await self._link.send(AgentMessage(body=register))
                message = await self._link.receive()
        except TimeoutError:
            raise Unavailable(f"it did not answer the registration within {timeout_s:g} s") from None
        match message.body:
            case Redirect():
                raise Redirected(message.body)
            case Registered():
                self._check_epoch(message)
                self._begin(message.body)
            case _:
                raise Unavailable(f"it answered the registration with {type(message.body).__name__}")

    def _begin(self, registered: Registered) -> None:
        self._period_s = registered.heartbeat_period_s
        self._acknowledge_s = registered.acknowledge_timeout_s
        self._complete_due_s = self._now_s() + self._parts.timers.resync_again_s
        self._registered(registered)

    # --- receiving

    async def _receive_all(self) -> None:
        while True:
            message = await self._link.receive()
            if isinstance(message.body, Redirect):
                raise Redirected(message.body)
            self._check_epoch(message)
            await self._handle(message)

    def _check_epoch(self, message: ControllerMessage) -> None:
        """On disk before it is obeyed; an older one than we know is a zombie's."""
        highest = self._parts.journal.highest_epoch
        if message.epoch < highest:
            raise Unavailable(f"its epoch {_text(message.epoch)} is over: this node has obeyed {_text(highest)}")
        if message.epoch > highest:
            if message.epoch.generation > highest.generation and highest.term:
                self._parts.fence.renounce(RESTORED)
            self._parts.journal.remember_epoch(message.epoch)

    async def _handle(self, message: ControllerMessage) -> None:
        match message.body:
            case Assignments():
                await self._assigned(message.body)
            case Endpoints():
                if reason := self._parts.feed.take(message.body):
                    await self._ask_again(reason)
            case HeartbeatAck():
                self._acknowledged(message.body)
            case StatusAck(sequence=sequence):
                self._parts.reporter.acknowledge(sequence)
            case _:
                self._look_inside(message.body)

    def _look_inside(self, body: msgspec.Struct) -> None:
        """What engineers ask to see of tasks."""
        assert self._logs is not None
        assert self._execs is not None
        match body:
            case OpenLog():
                self._logs.open(body)
            case CloseLog():
                self._logs.close(body)
            case OpenExec():
                self._execs.open(body)
            case ExecInput():
                self._execs.input(body)
            case CloseExec():
                self._execs.close(body)
            case AssetContent():
                self._parts.asker.take(body)
            case RemoveVolume():
                self._removals.put_nowait(body)
            case StreamCredit():
                self._logs.credit(body)
                self._execs.credit(body)
            case _:
                logger.debug("a message that means nothing here: %s", type(body).__name__)

    async def _remove_volumes(self) -> None:
        """One after the other, beside everything else: deleting takes as long as there is to delete."""
        while True:
            await self._send(await self._parts.volumes.remove(await self._removals.get()))

    async def _assigned(self, orders: Assignments) -> None:
        worker = self._parts.worker
        at_stake = worker.live_tasks if orders.complete else 0
        self._chain, judgement = assignment_diff.follow(self._chain, orders, live_tasks=at_stake)
        match judgement:
            case Accept():
                if orders.complete:
                    self._complete_due_s = 0.0
                worker.obey(orders)
            case AskAgain(reason=reason):
                logger.warning("assignments are not obeyed: %s", reason)
                await self._ask_again(reason)
            case Ignore():
                pass

    async def _ask_again(self, reason: str) -> None:
        self._complete_due_s = self._now_s() + self._parts.timers.resync_again_s
        await self._send(ResyncRequest(reason=reason))

    # --- heartbeats

    async def _beat_in_time(self) -> None:
        while True:
            await self._send_heartbeat()
            early = self._parts.rng.random() * self._parts.timers.heartbeat_jitter
            await self._rest_until(self._now_s() + self._period_s * (1 - early))
            if self._complete_due_s and self._now_s() >= self._complete_due_s:
                await self._ask_again("the complete set that this node waits for has not come")

    async def _rest_until(self, at_s: float) -> None:
        """Sleep, and look in time at what must have been acknowledged or written by then.

        Silence has its deadline: a half-open connection would otherwise hang for minutes. One sleep for all messages:
        a timer for each would cost as much as the message.
        """
        while True:
            now_s = self._now_s()
            due_s = self._unheard_at_s
            if due_s <= now_s:
                raise self._unheard()
            if self._writing_since_s is not None:
                written_s = self._writing_since_s + self._parts.timers.send_timeout_s
                if written_s <= now_s:
                    raise Unavailable(f"it took no message for {self._parts.timers.send_timeout_s:g} s")
                due_s = min(due_s, written_s)
            if at_s - now_s < TICK_S:
                return
            wake_s = min(at_s, due_s)
            await asyncio.sleep(wake_s - now_s)
            self._excuse(self._now_s() - wake_s)

    @property
    def _unheard_at_s(self) -> float:
        """By when (loop time) the next acknowledgement must have come.

        A controller that is behind acknowledges late, but goes on doing so: to leave it would make it later still.
        """
        oldest_s = next(iter(self._unacknowledged.values()), math.inf)
        return max(oldest_s, self._heard_s) + self._acknowledge_s

    def _excuse(self, late_s: float) -> None:
        """This process was held up itself: what came meanwhile has not been read yet."""
        if late_s > _OWN_DELAY_S:
            patience_s = min(late_s, self._acknowledge_s)
            self._heard_s = max(self._heard_s, self._now_s() + patience_s - self._acknowledge_s)

    def _unheard(self) -> Unavailable:
        return Unavailable(f"no heartbeat was acknowledged within {self._acknowledge_s:g} s")

    async def _send_heartbeat(self) -> None:
        self._beat += 1
        self._unacknowledged[self._beat] = self._now_s()
        self._sent_s[self._beat] = self._parts.fence.now_s()  # before it waits for its turn: never too late
        beat = Heartbeat(sequence=self._beat, usage=self._parts.usage(), runtimes=self._parts.runtimes())
        if not self._outbox.full():
            self._outbox.put_nowait(beat)
            return
        try:
            async with asyncio.timeout_at(self._unheard_at_s):
                await self._outbox.put(beat)
        except TimeoutError:
            raise self._unheard() from None

    def _acknowledged(self, acknowledgement: HeartbeatAck) -> None:
        self._period_s = acknowledgement.next_period_s or self._period_s
        # The cluster may have grown since we registered: a leader that hears us every 5 s cannot be given up after 2.
        self._acknowledge_s = max(self._acknowledge_s, PERIODS_TO_ACKNOWLEDGE * self._period_s)
        self._usage.wanted(acknowledgement.usage_every_s)
        if acknowledgement.authority:
            self._parts.renew(acknowledgement.authority)
        heard = [beat for beat in self._unacknowledged if beat <= acknowledgement.sequence]
        for beat in heard:
            del self._unacknowledged[beat]
        if heard:
            self._heard_s = self._now_s()
            self._parts.fence.acknowledged(max(self._sent_s.pop(beat) for beat in heard))
        if acknowledgement.statuses:
            self._parts.reporter.acknowledge(acknowledgement.statuses)

    # --- sending

    async def _send(self, body: AgentBody) -> None:
        """Hand a message over, waiting while others are before it.

        Whoever sends may be cancelled at any moment (a log nobody reads any more), but a write of grpc.aio that is
        cancelled takes the whole session along: so all are written by one task that lives as long as the session.
        """
        await self._outbox.put(body)

    async def _send_all(self) -> None:
        outbox, link, now_s = self._outbox, self._link, self._now_s
        while True:
            body = await outbox.get()
            self._writing_since_s = now_s()
            await link.send(AgentMessage(body=body))
            self._writing_since_s = None


def _foremost(group: ExceptionGroup[Exception]) -> Exception:
    """Why the session ended. What is neither an end nor a redirect is a fault of ours, and counts most."""
    order = (Unavailable, Redirected)
    return max(group.exceptions, key=lambda error: 2 if not isinstance(error, order) else isinstance(error, Redirected))


def _text(epoch: Epoch) -> str:
    return f"{epoch.generation}.{epoch.term}"
