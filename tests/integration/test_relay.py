"""The relay as the agent uses it: a real process, real sockets, endpoints that come, refuse, drain and go."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.network.interface import DataPlaneState
from agent.network.relay_plane import RelayPlane
from agent.network.shared import SharedDataPlane
from common.model.endpoint import Endpoint, Service
from common.model.job import Protocol
from tests.cluster.processes import processes_naming
from tests.ports import free_port
from tests.process_table import lives

HOST = "127.0.0.1"


class Backend:
    """A task that answers each line with its name and the line, and can be told when to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.lines = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> Backend:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.lines += 1
            writer.write(self.name.encode() + b" " + line)
        writer.write(b"bye\n")
        writer.close()

    def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(task_id=self.name, slot=1, node_id="n", address=HOST, port=self.port)


def service(port: int, *backends: Backend, protocol: Protocol = Protocol.TCP) -> Service:
    return Service(
        namespace="shop",
        job="web",
        container_port=80,
        published_port=port,
        protocol=protocol,
        endpoints=tuple(backend.endpoint for backend in backends),
    )


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[RelayPlane]:
    # A directory deeper than a socket's path may be long.
    plane = RelayPlane(tmp_path / ("deep" * 30) / "network", HOST, random.Random(1))
    await plane.start()
    yield plane
    await plane.close(stop=True)


@pytest.fixture
async def backends() -> AsyncIterator[Callable[[str], object]]:
    started: list[Backend] = []

    async def start(name: str) -> Backend:
        started.append(await Backend(name).start())
        return started[-1]

    yield start
    for backend in started:
        backend.stop()


async def ask(port: int, line: bytes = b"hello\n") -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    return answer


class Watched:
    """The states a plane told, and a way to wait for one."""

    def __init__(self, plane: RelayPlane) -> None:
        self.last = DataPlaneState(revision=-1)
        self._news = asyncio.Event()
        plane.subscribe(self._take)

    def _take(self, state: DataPlaneState) -> None:
        self.last = state
        self._news.set()

    async def until(self, holds: Callable[[DataPlaneState], bool]) -> DataPlaneState:
        async with asyncio.timeout(20):
            while not holds(self.last):
                self._news.clear()
                await self._news.wait()
        return self.last


async def test_connections_go_to_all_endpoints_in_turn(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    one, two = await backends("one"), await backends("two")
    await plane.apply(1, (service(port, one, two),))
    answers = [await ask(port) for _ in range(6)]
    assert sorted(answers) == [b"one hello\n"] * 3 + [b"two hello\n"] * 3


async def test_an_endpoint_that_refuses_costs_no_connection(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    one, two = await backends("one"), await backends("two")
    await plane.apply(1, (service(port, one, two),))
    two.stop()
    assert {await ask(port) for _ in range(8)} == {b"one hello\n"}


async def test_a_connection_waits_for_the_only_endpoint_to_come_back(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    one = await backends("one")
    await plane.apply(1, (service(port),))
    asked = asyncio.ensure_future(ask(port))
    await plane.apply(2, (service(port, one),))
    assert await asked == b"one hello\n"


async def test_a_withdrawn_endpoint_finishes_what_it_has_and_gets_nothing_new(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    old, new = await backends("old"), await backends("new")
    watched = Watched(plane)
    await plane.apply(1, (service(port, old),))
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"first\n")
    assert await reader.readline() == b"old first\n"
    await plane.apply(2, (service(port, new),))
    assert (await watched.until(lambda state: state.revision == 2)).draining == ("old",)
    assert await ask(port) == b"new hello\n"
    writer.write(b"second\n")
    assert await reader.readline() == b"old second\n"
    writer.close()
    await watched.until(lambda state: state.draining == ())


async def test_half_closed_connections_still_get_their_answer(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    await plane.apply(1, (service(port, await backends("one")),))
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"hello\n")
    writer.write_eof()
    assert await reader.read() == b"one hello\nbye\n"
    writer.close()


async def test_a_connection_that_both_sides_have_ended_drains_nothing(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    watched = Watched(plane)
    await plane.apply(1, (service(port, await backends("one")),))
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write_eof()
    assert await reader.read() == b"bye\n"
    writer.close()
    await plane.apply(2, (service(port),))
    await watched.until(lambda state: state.revision == 2 and state.draining == ())


async def test_a_large_transfer_arrives_whole_through_back_pressure(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    backend = await backends("x")
    await plane.apply(1, (service(port, backend),))
    reader, writer = await asyncio.open_connection(HOST, port, limit=2**20)
    sent = b"y" * 1_000 + b"\n"

    async def send() -> None:
        for _ in range(4_000):
            writer.write(sent)
            await writer.drain()

    sending = asyncio.ensure_future(send())
    for _ in range(4_000):
        assert await reader.readline() == b"x " + sent
    await sending
    writer.close()


async def test_a_removed_service_frees_its_port(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    await plane.apply(1, (service(port, await backends("one")),))
    await plane.apply(2, ())
    with pytest.raises(ConnectionRefusedError):
        await ask(port)


async def test_a_port_held_by_another_program_is_a_problem_until_it_is_free(plane, backends) -> None:  # type: ignore[no-untyped-def]
    watched = Watched(plane)
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = free_port()
        holder.bind((HOST, port))
        holder.listen()
        await plane.apply(1, (service(port, await backends("one")),))
        state = await watched.until(lambda state: bool(state.problems))
        assert f"port {port}/tcp on {HOST}" in state.problems[0].text
        assert "in use" in state.problems[0].text
    await watched.until(lambda state: not state.problems)
    assert await ask(port) == b"one hello\n"


async def test_it_serves_on_while_its_agent_is_away_and_is_found_again(tmp_path: Path, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    first = RelayPlane(tmp_path, HOST, random.Random(1))
    await first.start()
    await first.apply(7, (service(port, await backends("one")),))
    await first.close(stop=False)
    assert await ask(port) == b"one hello\n"
    second = RelayPlane(tmp_path, HOST, random.Random(2))
    await second.start()
    assert second.pid == first.pid
    await second.close(stop=True)
    assert list(tmp_path.iterdir()) == []


async def test_one_that_serves_nobody_yet_does_not_outlive_its_agent(tmp_path: Path) -> None:
    made = RelayPlane(tmp_path, HOST, random.Random(1))
    await made.start()
    await made.close(stop=False)
    assert not lives(made.pid)


async def test_its_process_is_gone_when_it_was_stopped(tmp_path: Path) -> None:
    plane = RelayPlane(tmp_path, HOST, random.Random(1))
    await plane.start()
    assert lives(plane.pid)
    await plane.close(stop=True)
    assert not lives(plane.pid)


async def test_a_file_of_the_same_name_where_the_agent_was_started_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.py").write_text("raise SystemExit('not the relay')")
    monkeypatch.chdir(tmp_path)
    plane = RelayPlane(tmp_path / "relay", HOST, random.Random(1))
    await plane.start()
    assert lives(plane.pid)
    await plane.close(stop=True)


@pytest.mark.parametrize("sign", ["relay", "relay/relay.log", "relay/relay.pid", "relay/relay.sock"])
async def test_a_start_that_was_given_up_leaves_no_relay(tmp_path: Path, sign: str) -> None:
    """Given up as soon as the file `sign` shows how far it has come."""
    shared = SharedDataPlane(RelayPlane(tmp_path / "relay", HOST, random.Random(1)))
    starting = asyncio.ensure_future(shared.start())
    async with asyncio.timeout(10):
        while not (tmp_path / sign).exists():  # noqa: ASYNC110  another process makes it
            await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await shared.close_all(stop=True)
    assert processes_naming(tmp_path) == []


async def test_a_relay_that_an_agent_before_left_is_ended_without_having_been_started(tmp_path: Path) -> None:
    first = RelayPlane(tmp_path, HOST, random.Random(1))
    await first.start()
    await first.apply(1, ())
    await first.close(stop=False)
    assert lives(first.pid)
    await SharedDataPlane(RelayPlane(tmp_path, HOST, random.Random(2))).close_all(stop=True)
    assert not lives(first.pid)


async def test_a_killed_relay_is_started_again_with_what_it_served(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    watched = Watched(plane)
    await plane.apply(3, (service(port, await backends("one")),))
    before = plane.pid
    os.kill(before, signal.SIGKILL)
    await watched.until(lambda _: plane.pid != before)
    await watched.until(lambda state: state.revision == 3)
    assert await ask(port) == b"one hello\n"


async def test_a_damaged_memory_is_no_reason_not_to_serve(tmp_path: Path, backends) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "relay.json").write_bytes(b"{")
    plane = RelayPlane(tmp_path, HOST, random.Random(1))
    await plane.start()
    port = free_port()
    await plane.apply(1, (service(port, await backends("one")),))
    assert await ask(port) == b"one hello\n"
    await plane.close(stop=True)


async def test_datagrams_of_one_client_go_to_one_endpoint_and_back(plane) -> None:  # type: ignore[no-untyped-def]
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(b"echo " + data, addr)  # type: ignore[attr-defined]

    class Client(asyncio.DatagramProtocol):
        answers: asyncio.Queue[bytes]

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.answers.put_nowait(data)

    loop = asyncio.get_running_loop()
    echo, _ = await loop.create_datagram_endpoint(Echo, local_addr=(HOST, 0))
    backend = Backend("udp")
    backend.port = echo.get_extra_info("sockname")[1]
    port = free_port()
    await plane.apply(1, (service(port, backend, protocol=Protocol.UDP),))
    sender, client = await loop.create_datagram_endpoint(Client, remote_addr=(HOST, port))
    client.answers = asyncio.Queue()
    for word in (b"one", b"two"):
        sender.sendto(word)
        async with asyncio.timeout(10):
            assert await client.answers.get() == b"echo " + word
    sender.close()
    echo.close()


async def test_agents_that_share_a_plane_serve_the_newest_of_what_they_were_told(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    shared = SharedDataPlane(plane)
    await shared.apply(5, (service(port, await backends("new")),))
    await shared.apply(4, (service(port, await backends("old")),))
    assert await ask(port) == b"new hello\n"


async def test_connections_are_counted_by_job(plane, backends) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    watched = Watched(plane)
    await plane.apply(1, (service(port, await backends("one")),))
    for _ in range(3):
        await ask(port)
    await plane.apply(2, ())
    assert (await watched.until(lambda state: state.revision == 2)).connections == {"shop/web": 3}
