"""A machine: an engine, a disk and a data plane that outlive the agent on it, and the production agent.

The agent may be killed at any moment and begin again; what it had asked of the engine goes on without it. When the
machine dies everything that runs on it dies too, and only the disk and the ended containers are there afterwards.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from agent.app import Agent
from agent.core.task_memory import TaskMemory
from agent.journal import Journal
from agent.network.interface import NO_CERTIFICATES, Certificates, DataPlaneState
from agent.runtime.fake import Behaviour, FakeContainer, FakeEngine, FakeRuntime
from agent.runtime.interface import ContainerRequest, Exit, RunningContainer
from agent.settings import AgentBounds, AgentSettings
from common.errors import Unavailable
from common.lifecycle import rank
from common.model.endpoint import Service
from common.model.epoch import Epoch
from common.model.ids import new_id
from common.model.resources import Usage
from common.model.session import ControllerMessage
from common.model.task import Attempt
from tests.sim.behaviour import Behaviours
from tests.sim.demand import Demand
from tests.sim.guard import SimGuard
from tests.sim.loop import Process, outside
from tests.sim.network import Connection, Network
from tests.sim.record import Record
from tests.sim.witness import Witness

ResultT = TypeVar("ResultT")

ENDED_KEPT_S = 60.0
"""Shorter than in production, so that the end of a run need not wait for ten minutes."""
CPUS = 4.0
MEMORY_BYTES = 8 * 1024**3


class SimEngine(FakeEngine):
    """An engine whose every container the witness sees."""

    def __init__(
        self, machine: str, clock: Callable[[], float], behaviours: Behaviours, witness: Witness, record: Record
    ) -> None:
        super().__init__(clock, behaviours.of_container, behaviours.of_image)
        self._machine = machine
        self._witness = witness
        self._record = record

    def create(self, request: ContainerRequest, behaviour: Behaviour) -> FakeContainer:
        container = super().create(request, behaviour)
        identity = request.identity
        self._note("create", container, f"{identity.job}.{identity.slot} {request.container.image}")
        self._witness.created(self._machine, request)
        return container

    def begin(self, container: FakeContainer) -> None:
        super().begin(container)
        self._note("start", container)
        self._witness.started(self._machine, container)

    def end(self, container: FakeContainer, code: int) -> None:
        ran = container.running
        super().end(container, code)
        if ran:
            self._note("end", container, f"code {code}")
            self._witness.ended(self._machine, container)

    def forget(self, container: FakeContainer) -> None:
        super().forget(container)
        self._note("remove", container)

    def _note(self, kind: str, container: FakeContainer, text: str = "") -> None:
        identity = container.identity
        self._record.note(kind, f"{self._machine} {container.id} {identity.task_id[:6]}.{identity.attempt} {text}")


class SimRuntime(FakeRuntime):
    """What an agent asked of the engine happens although the agent is killed in the meantime."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.node_id, machine.engine)
        self._machine = machine

    async def create(self, request: ContainerRequest) -> str:
        return await self._machine.go_on(super().create(request))

    async def start_container(self, container_id: str) -> RunningContainer:
        return await self._machine.go_on(super().start_container(container_id))

    async def stop_container(self, container_id: str, signal: str, grace_s: float) -> Exit:
        self._asked_to_stop(container_id)
        return await self._machine.go_on(super().stop_container(container_id, signal, grace_s))

    async def remove(self, container_id: str) -> None:
        self._asked_to_stop(container_id)
        await self._machine.go_on(super().remove(container_id))

    async def usage(self, container_id: str) -> Usage:
        used = await super().usage(container_id)
        container = self._machine.engine.containers[container_id]
        return self._machine.demand.use_of(container) if container.running else used

    def _asked_to_stop(self, container_id: str) -> None:
        container = self._machine.engine.containers.get(container_id)
        if container is not None:
            self._machine.asked_to_stop(container)


class SimJournal(Journal):
    """A disk that checks what is written: epochs and statuses only rise. It may be full, or slow.

    A write to a slow disk holds up the whole agent.
    """

    watched: Callable[[str], None]
    memories: dict[str, TaskMemory]
    process: Process | None = None
    full = False
    write_s = 0.0

    @classmethod
    def on(cls, node_id: str, watched: Callable[[str], None]) -> SimJournal:
        journal = cls.in_memory(node_id)
        assert isinstance(journal, SimJournal)
        journal.watched = watched
        journal.memories = {}
        return journal

    def copy(self) -> SimJournal:
        """Another disk with the same on it."""
        copied = SimJournal.on(self.node_id, self.watched)
        self._database.backup(copied._database)
        copied.memories = dict(self.memories)
        return copied

    def remember_epoch(self, epoch: Epoch) -> None:
        if epoch < self.highest_epoch:
            self.watched(f"an agent went back from epoch {self.highest_epoch} to {epoch}")
        super().remember_epoch(epoch)

    def save(self, memory: TaskMemory, ended: tuple[Attempt, ...] = ()) -> None:
        super().save(memory, ended)
        before = self.memories.get(memory.task_id)
        if before is not None and rank(memory.status) < rank(before.status):
            self.watched(f"task {memory.task_id} went back from {before.status} to {memory.status}")
        self.memories[memory.task_id] = memory

    def forget(self, task_id: str) -> None:
        super().forget(task_id)
        self.memories.pop(task_id, None)

    @contextmanager
    def _together(self) -> Iterator[None]:
        if self.full:
            raise Unavailable("cannot write the journal: the disk is full")
        if self.write_s and self.process is not None and not self.process.frozen:
            self.process.freeze()
            asyncio.get_running_loop().call_later(self.write_s, self.process.thaw, context=outside())
        with super()._together():
            yield


class SimDataPlane:
    """A relay that carries endpoints out after a moment, and in which connections to withdrawn tasks drain slowly."""

    name = "simulated"
    pid = 0

    def __init__(self, rng: random.Random) -> None:
        self.services: tuple[Service, ...] = ()
        self.fewest = 0
        """Endpoints served since this was last set, at the lowest."""
        self.drains = True
        self._rng = rng
        self._state = DataPlaneState(revision=-1)
        self._subscribers: list[Callable[[DataPlaneState], None]] = []
        self._draining: dict[str, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.2))
        self._tell()

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.05))
        served, serves = _tasks(self.services), _tasks(services)
        self.services = services
        self.fewest = min(self.fewest, len(serves))
        for task_id in served:
            if task_id not in serves and self.drains and self._rng.random() < 0.5:
                self._drain(task_id, self._rng.choice((0.2, 1.0, 3.0, 30.0)))
        self._state = msgspec.structs.replace(self._state, revision=revision)
        self._tell()

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._subscribers.append(changed)

    async def metrics(self) -> bytes:
        return b""

    async def close(self, *, stop: bool) -> None:
        self._subscribers.clear()

    def lose_power(self) -> None:
        self.services = ()
        self._state = DataPlaneState(revision=-1)
        for handle in self._draining.values():
            handle.cancel()
        self._draining.clear()

    def _drain(self, task_id: str, seconds: float) -> None:
        if task_id not in self._draining:
            loop = asyncio.get_running_loop()
            self._draining[task_id] = loop.call_later(seconds, self._drained, task_id, context=outside())

    def _drained(self, task_id: str) -> None:
        del self._draining[task_id]
        self._tell()

    def _tell(self) -> None:
        self._state = msgspec.structs.replace(self._state, draining=tuple(sorted(self._draining)))
        for changed in tuple(self._subscribers):
            changed(self._state)


class Machine:
    """See the module. `skew_s` is what its wall clock is off by."""

    def __init__(
        self,
        number: int,
        *,
        seed: int,
        network: Network,
        controllers: tuple[str, ...],
        behaviours: Behaviours,
        demand: Demand,
        witness: Witness,
        record: Record,
    ) -> None:
        self.name = f"n{number}"
        self.demand = demand
        self.address = f"10.0.0.{number}"
        self._seed = seed
        self._network = network
        self._controllers = controllers
        self._witness = witness
        self._record = record
        rng = random.Random(f"{seed} {self.name}")
        self.node_id = new_id(rng)
        self.skew_s = rng.uniform(-100.0, 100.0)
        self.engine = SimEngine(self.name, self.clock, behaviours, witness, record)
        self.journal = SimJournal.on(self.node_id, record.violated)
        self.data_plane = SimDataPlane(rng)
        self.guard = SimGuard(self.engine)
        self.disturbed_at_s = 0.0
        self._lives = 0
        self._running: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._operations: dict[asyncio.Task[object], None] = {}
        self._process = Process(self.name)
        self._stale: dict[Connection, Epoch] = {}

    @property
    def up(self) -> bool:
        return self._running is not None

    def set_clock_right(self) -> None:
        self.skew_s = 0.0

    def clock(self) -> float:
        return 1_700_000_000.0 + self.skew_s + asyncio.get_running_loop().time()

    def running(self) -> list[FakeContainer]:
        return [container for container in self.engine.containers.values() if container.running]

    # --- the agent

    def start(self) -> None:
        """Begin an agent, on a machine that has power."""
        assert self._running is None
        self.engine.away = ""
        self._lives += 1
        self._stop = asyncio.Event()
        agent = Agent(
            AgentSettings(
                controllers=self._controllers,
                data_dir="",
                name=self.name,
                advertise=self.address,
                runtimes=("fake",),
                cpus=CPUS,
                memory_bytes=MEMORY_BYTES,
                bounds=AgentBounds(ended_kept_s=ENDED_KEPT_S),
            ),
            address=self.address,
            journal=self.journal,
            runtimes=[SimRuntime(self)],
            dialer=self._network.dialer(self.name, self._heard),
            data_plane=self.data_plane,
            clock=self.clock,
            rng=random.Random(f"{self._seed} {self.name} {self._lives}"),
            usage=lambda tasks: Usage(tasks=tasks),
            guard=self.guard,
        )
        self._process = Process(f"agent {self.name}")
        self.journal.process = self._process
        self._running = asyncio.get_running_loop().create_task(
            agent.run(stop=self._stop), name=f"agent {self.name}", context=self._process.context
        )
        self._running.add_done_callback(self._ended)

    def watch_endpoints(self) -> None:
        self.data_plane.fewest = len(_tasks(self.data_plane.services))

    @property
    def frozen(self) -> bool:
        return self._process.frozen

    def freeze(self) -> None:
        """The agent stands still; its containers and its relay go on."""
        self._process.freeze()

    def thaw(self) -> None:
        self._process.thaw()

    async def kill_agent(self) -> None:
        """As `kill -9`: nothing is said to anybody, and the engine goes on with what it was asked."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})

    async def stop_agent(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            self._stop.set()
            await asyncio.wait({running})

    async def die(self) -> None:
        """The whole machine, at once. Nothing answers while it is dead."""
        self._network.machine_died(self.name)
        self.engine.away = "the machine is dead"
        operations, self._operations = self._operations, {}
        for operation in operations:
            operation.cancel()
        await self.kill_agent()
        self.engine.lose_power()
        self.guard.lose_power()
        self.data_plane.lose_power()

    def lose_disk(self) -> None:
        """The agent's data directory is gone, but for the copy of the node's id."""
        assert self._running is None
        self.journal.close()
        self.journal = SimJournal.on(self.node_id, self._record.violated)
        self.guard = SimGuard(self.engine)  # the one before goes on with what it knows

    def copy_disk_of(self, other: Machine) -> None:
        """The disk's image was cloned: the agent here believes that it is that node."""
        assert self._running is None
        self.journal.close()
        self.node_id, self.journal = other.node_id, other.journal.copy()

    def _ended(self, running: asyncio.Task[None]) -> None:
        if not running.cancelled() and running.exception() is not None:
            trace = "".join(traceback.format_exception(running.exception()))
            self._record.violated(f"the agent of {self.name} failed: {trace}")

    # --- the engine

    async def go_on(self, operation: Coroutine[object, object, ResultT]) -> ResultT:
        """Carry an operation out whether or not its caller lives to see it."""
        task = asyncio.get_running_loop().create_task(operation, context=outside())
        self._operations[task] = None  # type: ignore[index]
        task.add_done_callback(self._operation_done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("the machine died") from None
            raise

    def asked_to_stop(self, container: FakeContainer) -> None:
        memory = self.journal.memories.get(container.identity.task_id)
        doomed = memory is not None and bool(memory.doom or memory.fenced)
        self._witness.asked_to_stop(self.name, container, doomed=doomed)

    def _heard(self, connection: Connection, message: ControllerMessage | None) -> None:
        """I2: whoever reads an epoch that is over reads nothing more from there."""
        if message is None and connection in self._stale:
            self._record.violated(f"I2: the agent of {self.name} goes on with {connection.address}, of {self._stale}")
        elif message is not None and message.epoch < self.journal.highest_epoch:
            self._stale[connection] = message.epoch

    def _operation_done(self, task: asyncio.Task[object]) -> None:
        self._operations.pop(task, None)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone


def _tasks(services: tuple[Service, ...]) -> dict[str, None]:
    return {endpoint.task_id: None for service in services for endpoint in service.endpoints}
