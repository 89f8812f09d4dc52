"""A controller's process on its machine: the production controller over one handle on the shared memory database.

Killed, it says nothing to anybody, and what it had sent to the store may or may not have happened.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from common.errors import Invalid as InvalidRequest
from common.errors import OutcomeUnknown, PodiumError, Unavailable
from common.model.epoch import Epoch
from controller.api.jobs import JobsService
from controller.app import Controller, TermWork
from controller.settings import Timers
from controller.store.interface import LeaderRecord, Leadership, Operation
from controller.store.memory import MemoryDatabase, MemoryStore
from tests.sim.network import Connection, ControllerEnd, Network
from tests.sim.record import Record
from tests.sim.witness import Witness

AnswerT = TypeVar("AnswerT")

COMMIT_S = (0.0002, 0.004)


class SimDatabase(MemoryDatabase):
    """A database whose every commit the witness sees."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self._witness = witness

    def apply(self, epoch: Epoch, operations: Sequence[Operation]) -> int:
        revision = super().apply(epoch, operations)
        self._witness.committed(epoch, operations)
        return revision


class SimStore(MemoryStore):
    """A handle whose commits take time on their way there and back, so that an answer can be lost."""

    def __init__(self, database: MemoryDatabase, rng: random.Random) -> None:
        super().__init__(database)
        self._rng = rng

    async def commit(self, leadership: Leadership, operations: Sequence[Operation]) -> int:
        await asyncio.sleep(self._rng.uniform(*COMMIT_S))
        revision = await super().commit(leadership, operations)
        await asyncio.sleep(self._rng.uniform(*COMMIT_S))
        if not self.reachable:
            raise OutcomeUnknown("the store was cut off before it answered")
        return revision


class Site:
    """See the module."""

    def __init__(
        self, name: str, *, seed: int, database: SimDatabase, network: Network, timers: Timers, record: Record
    ) -> None:
        self.name = name
        self.address = f"{name}:7077"
        self.store: SimStore | None = None
        self.controller: Controller | None = None
        self.skew_s = random.Random(f"{seed} {name}").uniform(-0.5, 0.5)
        self._seed = seed
        self._database = database
        self._network = network
        self._timers = timers
        self._record = record
        self._lives = 0
        self._running: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._dead = asyncio.Event()
        self._sessions: dict[asyncio.Task[None], None] = {}

    @property
    def up(self) -> bool:
        return self.controller is not None

    @property
    def work(self) -> TermWork | None:
        """What its term has, while it leads."""
        return None if self.controller is None else self.controller.work

    def clock(self) -> float:
        return 1_700_000_000.0 + self.skew_s + asyncio.get_running_loop().time()

    def start(self) -> None:
        assert self.controller is None
        loop = asyncio.get_running_loop()
        self._lives += 1
        life = f"{self._seed} {self.name} {self._lives}"
        self.store = SimStore(self._database, random.Random(f"{life} store"))
        self._stop, self._dead = asyncio.Event(), asyncio.Event()
        self.controller = Controller(
            self.store,
            identity=LeaderRecord(controller_id=f"{self.name}-{self._lives}", address=self.address),
            timers=self._timers,
            clock=self.clock,
            boottime=loop.time,
            rng=random.Random(life),
            abort=lambda reason: self._record.violated(f"{self.name} ended itself: {reason}"),
        )
        self._running = loop.create_task(self.controller.run(self._stop), name=self.name)
        self._running.add_done_callback(self._ended)
        self._network.listen(self.address, self._serve)

    async def kill(self, *, silently: bool) -> None:
        """As `kill -9`; `silently`, the machine under it dies and nobody's link is closed."""
        assert self.store is not None
        self.store.reachable = False  # first: a dying process resigns nothing
        self._network.close(self.address, silently=silently)
        await self._end(cancel=True)

    async def stop(self) -> None:
        """As SIGTERM: it resigns, and says farewell to its agents."""
        self._network.refuse(self.address)
        self._stop.set()
        await self._end(cancel=False)
        self._network.close(self.address, silently=False)

    async def _end(self, *, cancel: bool) -> None:
        running, store = self._running, self.store
        assert running is not None
        assert store is not None
        self._dead.set()
        self.controller = None
        if cancel:
            for task in (running, *self._sessions):
                task.cancel()
        await asyncio.wait({running})
        if self._sessions:
            await asyncio.wait(set(self._sessions), timeout=self._timers.shutdown_s)
        for session in tuple(self._sessions):
            session.cancel()
        await store.close()
        self._running = self.store = None

    async def call(self, ask: Callable[[JobsService], Awaitable[AnswerT]]) -> AnswerT:
        """One request of an engineer. Raises `Unavailable` when the controller dies under it."""
        if self.controller is None:
            raise Unavailable("connection refused")
        call = asyncio.ensure_future(ask(JobsService(self.controller.api)))
        died = asyncio.ensure_future(self._dead.wait())
        await asyncio.wait({call, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if not call.done():
            call.cancel()
            await asyncio.wait({call})
            raise Unavailable("the controller died under the request")
        return call.result()

    # --- agents

    def _serve(self, connection: Connection) -> None:
        assert self.controller is not None
        serving = self.controller.dispatcher.serve(ControllerEnd(connection), connection.machine)
        session = asyncio.get_running_loop().create_task(serving, name=f"{self.name} serves {connection.machine}")
        self._sessions[session] = None
        session.add_done_callback(lambda done: self._served(done, connection))

    def _served(self, session: asyncio.Task[None], connection: Connection) -> None:
        self._sessions.pop(session, None)
        connection.close()
        self._network.forget(connection)
        if session.cancelled():
            return
        error = session.exception()
        if error is not None and (not isinstance(error, PodiumError) or isinstance(error, InvalidRequest)):
            self._record.violated(f"the session of {connection.machine} with {self.name} failed: {error!r}")

    def _ended(self, running: asyncio.Task[None]) -> None:
        if not running.cancelled() and running.exception() is not None:
            self._record.violated(f"controller {self.name} failed: {running.exception()!r}")
