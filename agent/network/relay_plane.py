"""The agent's side of the relay: starts the process or finds the running one, feeds it, and hears what it does.

When the relay dies it is started again and fed what it should serve. Knows nothing of the controller.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

from agent.network.feed import LINE_LIMIT_BYTES, LOG, PROTOCOL, Feed, Order, Quit, RelayState, socket_path
from agent.network.interface import NO_CERTIFICATES, Certificates, DataPlaneState, listeners_of
from agent.network.names.book import AddressBook
from common.backoff import Backoff
from common.errors import Unavailable
from common.model.endpoint import Service
from common.model.ids import Rng
from common.model.job import Protocol as Transport

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
"""For the relay's process to listen: Python starts in a fifth of a second, on a machine in trouble much later."""

APPLY_TIMEOUT_S = 10.0
"""For a feed to be carried out; opening a thousand ports takes less than one second."""

RESTART = Backoff(first_s=0.1, limit_s=10.0)

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group id, as Linux gives them for `SO_PEERCRED`."""

_decoder = msgspec.json.Decoder(RelayState)

Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class RelayPlane:
    """A `DataPlane` over one relay process in `directory`, listening on `address`. It routes no HTTP.

    With a `book` it also answers names, and other jobs find each job where the book says. `datagrams_only`: the TCP of
    jobs is carried by another program beside it.
    """

    name = "relay"

    def __init__(
        self,
        directory: Path,
        address: str,
        rng: Rng,
        book: AddressBook | None = None,
        *,
        datagrams_only: bool = False,
    ) -> None:
        self._directory = directory
        self._address = address
        self._rng = rng
        self._book = book
        self._datagrams_only = datagrams_only
        self._feed: Feed | None = None
        self._state = RelayState(pid=0, revision=-1)
        self._subscribers: list[Callable[[DataPlaneState], None]] = []
        self._connection: Connection | None = None
        self._heard = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the relay's process; 0 while none was heard."""
        return self._state.pid

    async def start(self) -> None:
        """Find the running relay or start one. Raises `Unavailable` with its last words when it does not come up."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._begin()
        if self._state.protocol != PROTOCOL:
            log.warning("the running relay speaks protocol %d, not %d: replacing it", self._state.protocol, PROTOCOL)
            await self.close(stop=True)
            await self._begin()

    async def _begin(self) -> None:
        self._state = RelayState(pid=0, revision=-1)
        reader = await self._connect()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(reader))
        await self._until(lambda: self._state.pid != 0, START_TIMEOUT_S, "did not say what it serves")

    async def found(self) -> bool:
        """Whether one runs already in this directory."""
        connection = await self._dial() if self._directory.exists() else None
        if connection is not None:
            connection[1].close()
        return connection is not None

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        self._feed = self._feed_of(revision, tuple(service for service in services if service.http is None))
        self._send(self._feed)
        await self._until(
            lambda: self._state.revision == revision, APPLY_TIMEOUT_S, f"did not apply revision {revision}"
        )

    def _feed_of(self, revision: int, services: tuple[Service, ...]) -> Feed:
        names = self._book.names_of(services) if self._book is not None else None
        listeners = listeners_of(self._address, services, names)
        if self._datagrams_only:
            listeners = tuple(listener for listener in listeners if listener.protocol is Transport.UDP)
        return Feed(revision=revision, services=services, listeners=listeners, names=names)

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._subscribers.append(changed)

    async def metrics(self) -> bytes:
        return b""  # it counts connections only, which are in its state

    async def close(self, *, stop: bool) -> None:
        """Let go of the relay; with `stop`, end it: its process, ports and files are gone when this returns. One that
        was never told what to serve serves nobody, and is ended in any case."""
        stop = stop or (self._connection is not None and self._state.revision < 0)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if stop and self._connection is None and self._directory.exists():
            self._connection = await self._dial()  # one whose start was cancelled, or an earlier agent's
        if self._connection is None:
            return
        _, writer = self._connection
        self._connection = None
        if stop:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                with _end_of_peer(writer) as ended:
                    writer.write(_line(Quit()))
                    await ended.wait()
            (self._directory / LOG).unlink(missing_ok=True)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    # --- the connection

    async def _keep(self, reader: asyncio.StreamReader) -> None:
        """Hear the relay; when it goes away bring it back and feed it again, for as long as the agent lives."""
        while True:
            await self._hear(reader)
            self._drop()
            reader = await self._bring_back()
            if self._feed is not None:
                self._send(self._feed)

    async def _bring_back(self) -> asyncio.StreamReader:
        for failures in itertools.count(1):
            log.warning("the relay went away: starting it again")
            await asyncio.sleep(RESTART.full_jitter_s(failures, self._rng))
            try:
                return await self._connect()
            except Unavailable as error:
                log.error("%s", error)
        raise AssertionError("unreachable: the count has no end")

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(_decoder.decode(line))
        except (OSError, ValueError) as error:
            log.warning("the relay's connection ended: %s", error)

    def _take(self, state: RelayState) -> None:
        self._state = state
        self._heard.set()
        self._heard = asyncio.Event()
        plane = DataPlaneState(
            revision=state.revision,
            draining=state.draining,
            problems=state.problems,
            connections=state.connections,
            open=state.open,
            parked=state.parked,
            refused=state.refused,
            wanted=state.wanted,
        )
        for subscriber in self._subscribers:
            subscriber(plane)

    def _send(self, order: Order) -> None:
        if self._connection is not None:
            self._connection[1].write(_line(order))

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None

    async def _until(self, reached: Callable[[], bool], timeout_s: float, failing: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not reached():
                    await self._heard.wait()
        except TimeoutError:
            raise Unavailable(
                f"the relay in {self._directory} {failing} within {timeout_s:g} s{self._words()}"
            ) from None

    async def _connect(self) -> asyncio.StreamReader:
        """A connection to the relay of this directory, which is started when none answers."""
        connection = await self._dial()
        if connection is None:
            await self._spawn()
            connection = await self._dial()
        if connection is None:
            raise Unavailable(f"the relay in {self._directory} cannot be reached{self._words()}")
        self._connection = connection
        return connection[0]

    async def _dial(self) -> Connection | None:
        try:
            with socket_path(self._directory) as path:
                return await asyncio.open_unix_connection(path, limit=LINE_LIMIT_BYTES)
        except OSError:
            return None

    async def _spawn(self) -> None:
        """Start the relay; the process that is waited for here ends when the relay listens."""
        with (self._directory / LOG).open("ab") as output:
            starter = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "agent.network.relay", "--directory", str(self._directory)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        listening = asyncio.ensure_future(starter.wait())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                code = await asyncio.shield(listening)
        except TimeoutError:
            starter.kill()
            await listening
            raise Unavailable(f"the relay did not listen within {START_TIMEOUT_S:g} s{self._words()}") from None
        except asyncio.CancelledError:
            # A fraction of a second more, and `close` finds the relay to end it; given up now, nobody would.
            await asyncio.wait([listening], timeout=START_TIMEOUT_S)
            raise
        if code:
            raise Unavailable(f"the relay did not start (exit code {code}){self._words()}")

    def _words(self) -> str:
        """The last line of the relay's log, for an error's text."""
        try:
            lines = (self._directory / LOG).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return f"; it said: {lines[-1]}" if lines else ""


@contextmanager
def _end_of_peer(writer: asyncio.StreamWriter) -> Iterator[asyncio.Event]:
    """Set when the process at the other end of a local connection is gone.

    The connection's own end comes some 50 ms earlier, while Python still takes the process down.
    """
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        pidfd = os.pidfd_open(_CREDENTIALS.unpack(credentials)[0])
    except ProcessLookupError:
        ended.set()
        yield ended
        return
    loop.add_reader(pidfd, ended.set)
    try:
        yield ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _line(order: Order) -> bytes:
    return msgspec.json.encode(order) + b"\n"
