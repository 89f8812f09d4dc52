"""The controller's side of every agent's session during one term.

Takes nodes in, tells each what to run and where traffic goes, once that is committed, and brings what they report into
the ledger and the presence. One per term: it ends with the term, or ends the term when it learns that another one has
begun. Never decides what should run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable
from typing import TypeAlias, assert_never
from weakref import WeakValueDictionary

from msgspec.structs import replace

from common.dispatch import ControllerLink
from common.errors import Invalid, Superseded, Unavailable
from common.model.asset import Asset
from common.model.epoch import Epoch
from common.model.ids import Rng, new_id
from common.model.job import Job
from common.model.node import Node, NodeCondition
from common.model.session import (
    AgentBody,
    AgentMessage,
    AssetRequest,
    ControllerMessage,
    EndpointsApplied,
    ExecOutput,
    Heartbeat,
    HeartbeatAck,
    LogChunk,
    Redirect,
    Register,
    Registered,
    ResyncRequest,
    StatusBatch,
    StreamCredit,
    UsageReport,
    VolumeRemoved,
    VolumeReport,
)
from common.model.task import Task
from common.model.trust import Kind
from controller.core.audience import Interests, interests
from controller.core.certificates import Opener, showing
from controller.core.confine import confined, strays_fault
from controller.core.endpoints import reach, silent
from controller.core.strays import strays_of
from controller.dispatcher import registration
from controller.dispatcher.assets import AssetGiver
from controller.dispatcher.assignments import AssignmentSet
from controller.dispatcher.doorkeeper import Doorkeeper
from controller.dispatcher.endpoint_board import EndpointBoard
from controller.dispatcher.endpoint_messages import EndpointMessages
from controller.dispatcher.execs import ExecRouter
from controller.dispatcher.gate import TrafficGate
from controller.dispatcher.logs import LogRouter
from controller.dispatcher.registration import Holder, Taken
from controller.dispatcher.rivals import Rivals
from controller.dispatcher.session import Body, Session
from controller.dispatcher.settings import SETTINGS, DispatcherSettings
from controller.dispatcher.statuses import StatusInbox, missing_from
from controller.dispatcher.volumes import VolumeRouter
from controller.ledger import Committed, Ledger
from controller.measurements import Measurements
from controller.presence import Presence
from controller.settings import Timers
from controller.state import Applied
from controller.store.keys import Record

logger = logging.getLogger(__name__)

NODES_PER_TURN = 50
"""Told of their tasks without a break, 5 ms: heartbeats must not wait for a thousand of them."""
LOOKS_PER_LIMIT = 4
"""At sessions that may have been silent for too long: one is closed at most a quarter late."""

HeartbeatObserver: TypeAlias = Callable[[float], None]
"""Told how late (seconds) each heartbeat came."""


class TermDispatcher:
    """Implements `common.dispatch.Dispatcher`; see the module. `run` is part of the term's work.

    `holds` says whether the term's lease is certainly held at this moment, `authority_of` which authority a node's
    certificate has to be of by now.
    """

    def __init__(
        self,
        ledger: Ledger,
        presence: Presence,
        epoch: Epoch,
        *,
        clock: Callable[[], float],
        rng: Rng,
        timers: Timers,
        settings: DispatcherSettings = SETTINGS,
        heartbeat_observed: HeartbeatObserver = lambda _late_s: None,
        agent_deferred: Callable[[], None] = lambda: None,
        holds: Callable[[], bool] = lambda: True,
        authority_of: Callable[[str], str] = lambda _node_id: "",
        opener: Opener | None = None,
    ) -> None:
        self._ledger = ledger
        self._state = ledger.state
        self._presence = presence
        self._epoch = epoch
        self._clock = clock
        self._rng = rng
        self._timers = timers
        self._settings = settings
        self._heartbeat_observed = heartbeat_observed
        self._holds = holds
        self._authority_of = authority_of
        self._sessions: dict[str, Session] = {}
        self._rivals = Rivals()
        self._taken: dict[str, Taken] = {}
        """By node: its last registration."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By node: whose registration is under way."""
        self._fenced = ""
        self._over = asyncio.Event()
        self._doorkeeper = Doorkeeper(timers, agent_deferred)
        self._dirty: dict[str, dict[str, None]] = {}
        self._tasks_changed = asyncio.Event()
        self._jobs_changed = asyncio.Event()
        self._numbers: dict[str, int] = {}
        """Of the last message about endpoints to each node that had a session in this term."""
        self._news_of_jobs = False
        """Whether jobs were created or have other specs since endpoints were last published."""
        self._board = EndpointBoard(ledger.state, presence.conditions, epoch)
        self._gate = TrafficGate(ledger.state, clock, self._mark, settings.apply_limit_s)
        self._inbox = StatusInbox(ledger, clock, settings)
        self._assets = AssetGiver(ledger.state, opener, self._board.service)
        self.measurements = Measurements(asyncio.get_running_loop().time)
        self.volumes = VolumeRouter(ledger, self._post, rng)
        self.logs = LogRouter(self._post, rng, settings)
        self.execs = ExecRouter(self._post, rng, settings)
        self._unsubscribe = ledger.subscribe(self._committed), presence.subscribe(self._condition_changed)
        self._gate.take_over(self._board.revision)

    @property
    def sessions(self) -> int:
        """Connected nodes."""
        return len(self._sessions)

    @property
    def connected(self) -> Container[str]:
        """Their ids."""
        return self._sessions

    # --- the term

    async def run(self) -> None:
        """Until cancelled. Raises `Superseded` when an agent knows of a later epoch: the process must end."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._inbox.run(), name="statuses")
                group.create_task(self._assign(), name="assignments")
                group.create_task(self._publish(), name="endpoints")
                group.create_task(self.volumes.run(), name="volumes")
                group.create_task(self._check_sessions(), name="silent sessions")
                await self._over.wait()
                raise Superseded(self._fenced)
        finally:
            self._close()

    def _close(self) -> None:
        self._over.set()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._gate.close()
        for session in self._sessions.values():
            session.end("this controller leads no more")

    async def _check_sessions(self) -> None:
        """Close those that neither say nor take anything."""
        loop = asyncio.get_running_loop()
        while True:
            limit_s = self._settings.silence_periods * self._period_s()
            for session in self._sessions.values():
                session.check(loop.time(), limit_s)
            await asyncio.sleep(min(limit_s, self._settings.send_timeout_s) / LOOKS_PER_LIMIT)

    async def _assign(self) -> None:
        """Tell nodes what changed for them: at once after a quiet time, what comes while many are told together."""
        while True:
            await self._tasks_changed.wait()
            self._tasks_changed.clear()
            dirty, self._dirty = self._dirty, {}
            if self._news_of_jobs:  # tasks that call each other may begin together
                self._publish_now()
            for number, (node_id, task_ids) in enumerate(dirty.items(), start=1):
                if number % NODES_PER_TURN == 0:  # each message is written in a turn of the loop that all share
                    await asyncio.sleep(0)
                session = self._sessions.get(node_id)
                if session is not None:
                    self._acquaint(session, task_ids)
                    for message in session.assignments.changed(task_ids, self._settings.assignments_per_message):
                        session.post(message)
            await asyncio.sleep(len(dirty) / self._settings.assigned_nodes_per_s)

    def _acquaint(self, session: Session, task_ids: Iterable[str]) -> None:
        """Tell a node of those whom its new tasks may call before it is told of the tasks."""
        tasks = [self._state.tasks.get(task_id) for task_id in task_ids]
        if all(one and not one.ended and not session.endpoints.lacks(self._interests_of(one)) for one in tasks):
            return
        message = session.endpoints.interested(self._interests(session.node_id))
        if message is not None:
            session.post(message)

    def _interests(self, node_id: str) -> Interests:
        """Of the tasks that may still run there; those that have ended are kept for people to look at."""
        live = (task for task in self._state.tasks_of_node(node_id).values() if not task.ended)
        return frozenset().union(*map(self._interests_of, live))

    def _interests_of(self, task: Task) -> Interests:
        return interests(self._state.spec_of_task(task))

    async def _publish(self) -> None:
        """Tell nodes where traffic goes; changes of one moment go out as one revision."""
        while True:
            await self._jobs_changed.wait()
            self._jobs_changed.clear()
            self._publish_now()
            await asyncio.sleep(self._settings.endpoints_interval_s(len(self._sessions)))

    def _publish_now(self) -> None:
        self._news_of_jobs = False
        change = self._board.publish()
        if change is not None:
            for session in self._sessions.values():
                message = session.endpoints.changed(change)
                if message is not None:
                    session.post(message)
        if self._gate.waits:
            self._gate.withdrawn(self._board.revision, {id_: one.relay for id_, one in self._sessions.items()})

    # --- what changed

    def _committed(self, committed: Committed) -> None:
        for applied in committed.applied:
            match applied.after or applied.before:
                case Task() as task:
                    self._task_changed(task, applied)
                case Job(id=job_id):
                    self._news_of_jobs |= _version(applied.before) != _version(applied.after)
                    self._touch(job_id)
                case Node(id=node_id):
                    self._touch_jobs_of(node_id)
                    self._strays_changed(node_id, applied)
                    if applied.after is None:
                        self._expel(node_id)
                case Asset() as asset:
                    for job, _ in showing(self._state, asset):
                        self._touch(job.id)
                case _:
                    pass  # versions and slots never change without their job or task

    def _expel(self, node_id: str) -> None:
        self._taken.pop(node_id, None)
        session = self._sessions.get(node_id)
        if session is not None:
            session.end("this node was removed from the cluster", retry_after_s=self._settings.redial_s)

    def _strays_changed(self, node_id: str, applied: Applied) -> None:
        before, after = (
            record.strays if isinstance(record, Node) else () for record in (applied.before, applied.after)
        )
        for stray in before:
            if stray not in after:
                self._mark(node_id, stray.task_id)

    def _task_changed(self, task: Task, applied: Applied) -> None:
        if applied.after is None:
            self._gate.task_gone(task.id)
        else:
            self._gate.task_changed(task)
        self._mark(task.node_id, task.id)
        if reach(self._state, applied.before) != reach(self._state, applied.after):
            self._touch(task.job_id)

    def _condition_changed(self, before: NodeCondition | None, after: NodeCondition) -> None:
        if silent(before) != silent(after):
            self._touch_jobs_of(after.node_id)

    def _touch_jobs_of(self, node_id: str) -> None:
        for task in self._state.tasks_of_node(node_id).values():
            self._touch(task.job_id)

    def _touch(self, job_id: str) -> None:
        self._board.touch(job_id)
        self._jobs_changed.set()

    def _mark(self, node_id: str, task_id: str) -> None:
        """A node may have to be told something about a task."""
        if node_id in self._sessions:
            self._dirty.setdefault(node_id, {})[task_id] = None
            self._tasks_changed.set()

    def _post(self, node_id: str, body: Body) -> bool:
        session = self._sessions.get(node_id)
        if session is not None:
            session.post(body)
        return session is not None

    # --- one session

    async def serve(self, link: ControllerLink, peer: str) -> None:
        """Serve one agent.

        Raises `Invalid` for messages an agent must not send, `Superseded` when the agent knows a later epoch.
        """
        turned_away = self._doorkeeper.knock(peer)
        if turned_away is not None:
            await self._redirect(link, peer, turned_away)
            return
        try:
            register = await self._first_message(link)
        except Unavailable as error:
            logger.info("session of %s ended before it registered: %s", peer, error)
            return
        session = await self._admit(link, peer, register)
        if session is not None:
            await self._converse(session)

    async def _admit(self, link: ControllerLink, peer: str, register: Register) -> Session | None:
        """Take the node into the ledger and begin its session; None when it was refused.

        One process of a node after the other: of two that come together the second one is judged when the first is in.
        """
        turn = self._turns.setdefault(register.node.id, asyncio.Lock())
        async with turn:
            refusal = self._refusal(register)
            if not refusal:
                now_s, enrolled = self._clock(), self._enrolled(register)
                await self._ledger.submit(lambda state: registration.registration_changes(state, register, now_s))
                refusal = "this controller leads no more" if self._over.is_set() else self._namesake(register)
                if enrolled and not self._enrolled(register):
                    refusal = "this node was removed from the cluster as it came"
            if not refusal:
                return self._join(link, peer, register)
        await self._refuse(link, peer, register, refusal)
        return None

    async def _converse(self, session: Session) -> None:
        try:
            await session.run(self._take_in)
        finally:
            self._leave(session)

    async def _first_message(self, link: ControllerLink) -> Register:
        try:
            async with asyncio.timeout(self._settings.register_timeout_s):
                message = await link.receive()
        except TimeoutError:
            raise Unavailable(f"it did not register within {self._settings.register_timeout_s:g} s") from None
        if not isinstance(message.body, Register):
            raise Invalid(f"a session begins with Register, not with {type(message.body).__name__}")
        self._check_epoch(message.body)
        found = registration.faults(message.body)
        if found:
            raise Invalid(found)
        return message.body

    def _check_epoch(self, register: Register) -> None:
        if register.highest_epoch > self._epoch:
            known, own = register.highest_epoch, self._epoch
            self._fenced = (
                f"node {register.node.name} has obeyed a controller of epoch {known.generation}.{known.term}; "
                f"this one has {own.generation}.{own.term}. Either another one has led since, while this one was "
                "frozen or cut off: then it only has to be started again. Or its store is older than what the cluster "
                "has seen: start the controllers on the present store, or tell the agents that this one counts now: "
                f"podium store raise-generation --store URL --generation {known.generation + 1}"
            )
            self._over.set()
            raise Superseded(self._fenced)

    def _refusal(self, register: Register) -> str:
        """Why the node is not taken in; empty when it is."""
        replayed = registration.replayed(register, self._taken.get(register.node.id))
        return self._namesake(register) or replayed or self._holder(register) or self._strays(register)

    def _enrolled(self, register: Register) -> bool:
        return f"{Kind.AGENT.value}-{register.node.id}" in self._state.enrolments

    def _namesake(self, register: Register) -> str:
        other = registration.namesake(self._state, register.node, self._sessions)
        if other is None:
            return ""
        return f"another node named {other.name} is connected (id {other.id}): give this one its own --name"

    def _holder(self, register: Register) -> str:
        """Why the node is, or a moment ago was, another process than this one; empty when it is not."""
        node_id = register.node.id
        session = self._sessions.get(node_id)
        return registration.held_elsewhere(
            register,
            self._state.nodes.get(node_id),
            holder=None if session is None else Holder(peer=session.peer, instance=session.instance),
            silent_s=self._silent_s(node_id),
            limit_s=self._timers.stretched(len(self._presence.seen)).unreachable_s,
        )

    def _strays(self, register: Register) -> str:
        """Why the node runs too much that nobody knows; empty when it does not."""
        older = register.highest_epoch.generation < self._state.generation
        known = self._state.nodes.get(register.node.id)
        strays = strays_of(self._state, known, register.inventory, older_generation=older, now_s=self._clock())
        return strays_fault(len(strays))

    def _silent_s(self, node_id: str) -> float:
        """Since the node was heard, or since this term began."""
        seen = self._presence.seen.get(node_id)
        return 0.0 if seen is None else asyncio.get_running_loop().time() - seen.last_heard_s

    async def _refuse(self, link: ControllerLink, peer: str, register: Register, reason: str) -> None:
        node = register.node
        logger.warning("node %s (%s) from %s was not taken in: %s", node.name, node.id, peer, reason)
        held = bool(self._holder(register))
        if held:
            self._watch_rival(register, peer)
        # One that was only restarted, or came as the term ended, must be back before its node counts as down.
        soon = self._over.is_set() or held
        wait_s = self._settings.wait_s if soon else self._settings.redial_s
        await self._redirect(link, peer, Redirect(leader="", reason=reason, retry_after_s=wait_s))

    def _watch_rival(self, register: Register, peer: str) -> None:
        node_id, now_s = register.node.id, asyncio.get_running_loop().time()
        if self._rivals.turned_away(node_id, register.instance, now_s, now_s - self._silent_s(node_id)):
            self._presence.contested(node_id, f"another agent, from {peer}, claims to be this node and is kept out")

    async def _redirect(self, link: ControllerLink, peer: str, body: Redirect) -> None:
        try:
            async with asyncio.timeout(self._settings.farewell_timeout_s):
                await link.send(ControllerMessage(epoch=self._epoch, body=body))
        except (TimeoutError, Unavailable):
            logger.debug("%s did not wait for the reason", peer)

    def _join(self, link: ControllerLink, peer: str, register: Register) -> Session:
        """Make the session the node's one and tell the agent everything. Without an await: nothing changes between."""
        node = register.node
        missing = missing_from(self._state, node.id, register.inventory)
        session = Session(
            link,
            self._epoch,
            session_id=new_id(self._rng),
            node_id=node.id,
            node_name=node.name,
            instance=register.instance,
            peer=peer,
            assignments=AssignmentSet(
                self._state, node.id, self._gate.held, missing=(report.task_id for report in missing)
            ),
            endpoints=EndpointMessages(self._board, self._interests(node.id), after=self._number(node.id)),
            settings=self._settings,
            missing=missing,
        )
        self._replace(session)
        self._taken[node.id] = Taken(instance=register.instance, registration=register.registration)
        self._rivals.settled(node.id)
        self._presence.connected(node.id, node.runtimes)
        self._gate.node_joined(node.id)
        session.post(self._registered(session))
        self._send_complete_sets(session)
        logger.info("node %s (%s) registered from %s with %d tasks", node.name, node.id, peer, len(register.inventory))
        return session

    def _number(self, node_id: str) -> int:
        """Of the last message about endpoints to the node."""
        session = self._sessions.get(node_id)
        return self._numbers.get(node_id, 0) if session is None else session.endpoints.number

    def _replace(self, session: Session) -> None:
        before = self._sessions.get(session.node_id)
        if before is not None:
            reason = f"a newer session of the node began from {session.peer}"
            before.end(f"{reason} (do two agents share one data directory?)", retry_after_s=self._settings.redial_s)
            self._silenced(session.node_id)
        self._sessions[session.node_id] = session
        self._dirty.pop(session.node_id, None)

    def _leave(self, session: Session) -> None:
        if self._sessions.get(session.node_id) is session:
            del self._sessions[session.node_id]
            self._numbers[session.node_id] = session.endpoints.number
            self._dirty.pop(session.node_id, None)
            self._presence.disconnected(session.node_id)
            self._gate.node_left(session.node_id)
            self._silenced(session.node_id)

    def _silenced(self, node_id: str) -> None:
        """What the node has not sent for those who look inside it will not come."""
        self.logs.node_left(node_id)
        self.execs.node_left(node_id)
        self.measurements.forget(node_id)
        self.volumes.node_left(node_id)

    def _registered(self, session: Session) -> Registered:
        period_s = self._period_s()
        return Registered(
            node_id=session.node_id,
            session_id=session.id,
            heartbeat_period_s=period_s,
            acknowledge_timeout_s=max(self._timers.acknowledge_s, 2 * period_s),
        )

    def _period_s(self) -> float:
        return self._timers.stretched(len(self._presence.seen)).period_s

    def _send_complete_sets(self, session: Session) -> None:
        session.post(session.endpoints.complete())  # first: tasks are told of those they may call when they begin
        session.post(session.assignments.complete())

    # --- what an agent says

    def _take_in(self, session: Session, message: AgentMessage) -> None:
        """What comes late of a session whose place another one of its node has taken counts no more."""
        if session is self._sessions.get(session.node_id):
            missing, session.missing = session.missing, ()
            if missing:  # it answers, so it is there and has registered as it is
                self._inbox.note(session.node_id, missing)
            self._handle(session, confined(message.body))

    def _handle(self, session: Session, body: AgentBody) -> None:
        match body:
            case Heartbeat() as heartbeat:
                session.check_order("heartbeat", heartbeat.sequence)
                self._heard(session, heartbeat)
            case StatusBatch() as batch:
                session.check_order("batch of statuses", batch.sequence)
                self._inbox.add(session, batch)
            case EndpointsApplied() as applied:
                self._relayed(session, applied)
            case VolumeReport() as volumes:
                self.volumes.report(session.node_id, volumes)
            case VolumeRemoved() as removed:
                self.volumes.removed(session.node_id, removed)
            case AssetRequest() as asked:
                session.post(self._assets.answer(session.node_id, asked, session.waiting))
            case UsageReport() as report:
                served = tuple(one for one in report.traffic if session.endpoints.serves(one.job))
                self.measurements.report(session.node_id, replace(report, traffic=served))
            case LogChunk() | ExecOutput() | StreamCredit() as seen:
                self._seen_inside(session.node_id, seen)
            case ResyncRequest(reason=reason):
                logger.warning("node %s asks for complete sets: %s", session.node_name, reason)
                self._send_complete_sets(session)
            case Register():
                raise Invalid("a session registers once")
            case _:
                assert_never(body)

    def _seen_inside(self, node_id: str, seen: LogChunk | ExecOutput | StreamCredit) -> None:
        match seen:
            case LogChunk():
                self.logs.route(node_id, seen)
            case ExecOutput():
                self.execs.route(node_id, seen)
            case StreamCredit():
                self.execs.credit(node_id, seen)
            case _:
                assert_never(seen)

    def _heard(self, session: Session, heartbeat: Heartbeat) -> None:
        period_s = self._period_s()
        self._presence.heard(session.node_id, heartbeat.usage, heartbeat.runtimes)
        self._heartbeat_observed(session.late_s(asyncio.get_running_loop().time(), period_s))
        # An acknowledgement lets the node's exclusive tasks go on: none for a heartbeat that did not set our own clock
        # back, and none when another leader may be counting already.
        if self._holds() and not self._over.is_set():
            session.post(
                HeartbeatAck(
                    sequence=heartbeat.sequence,
                    next_period_s=period_s,
                    usage_every_s=self.measurements.every_s(session.node_id),
                    authority=self._authority_of(session.node_id),
                    statuses=session.stored(),
                )
            )

    def _relayed(self, session: Session, applied: EndpointsApplied) -> None:
        session.endpoints.carried_out(applied.revision)
        session.draining = frozenset(applied.draining)
        self._gate.relay_changed(session.node_id, session.relay)
        self._presence.relayed(session.node_id, applied.problems)
        self.measurements.waits(session.node_id, tuple(filter(session.endpoints.serves, applied.wanted)))


def _version(record: Record | None) -> int:
    return record.version if isinstance(record, Job) else 0
