"""A controller's process on its machine: the production controller over one handle on the shared memory database.

Killed, it says nothing to anybody; frozen, nothing of it runs until it is woken up. What it had sent to the store
before is on its way and arrives, though another may lead by then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from common.errors import Fenced, OutcomeUnknown, PodiumError, Superseded, Unavailable
from common.errors import Invalid as InvalidRequest
from common.model.epoch import Epoch
from controller.api.term import ApiFront
from controller.app import Controller, TermWork
from controller.loops.autoscale import Ask
from controller.settings import Timers
from controller.store.interface import LeaderRecord, Leadership, Operation
from controller.store.limits import check_operations
from controller.store.memory import MemoryDatabase, MemoryStore
from tests.sim.loop import Process, outside
from tests.sim.network import Connection, ControllerEnd, Network
from tests.sim.record import Record
from tests.sim.witness import Witness

AnswerT = TypeVar("AnswerT")

COMMIT_S = (0.0002, 0.004)
SUPERVISOR_S = 1.0
"""After which a controller that ended itself is started again."""
DEADLINE_S = 30.0
"""Of an engineer's request."""


class SimDatabase(MemoryDatabase):
    """A database whose every commit the witness sees, and whose leases lapse whoever is frozen.

    It may stand still itself, or have no space left.
    """

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self.full = False
        """Leases are renewed and given back, nothing is written: so nobody can be elected."""
        self.last_elected = ""
        self._witness = witness
        self._awake = asyncio.Event()
        self._awake.set()

    async def awake(self) -> None:
        await self._awake.wait()

    def freeze(self) -> None:
        """Nothing is answered or carried out, and no lease lapses."""
        self._awake.clear()
        if self._expiry is not None:
            self._expiry.cancel()

    def thaw(self) -> None:
        """As a restarted etcd, it gives leases their full time again."""
        self._awake.set()
        if self.leader is not None:
            self._arm()

    def make_room(self) -> None:
        self.full = False
        self._set_leader(self.leader)  # candidates look again

    def elect(self, candidate: LeaderRecord) -> Epoch | None:
        if self.full:
            return None
        epoch = super().elect(candidate)
        self.last_elected = candidate.controller_id if epoch else self.last_elected
        return epoch

    def apply(self, epoch: Epoch, operations: Sequence[Operation]) -> int:
        holder = None if self.leader is None else self.leader.epoch
        revision = super().apply(epoch, operations)
        self._witness.committed(epoch, holder, operations)
        return revision

    def _arm(self) -> None:
        outside().run(super()._arm)


class SimStore(MemoryStore):
    """A handle whose commits take time on their way there and back.

    What is on its way arrives although its sender is frozen, dead or cut off by then, and only the answer is lost.
    """

    _database: SimDatabase

    def __init__(self, database: SimDatabase, rng: random.Random) -> None:
        super().__init__(database)
        self.wire_s = 0.0
        """So much longer are commits on their way, whoever waits for them."""
        self._rng = rng

    async def _reach(self) -> None:
        await super()._reach()
        await self._database.awake()

    async def _commit(self, leadership: Leadership, operations: Sequence[Operation], generation: int | None) -> int:
        check_operations(operations)
        if self._in_doubt == leadership.epoch:
            raise Fenced("the outcome of an earlier commit is unknown, so this term must end")
        await self._reach()
        if self._database.full:
            raise Unavailable("the store has no space left")
        loop = asyncio.get_running_loop()
        on_its_way = loop.create_task(self._arrive(leadership.epoch, operations, generation), context=outside())
        try:
            revision = await asyncio.shield(on_its_way)
            if not self.reachable:
                raise OutcomeUnknown("the store was cut off before it answered")
        except (asyncio.CancelledError, OutcomeUnknown):
            self._in_doubt = leadership.epoch
            on_its_way.add_done_callback(_whatever_came_of_it)
            raise
        return revision

    async def _arrive(self, epoch: Epoch, operations: Sequence[Operation], generation: int | None) -> int:
        await asyncio.sleep(self._rng.uniform(*COMMIT_S) + self._rng.random() * self.delay_s + self.wire_s)
        await self._database.awake()
        revision = self._apply(epoch, operations, generation)
        await asyncio.sleep(self._rng.uniform(*COMMIT_S))
        return revision


def _superseded(error: BaseException) -> bool:
    return isinstance(error, Superseded) or (
        isinstance(error, BaseExceptionGroup) and all(map(_superseded, error.exceptions))
    )


def _whatever_came_of_it(work: asyncio.Task[AnswerT]) -> None:
    if not work.cancelled():
        work.exception()


async def _asked(front: ApiFront, ask: Callable[[ApiFront], Awaitable[AnswerT]]) -> AnswerT:
    return await ask(front)


class Site:
    """See the module."""

    def __init__(
        self,
        name: str,
        *,
        seed: int,
        database: SimDatabase,
        network: Network,
        timers: Timers,
        record: Record,
        ask: Ask,
    ) -> None:
        self.name = name
        self.address = f"{name}:7077"
        self.store: SimStore | None = None
        self.controller: Controller | None = None
        self.skew_s = random.Random(f"{seed} {name}").uniform(-0.5, 0.5)
        """What its wall clock is off by."""
        self._seed = seed
        self._database = database
        self._network = network
        self._timers = timers
        self._record = record
        self._ask = ask
        self._lives = 0
        self._identity = LeaderRecord(controller_id=name, address=self.address)
        self._running: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._dead = asyncio.Event()
        self._process = Process(name)
        self._sessions: dict[asyncio.Task[None], None] = {}

    @property
    def up(self) -> bool:
        return self.controller is not None

    @property
    def frozen(self) -> bool:
        return self._process.frozen

    def freeze(self) -> None:
        """As SIGSTOP: nobody is told."""
        self._process.freeze()

    def thaw(self) -> None:
        self._process.thaw()

    @property
    def work(self) -> TermWork | None:
        """What its term has, while it leads."""
        return None if self.controller is None else self.controller.work

    def clock(self) -> float:
        return 1_700_000_000.0 + self.skew_s + asyncio.get_running_loop().time()

    def start(self) -> None:
        assert self.controller is None
        self._begin()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._lives += 1
        life = f"{self._seed} {self.name} {self._lives}"
        self.store = SimStore(self._database, random.Random(f"{life} store"))
        self._stop, self._dead = asyncio.Event(), asyncio.Event()
        self._process = Process(f"{self.name} life {self._lives}")
        self._identity = LeaderRecord(controller_id=f"{self.name}-{self._lives}", address=self.address)
        self.controller = Controller(
            self.store,
            identity=self._identity,
            timers=self._timers,
            clock=self.clock,
            boottime=loop.time,
            rng=random.Random(life),
            abort=lambda reason: self._record.violated(f"{self.name} ended itself: {reason}"),
            ask=self._ask,
        )
        running = self.controller.run(self._stop)
        self._running = loop.create_task(running, name=self.name, context=self._process.context)
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

    async def call(self, ask: Callable[[ApiFront], Awaitable[AnswerT]]) -> AnswerT:
        """One request of an engineer. Raises `Unavailable` when the controller dies under it."""
        if self.controller is None:
            raise Unavailable("connection refused")
        asked = _asked(self.controller.api, ask)
        call = asyncio.get_running_loop().create_task(asked, context=self._process.context)
        died = asyncio.ensure_future(self._dead.wait())
        try:
            await asyncio.wait({call, died}, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_S)
        finally:
            died.cancel()
        if call.done():
            return call.result()
        call.cancel()
        call.add_done_callback(_whatever_came_of_it)
        raise Unavailable("the controller died or froze under the request")

    # --- agents

    def _serve(self, connection: Connection) -> None:
        assert self.controller is not None
        serving = self.controller.dispatcher.serve(ControllerEnd(connection), connection.machine)
        session = asyncio.get_running_loop().create_task(
            serving, name=f"{self.name} serves {connection.machine}", context=self._process.context
        )
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
        error = None if running.cancelled() else running.exception()
        if error is None:
            return
        if _superseded(error) and self._database.last_elected != self._identity.controller_id:
            self._record.note("exit", f"{self.name} was superseded")
            self._network.close(self.address, silently=False)
            asyncio.get_running_loop().call_later(SUPERVISOR_S, self._again, self._lives, context=outside())
        else:
            self._record.violated(f"controller {self.name} failed: {error!r}")

    def _again(self, lives: int) -> None:
        """As systemd does, unless somebody else has dealt with it."""
        if self.frozen:  # the supervisor waits with it
            asyncio.get_running_loop().call_later(SUPERVISOR_S, self._again, lives, context=outside())
        elif self.controller is not None and self._lives == lives:
            self._begin()
