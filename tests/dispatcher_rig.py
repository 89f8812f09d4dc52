"""A dispatcher on a real ledger, and agents that speak the session by hand: for tests of what goes over the link."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeVar

import msgspec

from common.dispatch import Dispatcher
from common.errors import PodiumError, Unavailable
from common.model.endpoint import Service
from common.model.epoch import Epoch
from common.model.job import Container, DesiredState, Job, JobSpec, JobVersion, Port, TaskSpec
from common.model.node import NodeDescription
from common.model.session import (
    AgentMessage,
    Assignment,
    Assignments,
    ControllerMessage,
    Endpoints,
    EndpointsApplied,
    Heartbeat,
    Register,
    Registered,
    StatusBatch,
)
from common.model.task import Attempt, Health, PortBinding, Task, TaskReport, TaskState, TaskStatus
from controller.dispatcher.dispatcher import TermDispatcher
from controller.dispatcher.settings import DispatcherSettings
from controller.ledger import Ledger
from controller.presence import Presence
from controller.settings import Timers
from controller.state import Erase, State, Write
from controller.store.interface import LeaderRecord
from controller.store.keys import Record
from tests.scripted_store import ScriptedStore

BodyT = TypeVar("BodyT", bound=msgspec.Struct)
QUICK = DispatcherSettings(
    status_linger_s=0.0, publish_interval_s=0.0, farewell_timeout_s=0.2, unacknowledged_batches=1
)
TIMERS = Timers()
NOW_S = 1_000_000.0
WAIT_S = 5.0


class MemoryLink:
    """Both ends of a session's stream; `broken` is the network's end of it."""

    def __init__(self, waiting: int = 1_000) -> None:
        self.up: asyncio.Queue[AgentMessage] = asyncio.Queue()
        self.down: asyncio.Queue[ControllerMessage] = asyncio.Queue(waiting)
        self.broken = asyncio.Event()

    async def send(self, message: ControllerMessage) -> None:
        if self.broken.is_set():
            raise Unavailable("the link broke")
        await self.down.put(message)

    async def receive(self) -> AgentMessage:
        async with asyncio.TaskGroup() as group:
            got = group.create_task(self.up.get())
            broke = group.create_task(self.broken.wait())
            await asyncio.wait((got, broke), return_when=asyncio.FIRST_COMPLETED)
            for waiting in (got, broke):
                waiting.cancel()
        if got.cancelled():
            raise Unavailable("the link broke")
        return got.result()


class Agent:
    """The other end: registers, then does only what the test says."""

    def __init__(self, description: NodeDescription, link: MemoryLink) -> None:
        self.description = description
        self.instance = ""
        self.link = link
        self.serving: asyncio.Task[None] | None = None
        self.set: dict[str, Assignment] = {}
        self.services: dict[str, Service] = {}
        self.revision = 0
        self.sequence = 0
        self.probes = 77_777

    def say(self, body: msgspec.Struct) -> None:
        self.link.up.put_nowait(AgentMessage(body=body))  # type: ignore[arg-type]

    def register(self, *inventory: TaskReport, highest_epoch: Epoch | None = None) -> None:
        self.say(
            Register(
                node=self.description,
                inventory=inventory,
                highest_epoch=highest_epoch or Epoch(),
                instance=self.instance,
            )
        )

    def report(self, *reports: TaskReport, sequence: int = 1) -> None:
        self.say(StatusBatch(sequence=sequence, reports=reports))

    def beat(self, sequence: int = 1) -> None:
        self.say(Heartbeat(sequence=sequence))

    def applied(self, *draining: str, revision: int | None = None) -> None:
        self.say(EndpointsApplied(revision=self.revision if revision is None else revision, draining=draining))

    async def message(self) -> ControllerMessage:
        async with asyncio.timeout(WAIT_S):
            message = await self.link.down.get()
        match message.body:
            case Assignments() as assignments:
                self._follow(assignments)
            case Endpoints() as endpoints:
                self._follow_endpoints(endpoints)
        return message

    async def next(self, kind: type[BodyT]) -> BodyT:
        """The next message of a kind; others before it are taken in on the way."""
        while True:
            body = (await self.message()).body
            if isinstance(body, kind):
                return body

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self.message()

    async def told(self) -> tuple[str, ...]:
        """Every message that came by now, by kind: up to the answer to a heartbeat sent now."""
        self.probes += 1
        self.beat(sequence=self.probes)
        kinds = []
        while True:
            message = await self.message()
            if getattr(message.body, "sequence", 0) == self.probes:
                return tuple(kinds)
            kinds.append(type(message.body).__name__)

    async def ended(self) -> None:
        assert self.serving is not None
        async with asyncio.timeout(WAIT_S):
            await self.serving

    def _follow(self, message: Assignments) -> None:
        if message.complete:
            self.set = {}
            assert message.sequence == 1
        else:
            assert message.sequence == self.sequence + 1, "a gap in the chain of assignments"
        self.sequence = message.sequence
        self.set |= {assignment.task_id: assignment for assignment in message.assignments}
        for task_id in message.removed:
            del self.set[task_id]

    def _follow_endpoints(self, message: Endpoints) -> None:
        if message.complete:
            self.services = {}
        else:
            assert message.revision == self.revision + 1, "a gap in the chain of endpoints"
        self.revision = message.revision
        self.services |= {service.key: service for service in message.services}
        for key in message.removed:
            del self.services[key]


class Rig:
    """One term: a ledger over a scripted store, a presence and a dispatcher."""

    def __init__(self, ledger: Ledger, store: ScriptedStore, settings: DispatcherSettings, timers: Timers) -> None:
        self.store = store
        self.ledger = ledger
        self.now_s = NOW_S
        self.holds = True
        """Whether the term's lease is certainly held."""
        self.presence = Presence(lambda: self.now_s)
        for node_id in ledger.state.nodes:
            self.presence.expect(node_id)
        self.dispatcher = TermDispatcher(
            ledger,
            self.presence,
            ledger.epoch,
            clock=lambda: self.now_s,
            rng=random.Random(1),
            timers=timers,
            settings=settings,
            holds=lambda: self.holds,
        )
        self.running: asyncio.Task[None] | None = None
        self._sessions: list[asyncio.Task[None]] = []

    @property
    def state(self) -> State:
        return self.ledger.state

    async def write(self, *records: Record) -> None:
        await self.ledger.submit(lambda _state: [tuple(Write(record) for record in records)])

    async def erase(self, *records: Record) -> None:
        await self.ledger.submit(lambda _state: [tuple(Erase(record) for record in records)])

    async def change_task(self, task_id: str, **fields: object) -> None:
        await self.write(msgspec.structs.replace(self.state.tasks[task_id], **fields))

    def dial(self, node_id: str = "n1", *, name: str = "", waiting: int = 1_000) -> Agent:
        agent = Agent(description(node_id, name), MemoryLink(waiting))
        self.serve(agent, self.dispatcher)
        return agent

    def serve(self, agent: Agent, dispatcher: Dispatcher) -> None:
        agent.serving = asyncio.create_task(dispatcher.serve(agent.link, f"peer of {agent.description.name}"))
        self._sessions.append(agent.serving)

    async def agent(self, node_id: str = "n1", *inventory: TaskReport) -> Agent:
        """One that registered and has read its complete sets."""
        agent = self.dial(node_id)
        agent.register(*inventory)
        await agent.next(Registered)
        await agent.next(Endpoints)
        await agent.next(Assignments)
        return agent

    async def close(self) -> None:
        if self.running is not None:
            self.running.cancel()
        for session in (*self._sessions, *([self.running] if self.running else [])):
            with suppress(asyncio.CancelledError, PodiumError, BaseExceptionGroup):
                async with asyncio.timeout(WAIT_S):
                    await session


@asynccontextmanager
async def rig(*records: Record, settings: DispatcherSettings = QUICK, timers: Timers = TIMERS) -> AsyncIterator[Rig]:
    store = ScriptedStore()
    leadership = await store.campaign(LeaderRecord(controller_id="a", address="a:1"))
    ledger = Ledger(store, leadership, State.of(records), rng=random.Random(1))
    writer = asyncio.create_task(ledger.run())
    async with AsyncExitStack() as stack:
        made = Rig(ledger, store, settings, timers)
        made.running = asyncio.create_task(made.dispatcher.run())
        stack.push_async_callback(made.close)
        yield made
    writer.cancel()
    with suppress(asyncio.CancelledError, PodiumError):
        await writer


# --- values


def description(node_id: str = "n1", name: str = "") -> NodeDescription:
    return NodeDescription(id=node_id, name=name or node_id, address=f"10.0.0.{node_id[1:]}")


def web_spec(name: str = "web", **task: object) -> JobSpec:
    fields: dict[str, object] = {
        "container": Container(image="shop:1"),
        "ports": (Port(container_port=80, published_port=8080),),
    }
    return JobSpec(namespace="shop", name=name, task=TaskSpec(**{**fields, **task}))  # type: ignore[arg-type]


def job_records(spec: JobSpec, *, version: int = 1, **fields: object) -> tuple[Job, JobVersion]:
    job_id = f"id-{spec.name}"
    job = Job(id=job_id, namespace=spec.namespace, name=spec.name, version=version, replicas=spec.replicas, **fields)  # type: ignore[arg-type]
    return job, JobVersion(job_id=job_id, version=version, spec=spec)


def task_of(task_id: str = "t1", *, job: str = "web", node_id: str = "n1", slot: int = 1, **fields: object) -> Task:
    task = Task(id=task_id, job_id=f"id-{job}", namespace="shop", job=job, version=1, slot=slot, node_id=node_id)
    return msgspec.structs.replace(task, **fields)


def running_status(port: int = 30_000, *, address: str = "10.0.0.1", health: Health = Health.NONE) -> TaskStatus:
    binding = PortBinding(container_port=80, host_address=address, host_port=port)
    return TaskStatus(attempt=1, state=TaskState.RUNNING, sequence=3, health=health, ports=(binding,))


def report_of(task_id: str, state: TaskState, *ended: Attempt, attempt: int = 1, **fields: object) -> TaskReport:
    status = TaskStatus(attempt=attempt, state=state, **fields)  # type: ignore[arg-type]
    return TaskReport(task_id=task_id, status=status, ended=ended)


STOPPING = {"desired": DesiredState.STOP, "stop_requested_at_s": NOW_S}
