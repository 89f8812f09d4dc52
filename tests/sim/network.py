"""A seeded network in memory: ordered links with delays, that break, go silent one way or both, and deliver late.

Implements the `Dialer` of agents; whoever listens at an address is handed the other end of each link. A silent path
loses nothing: as with TCP, what was sent arrives when the path heals, if both ends still hold on to the link. A link
that is torn loses what was on its way. Between links there is no order. What is on its way arrives though its sender
is frozen or dead.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

from common.dispatch import AgentLink
from common.errors import Unavailable
from common.model.session import AgentMessage, ControllerMessage
from tests.sim.loop import outside

MessageT = TypeVar("MessageT")

DELAY_S = (0.0003, 0.01)
SLOW_DELAY_S = (0.3, 1.2)
SYN_AGAIN_S = (1.0, 2.0)
"""A system that hears no answer asks again, and an agent gives up after the second time."""


class Way(enum.Enum):
    """Of what an agent and a controller say to each other; agents dial, and need both ways for it."""

    UP = "up"
    DOWN = "down"


BOTH = (Way.UP, Way.DOWN)


class _Direction(Generic[MessageT]):
    """One way of one link: messages in order, each due at its time of arrival. None is the end."""

    def __init__(self, delay_s: Callable[[], float]) -> None:
        self._delay_s = delay_s
        self._due_s = 0.0
        self._arrived: asyncio.Queue[MessageT | None] = asyncio.Queue()
        self._under_way: deque[MessageT | None] = deque()
        self._held: deque[MessageT | None] | None = None
        self._vanished = False
        self.closed = False

    def put(self, message: MessageT | None) -> None:
        if self.closed or self._vanished:
            return
        self.closed = message is None
        loop = asyncio.get_running_loop()
        self._due_s = max(self._due_s, loop.time() + self._delay_s())
        self._under_way.append(message)  # timers of the same moment fire in any order
        loop.call_at(self._due_s, self._arrive, context=outside())

    async def get(self) -> MessageT:
        message = await self._arrived.get()
        if message is None:
            self._arrived.put_nowait(None)
            raise Unavailable("the link ended")
        return message

    def hold(self) -> None:
        self._held = deque() if self._held is None else self._held

    def heal(self) -> None:
        held, self._held = self._held or (), None
        for message in held:
            self._deliver(message)

    def vanish(self) -> None:
        """Nothing sent from now on or still under way arrives, not even the end."""
        self._vanished = True

    def tear(self) -> None:
        """What is under way is lost, and the reader finds the end."""
        if not self._vanished:
            self._vanished = self.closed = True
            self._arrived.put_nowait(None)

    def _arrive(self) -> None:
        self._deliver(self._under_way.popleft())

    def _deliver(self, message: MessageT | None) -> None:
        if self._vanished:
            return
        if self._held is not None:
            self._held.append(message)
        else:
            self._arrived.put_nowait(message)


class Connection:
    """Both directions of one link, and how each end sees it."""

    def __init__(self, machine: str, address: str, delay_s: Callable[[], float]) -> None:
        self.machine = machine
        self.address = address
        self.up: _Direction[AgentMessage] = _Direction(delay_s)
        self.down: _Direction[ControllerMessage] = _Direction(delay_s)

    def close(self) -> None:
        """Either end lets go: the other one reads the end after all that was sent before."""
        self.up.put(None)
        self.down.put(None)

    def vanish(self) -> None:
        self.up.vanish()
        self.down.vanish()

    def tear(self) -> None:
        self.up.tear()
        self.down.tear()

    def hold(self, way: Way) -> None:
        (self.up if way is Way.UP else self.down).hold()

    def heal(self, way: Way) -> None:
        (self.up if way is Way.UP else self.down).heal()


class AgentEnd:
    """An `AgentLink`. As with grpc.aio a write that is cancelled takes the link along."""

    def __init__(self, connection: Connection, heard: Heard) -> None:
        self._connection = connection
        self._heard = heard

    async def send(self, message: AgentMessage) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._connection.close()
            raise
        if self._connection.up.closed:
            raise Unavailable("the link ended")
        self._connection.up.put(message)

    async def receive(self) -> ControllerMessage:
        self._heard(self._connection, None)
        message = await self._connection.down.get()
        self._heard(self._connection, message)
        return message


class ControllerEnd:
    """A `ControllerLink`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(self, message: ControllerMessage) -> None:
        await asyncio.sleep(0)
        if self._connection.down.closed:
            raise Unavailable("the link ended")
        self._connection.down.put(message)

    async def receive(self) -> AgentMessage:
        return await self._connection.up.get()


Serve = Callable[[Connection], None]
Heard = Callable[[Connection, ControllerMessage | None], None]
"""Told when an agent begins to wait for a message (None), and what it then read."""


class Network:
    """See the module. Paths are pairs of a machine's name and a controller's address."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._listeners: dict[str, Serve] = {}
        self._dead: dict[str, None] = {}
        self._connections: dict[Connection, None] = {}
        self._silent: dict[tuple[str, str, Way], None] = {}
        self._slow: dict[str, None] = {}

    @property
    def links(self) -> int:
        return len(self._connections)

    def dialer(self, machine: str, heard: Heard) -> _Dialer:
        return _Dialer(self, machine, heard)

    def listen(self, address: str, serve: Serve) -> None:
        self._dead.pop(address, None)
        self._listeners[address] = serve

    def refuse(self, address: str) -> None:
        """Nobody new is let in at `address`; who is there may stay."""
        self._listeners.pop(address, None)

    def close(self, address: str, *, silently: bool) -> None:
        """Nobody is at `address` any more; `silently`, nobody says so."""
        self.refuse(address)
        if silently:
            self._dead[address] = None
        self._end([one for one in self._connections if one.address == address], silently=silently)

    def machine_died(self, machine: str) -> None:
        self._end([one for one in self._connections if one.machine == machine], silently=True)

    def break_links(self, machine: str) -> None:
        """Both ends notice at once; new links work. What is on its way arrives first, or is lost."""
        for connection in [one for one in self._connections if one.machine == machine]:
            if self._rng.random() < 0.5:
                connection.tear()
            else:
                connection.close()
            self.forget(connection)

    def silence(self, machine: str, address: str, ways: Iterable[Way] = BOTH) -> None:
        for way in ways:
            self._silent[machine, address, way] = None
            for connection in self._between(machine, address):
                connection.hold(way)

    def heal(self, machine: str, address: str) -> None:
        """Links that both ends still hold on to go on, unless their systems gave up in the meantime."""
        for way in BOTH:
            self._silent.pop((machine, address, way), None)
        for connection in self._between(machine, address):
            if self._rng.random() < 0.2:
                connection.tear()
                self.forget(connection)
            for way in BOTH:
                connection.heal(way)

    def slow(self, machine: str, *, slow: bool) -> None:
        self._slow.pop(machine, None)
        if slow:
            self._slow[machine] = None

    @asynccontextmanager
    async def dial(self, machine: str, address: str, heard: Heard) -> AsyncIterator[AgentEnd]:
        connection = await self._connect(machine, address)
        try:
            yield AgentEnd(connection, heard)
        finally:
            connection.close()

    def forget(self, connection: Connection) -> None:
        """Both ends are done with it."""
        self._connections.pop(connection, None)

    async def _connect(self, machine: str, address: str) -> Connection:
        for wait_s in SYN_AGAIN_S:
            if not self._is_silent(machine, address) and address not in self._dead:
                break
            await asyncio.sleep(wait_s)
        else:
            raise Unavailable(f"no connection within {sum(SYN_AGAIN_S):g} s")
        await asyncio.sleep(self._delay_s(machine))
        serve = self._listeners.get(address)
        if serve is None or self._is_silent(machine, address):
            raise Unavailable("connection refused")
        connection = Connection(machine, address, lambda: self._delay_s(machine))
        self._connections[connection] = None
        serve(connection)
        return connection

    def _is_silent(self, machine: str, address: str) -> bool:
        return any((machine, address, way) in self._silent for way in BOTH)

    def _delay_s(self, machine: str) -> float:
        return self._rng.uniform(*(SLOW_DELAY_S if machine in self._slow else DELAY_S))

    def _between(self, machine: str, address: str) -> list[Connection]:
        return [one for one in self._connections if (one.machine, one.address) == (machine, address)]

    def _end(self, connections: list[Connection], *, silently: bool) -> None:
        for connection in connections:
            if silently:
                connection.vanish()
            else:
                connection.close()
            self.forget(connection)


class _Dialer:
    """A machine's way into the network; a `Dialer`."""

    def __init__(self, network: Network, machine: str, heard: Heard) -> None:
        self._network = network
        self._machine = machine
        self._heard = heard

    def dial(self, address: str) -> AbstractAsyncContextManager[AgentLink]:
        return self._network.dial(self._machine, address, self._heard)
