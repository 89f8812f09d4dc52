"""An agent on a fake engine, and a controller that says only what the test says: for tests in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from agent.app import Agent
from agent.core.task_memory import TaskMemory
from agent.guard.interface import Guard
from agent.journal import Journal
from agent.network.interface import NO_CERTIFICATES, Certificates, DataPlaneState
from agent.runtime.fake import FakeEngine, FakeRuntime
from agent.settings import AgentBounds, AgentSettings
from common.errors import Unavailable
from common.lifecycle import merge
from common.model.endpoint import Service
from common.model.epoch import Epoch
from common.model.resources import Usage
from common.model.session import (
    AgentMessage,
    Assignment,
    Assignments,
    ControllerMessage,
    Heartbeat,
    HeartbeatAck,
    Redirect,
    Register,
    Registered,
    StatusAck,
    StatusBatch,
)
from common.model.task import Attempt, Health, TaskState, TaskStatus

BodyT = TypeVar("BodyT", bound=msgspec.Struct)
NODE_ID = "node-1"
LIMIT_S = 1_000.0
"""Of virtual time, for anything a test waits for."""


class Cable:
    """Both ends of one session's stream."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[AgentMessage] = asyncio.Queue()
        self.down: asyncio.Queue[ControllerMessage | None] = asyncio.Queue()
        self.broken = False

    async def send(self, message: AgentMessage) -> None:
        """As grpc.aio does: writing takes a moment, and a write that is cancelled takes the whole call along."""
        try:
            await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cut()
            raise
        if self.broken:
            raise Unavailable("the link broke")
        self.up.put_nowait(message)

    async def receive(self) -> ControllerMessage:
        message = await self.down.get()
        if message is None:
            raise Unavailable("the link broke")
        return message

    def cut(self) -> None:
        self.broken = True
        self.down.put_nowait(None)


class Controller:
    """The other end of every session an agent dials. Behaves well until told otherwise."""

    def __init__(self, epoch: Epoch | None = None) -> None:
        self.epoch = epoch or Epoch(term=1)
        self.first: list[msgspec.Struct] = [Assignments(complete=True, sequence=1)]
        """Said right after each registration."""
        self.redirects: dict[str, Redirect] = {}
        """By address: what followers answer."""
        self.away: set[str] = set()
        """Addresses nobody answers at."""
        self.frozen: set[str] = set()
        """Addresses that let agents in and answer nothing."""
        self.acknowledges_beats = True
        self.acknowledges_late_s = 0.0
        self.acknowledges_statuses = True
        self.period_s = 1.0
        self.usage_every_s = 0.0
        self.dialled: list[str] = []
        self.registers: list[Register] = []
        self.heard: list[msgspec.Struct] = []
        self.statuses: dict[str, TaskStatus] = {}
        self.attempts: list[Attempt] = []
        self.cable: Cable | None = None
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[Cable]:
        self.dialled.append(address)
        self._note()
        if address in self.away:
            raise Unavailable("nobody answers")
        cable = Cable()
        serving = asyncio.create_task(self._serve(cable, address))
        try:
            yield cable
        finally:
            serving.cancel()

    def say(self, body: msgspec.Struct, epoch: Epoch | None = None) -> None:
        assert self.cable is not None, "no agent is connected"
        self.cable.down.put_nowait(ControllerMessage(epoch=epoch or self.epoch, body=body))  # type: ignore[arg-type]

    def cut(self) -> None:
        assert self.cable is not None
        self.cable.cut()

    async def until(self, holds: Callable[[], object], what: str = "") -> None:
        """Wait until something holds that the agent's messages can make true."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"never came: {what}; heard of {self.statuses}") from None

    async def until_state(self, task_id: str, state: TaskState, attempt: int = 0) -> TaskStatus:
        def holds() -> bool:
            status = self.statuses.get(task_id)
            return status is not None and status.state is state and status.attempt >= attempt

        await self.until(holds, f"{task_id} {state}")
        return self.statuses[task_id]

    async def until_health(self, task_id: str, health: Health) -> None:
        def holds() -> bool:
            return task_id in self.statuses and self.statuses[task_id].health is health

        await self.until(holds, f"{task_id} {health}")

    async def until_heard(self, kind: type[BodyT], number: int = 1) -> list[BodyT]:
        await self.until(lambda: len(self.of(kind)) >= number, f"{number} times {kind.__name__}")
        return self.of(kind)

    async def until_registered(self, number: int = 1) -> Register:
        await self.until(lambda: len(self.registers) >= number, f"registration {number}")
        return self.registers[number - 1]

    async def beats(self, number: int) -> None:
        """Let so many heartbeats pass."""
        await self.until_heard(Heartbeat, len(self.of(Heartbeat)) + number)

    def of(self, kind: type[BodyT]) -> list[BodyT]:
        return [body for body in self.heard if isinstance(body, kind)]

    async def _serve(self, cable: Cable, address: str) -> None:
        while True:
            body = (await cable.up.get()).body
            self.heard.append(body)
            match body:
                case Register():
                    self._register(cable, address, body)
                case Heartbeat(sequence=sequence) if self.acknowledges_beats:
                    heard = HeartbeatAck(
                        sequence=sequence, next_period_s=self.period_s, usage_every_s=self.usage_every_s
                    )
                    if self.acknowledges_late_s:
                        asyncio.get_running_loop().call_later(self.acknowledges_late_s, self.say, heard)
                    else:
                        self.say(heard)
                case StatusBatch():
                    self._take(body)
                case _:
                    pass
            self._note()

    def _register(self, cable: Cable, address: str, register: Register) -> None:
        self.cable = cable
        if address in self.frozen:
            return None
        if address in self.redirects:
            return self.say(self.redirects[address])
        self.registers.append(register)
        self._observe(register.inventory)
        self.say(
            Registered(node_id=NODE_ID, session_id="s", heartbeat_period_s=self.period_s, acknowledge_timeout_s=2.0)
        )
        for body in self.first:
            self.say(body)
        return None

    def _take(self, batch: StatusBatch) -> None:
        self._observe(batch.reports)
        if self.acknowledges_statuses:
            self.say(StatusAck(sequence=batch.sequence))

    def _observe(self, reports: tuple[msgspec.Struct, ...]) -> None:
        for report in reports:
            task_id, status = report.task_id, report.status  # type: ignore[attr-defined]
            self.statuses[task_id] = merge(self.statuses[task_id], status) if task_id in self.statuses else status
            self.attempts += report.ended  # type: ignore[attr-defined]

    def _note(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class FakeDataPlane:
    """Notes what it is told. `state` is what a relay that runs already would say at the start."""

    name = "fake"
    pid = 0

    def __init__(self, state: DataPlaneState | None = None) -> None:
        self.state = state or DataPlaneState(revision=-1)
        self.applied: list[tuple[int, tuple[Service, ...]]] = []
        self.away = False
        self.stopped: bool | None = None
        self._subscribers: list[Callable[[DataPlaneState], None]] = []

    async def start(self) -> None:
        if self.away:
            raise Unavailable("it does not start")
        self.tell(self.state)

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        if self.away:
            raise Unavailable("it is away")
        self.applied.append((revision, services))
        self.tell(msgspec.structs.replace(self.state, revision=revision))

    def tell(self, state: DataPlaneState) -> None:
        self.state = state
        for changed in self._subscribers:
            changed(state)

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._subscribers.append(changed)

    async def metrics(self) -> bytes:
        return b""

    async def close(self, *, stop: bool) -> None:
        self.stopped = stop


class Machine:
    """What outlives an agent: the engine, the journal, the data plane; and the controller."""

    def __init__(self) -> None:
        self.engine = FakeEngine(self.clock)
        self.journal = Journal.in_memory(NODE_ID)
        self.data_plane = FakeDataPlane()
        self.controller = Controller()
        self.controllers: tuple[str, ...] = ("c1:1",)
        self.address = "10.0.0.1"
        self.guard: Guard | None = None
        self.bounds = AgentBounds()
        self.slept_s = 0.0
        """For so long the machine was asleep: only the clock that counts that knows of it."""
        self.skew_s = 0.0
        """What its wall clock is off by."""
        self.agent: Agent | None = None

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + 1_700_000_000.0 + self.skew_s

    def memory(self, task_id: str) -> TaskMemory:
        return next(memory for memory in self.journal.tasks() if memory.task_id == task_id)

    @asynccontextmanager
    async def running(self, *, stop_tasks: bool = False) -> AsyncIterator[Controller]:
        """An agent for as long as the context lasts; then it is stopped cleanly."""
        agent = self.agent = Agent(
            AgentSettings(
                controllers=self.controllers,
                data_dir="",
                name="n1",
                advertise=self.address,
                runtimes=("fake",),
                bounds=self.bounds,
            ),
            address=self.address,
            journal=self.journal,
            runtimes=[FakeRuntime(NODE_ID, self.engine)],
            dialer=self.controller,
            data_plane=self.data_plane,
            clock=self.clock,
            rng=random.Random(7),
            usage=lambda tasks: Usage(tasks=tasks),
            boottime=lambda: asyncio.get_running_loop().time() + self.slept_s,
            guard=self.guard,
        )
        stop = asyncio.Event()
        living = asyncio.create_task(agent.run(stop=stop, stop_tasks=stop_tasks))
        try:
            yield self.controller
        finally:
            stop.set()
            async with asyncio.timeout(LIMIT_S):
                await living


def orders(*assignments: Assignment) -> list[msgspec.Struct]:
    return [Assignments(complete=True, sequence=1, assignments=assignments)]
