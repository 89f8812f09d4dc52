"""The relay's process: `python -m agent.network.relay --directory D`. Serves what the agent feeds it over D/relay.sock.

It starts from the last feed on disk, outlives its agent, and ends on `Quit` or SIGTERM. Only one runs per directory.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import resource
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop

from agent.network.feed import LINE_LIMIT_BYTES, PID, STATE, Feed, Order, Quit, RelayState, socket_path
from agent.network.relay.service import Places
from agent.network.relay.switchboard import RETRY_S, Switchboard
from common import logs
from common.model.endpoint import TrafficProblem

if TYPE_CHECKING:
    from agent.network.names.server import NameServer

log = logging.getLogger("relay")
_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)

COALESCE_S = 0.01
"""Changes of state within this time are told as one."""

COUNTERS_S = 1.0
"""How often connection counters alone are told, where they changed: jobs are scaled by them."""


class Process:
    """Ties the switchboard to its socket, its file and the signals."""

    def __init__(self, directory: Path, listening: Callable[[], None]) -> None:
        self._directory = directory
        self._listening = listening
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._switchboard = Switchboard(self._state_changed, Places(files))
        self._names: NameServer | None = None
        self._names_problem = ""
        self._fed = Feed(revision=-1)
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._forget = False
        self._agents: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        last = self._last_feed()
        if last is not None:
            await self._carry_out(last)
        with socket_path(self._directory) as path:
            Path(path).unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self._serve_agent, path, limit=LINE_LIMIT_BYTES)
        log.info("serving; pid %d", os.getpid())
        self._listening()
        async with asyncio.TaskGroup() as group:
            chores = [group.create_task(self._tell()), group.create_task(self._retry())]
            await self._stop.wait()
            for chore in chores:
                chore.cancel()
        server.close()
        self._switchboard.close()
        if self._names is not None:
            self._names.close()
        with socket_path(self._directory) as path:
            Path(path).unlink(missing_ok=True)
        if self._forget:
            for name in (STATE, PID):
                (self._directory / name).unlink(missing_ok=True)

    async def _serve_agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._agents.add(writer)
        self._state_changed()
        try:
            async for order in orders_of(reader):
                await self._obey(order)
        finally:
            self._agents.discard(writer)
            writer.close()

    async def _obey(self, order: Order) -> None:
        match order:
            case Feed():
                self._remember(order)
                await self._carry_out(order)
            case Quit():
                self._forget = True
                self._stop.set()

    async def _carry_out(self, feed: Feed) -> None:
        self._fed = feed
        await self._name(feed)
        await self._switchboard.carry_out(feed)

    async def _name(self, feed: Feed) -> None:
        """Imported only where there are names: what it needs costs memory."""
        if self._names is None and feed.names is not None:
            from agent.network.names.server import NameServer

            self._names = NameServer(self._switchboard.slot_address)
        if self._names is not None:
            problem = await self._names.offer(feed.services, feed.names)
            if problem != self._names_problem:
                self._names_problem = problem
                self._state_changed()

    def _state(self) -> RelayState:
        state = self._switchboard.state()
        if not self._names_problem:
            return state
        return msgspec.structs.replace(
            state, problems=(*state.problems, TrafficProblem(service="", text=self._names_problem))
        )

    def _state_changed(self) -> None:
        self._changed.set()

    async def _tell(self) -> None:
        """Tell every agent the state when it changed, and the counters now and then."""
        told = b""
        while True:
            urgent = True
            try:
                async with asyncio.timeout(COUNTERS_S):
                    await self._changed.wait()
            except TimeoutError:
                urgent = False
            await asyncio.sleep(COALESCE_S)
            self._changed.clear()
            line = msgspec.json.encode(self._state()) + b"\n"
            if not urgent and line == told:
                continue
            told = line
            for writer in self._agents:
                if writer.transport.get_write_buffer_size() < LINE_LIMIT_BYTES:
                    writer.write(line)

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            await self._switchboard.retry()
            if self._names_problem:
                await self._name(self._fed)

    # --- the last feed on disk

    def _last_feed(self) -> Feed | None:
        path = self._directory / STATE
        try:
            return msgspec.json.decode(path.read_bytes(), type=Feed)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read (%s): starting empty, the agent will say what to serve", path, error)
            return None

    def _remember(self, feed: Feed) -> None:
        """Replace the file in one step. A full disk must not stop the traffic: the feed is served all the same."""
        try:
            with tempfile.NamedTemporaryFile(dir=self._directory, prefix=STATE, delete=False) as file:
                file.write(msgspec.json.encode(feed))
            Path(file.name).replace(self._directory / STATE)
        except OSError as error:
            log.warning("the endpoints could not be saved (%s): they would be lost if the relay restarted now", error)


async def orders_of(reader: asyncio.StreamReader) -> AsyncIterator[Order]:
    """What an agent says, until it hangs up or says what cannot be understood: then it has to begin anew."""
    try:
        while line := await reader.readline():
            yield _decoder.decode(line)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        log.warning("an agent's connection ended: %s", error)


def main() -> int:
    parser = argparse.ArgumentParser(prog="relay", description="The node's relay; started by the agent.")
    parser.add_argument("--directory", type=Path, required=True)
    directory: Path = parser.parse_args().directory
    reading, writing = os.pipe()
    if os.fork():
        # The caller waits for this process only: it ends as soon as the relay listens, or cannot.
        os.close(writing)
        return 0 if os.read(reading, 1) else 1
    os.close(reading)
    os.setsid()  # neither ^C nor the agent's end reaches it
    return _serve(directory, listening=lambda: _announce(writing))


def _announce(writing: int) -> None:
    os.write(writing, b"!")
    os.close(writing)


def _serve(directory: Path, listening: Callable[[], None]) -> int:
    logs.configure()
    lock = os.open(directory / PID, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        log.error("another relay serves %s already", directory)
        return 1
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    _raise_file_limit()
    uvloop.run(Process(directory, listening).run())
    return 0


def _raise_file_limit() -> None:
    """Two descriptors per connection: take as many as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
