"""What every data plane does for its agent: real processes and sockets, endpoints that come, refuse, drain and go."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec
import psutil
import pytest

from agent.network.haproxy.plane import HaproxyPlane
from agent.network.haproxy.program import find_program
from agent.network.haproxy.site import Web
from agent.network.interface import DataPlane
from agent.network.planes import BesideRelay
from agent.network.relay.proxy_header import proxy_header
from agent.network.relay_plane import RelayPlane
from agent.network.shared import SharedDataPlane
from common.model.endpoint import Service
from common.model.job import Protocol, ProxyProtocol
from tests.data_planes import HOST, Backend, Crowd, Watched, ask, service
from tests.ports import free_port
from tests.process_table import lives

CROWD_BYTES = 64 * 2**20
"""What a thousand that wait and the traces of those that were closed may take: a tenth of it is what they did."""
WAITING_LIMIT = 1_000
"""Connections to one job without endpoints that are kept waiting."""

Make: TypeAlias = Callable[[Path], DataPlane]
Start: TypeAlias = Callable[[str], Awaitable[Backend]]


def relay(directory: Path) -> DataPlane:
    return RelayPlane(directory, HOST, random.Random(1))


def haproxy(directory: Path) -> DataPlane:
    web = Web(address=HOST, http_port=free_port(), https_port=free_port())
    proxy = HaproxyPlane(directory, web, None, random.Random(1))
    return BesideRelay(proxy, RelayPlane(directory / "relay", HOST, random.Random(1)))


needs_haproxy = pytest.mark.skipif(not find_program(), reason="haproxy is not installed")


@pytest.fixture(params=[pytest.param(relay, id="relay"), pytest.param(haproxy, id="haproxy", marks=needs_haproxy)])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def plane(make: Make, tmp_path: Path) -> AsyncIterator[DataPlane]:
    # A directory deeper than a socket's path may be long.
    plane = make(tmp_path / ("deep" * 30) / "network")
    await plane.start()
    yield plane
    await plane.close(stop=True)


@pytest.fixture
async def backends() -> AsyncIterator[Start]:
    started: list[Backend] = []

    async def start(name: str) -> Backend:
        started.append(await Backend(name).start())
        return started[-1]

    yield start
    for backend in started:
        backend.stop()


async def test_connections_go_to_all_endpoints_in_turn(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    one, two = await backends("one"), await backends("two")
    await plane.apply(1, (service(port, one, two),))
    answers = [await ask(port) for _ in range(6)]
    assert sorted(answers) == [b"one hello\n"] * 3 + [b"two hello\n"] * 3


async def test_an_endpoint_that_refuses_costs_no_connection(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    one, two = await backends("one"), await backends("two")
    await plane.apply(1, (service(port, one, two),))
    two.stop()
    assert {await ask(port) for _ in range(8)} == {b"one hello\n"}


async def test_a_connection_waits_for_the_only_endpoint_to_come_back(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    one = await backends("one")
    await plane.apply(1, (service(port),))
    asked = asyncio.ensure_future(ask(port))
    await plane.apply(2, (service(port, one),))
    assert await asked == b"one hello\n"


async def test_a_withdrawn_endpoint_finishes_what_it_has_and_gets_nothing_new(
    plane: DataPlane, backends: Start
) -> None:
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


async def test_half_closed_connections_still_get_their_answer(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    await plane.apply(1, (service(port, await backends("one")),))
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"hello\n")
    writer.write_eof()
    assert await reader.read() == b"one hello\nbye\n"
    writer.close()


async def test_a_connection_that_both_sides_have_ended_drains_nothing(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    watched = Watched(plane)
    await plane.apply(1, (service(port, await backends("one")),))
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write_eof()
    assert await reader.read() == b"bye\n"
    writer.close()
    await plane.apply(2, (service(port),))
    await watched.until(lambda state: state.revision == 2 and state.draining == ())


async def test_a_large_transfer_arrives_whole_through_back_pressure(plane: DataPlane, backends: Start) -> None:
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


async def test_a_removed_service_frees_its_port(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    await plane.apply(1, (service(port, await backends("one")),))
    await plane.apply(2, ())
    with pytest.raises(ConnectionRefusedError):
        await ask(port)


async def test_a_port_held_by_another_program_is_a_problem_until_it_is_free(plane: DataPlane, backends: Start) -> None:
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


async def test_it_serves_on_while_its_agent_is_away_and_is_found_again(
    make: Make, tmp_path: Path, backends: Start
) -> None:
    port = free_port()
    first = make(tmp_path)
    await first.start()
    await first.apply(7, (service(port, await backends("one")),))
    await first.close(stop=False)
    assert await ask(port) == b"one hello\n"
    second = make(tmp_path)
    await second.start()
    assert second.pid == first.pid
    await second.close(stop=True)
    assert list(tmp_path.iterdir()) == []


async def test_one_that_serves_nobody_yet_does_not_outlive_its_agent(make: Make, tmp_path: Path) -> None:
    made = make(tmp_path)
    await made.start()
    await made.close(stop=False)
    assert not lives(made.pid)


async def test_its_process_is_gone_when_it_was_stopped(make: Make, tmp_path: Path) -> None:
    plane = make(tmp_path)
    await plane.start()
    assert lives(plane.pid)
    await plane.close(stop=True)
    assert not lives(plane.pid)


async def test_a_killed_one_is_started_again_with_what_it_served(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    watched = Watched(plane)
    await plane.apply(3, (service(port, await backends("one")),))
    before = plane.pid
    os.kill(before, signal.SIGKILL)
    await watched.until(lambda _: plane.pid != before)
    await watched.until(lambda state: state.revision == 3)
    assert await ask(port) == b"one hello\n"


async def test_datagrams_of_one_client_go_to_one_endpoint_and_back(plane: DataPlane) -> None:
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


async def test_agents_that_share_a_plane_serve_together_what_each_was_told(plane: DataPlane, backends: Start) -> None:
    both, first_only, second_only = (free_port() for _ in range(3))
    shared = SharedDataPlane(plane)
    first, second = shared.seat(), shared.seat()
    heard = Watched(second)
    await first.apply(50, (service(both, await backends("old")), service(first_only, await backends("a"))))
    assert heard.last.revision == -1
    await second.apply(7, (service(both, await backends("new")), service(second_only, await backends("b"))))
    assert await ask(both) == b"new hello\n"
    assert (await ask(first_only), await ask(second_only)) == (b"a hello\n", b"b hello\n")
    await heard.until(lambda state: state.revision == 7)


async def test_connections_are_counted_by_job(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    watched = Watched(plane)
    await plane.apply(1, (service(port, await backends("one")),))
    for _ in range(3):
        await ask(port)
    await plane.apply(2, ())
    assert (await watched.until(lambda state: state.revision == 2)).connections == {"shop/web": 3}


async def test_weights_are_shares_and_change_without_losing_connections(plane: DataPlane, backends: Start) -> None:
    port = free_port()
    one, two = await backends("one"), await backends("two")
    await plane.apply(1, (weighted(port, (one, 100), (two, 100)),))
    reader, writer = await asyncio.open_connection(HOST, port)
    await plane.apply(2, (weighted(port, (one, 25), (two, 75)),))
    answers = [(await ask(port)).split()[0] for _ in range(40)]
    assert abs(answers.count(b"one") - 10) <= 1
    writer.write(b"still there\n")
    assert b"still there" in await reader.readline()
    writer.close()


def weighted(port: int, *shares: tuple[Backend, int]) -> Service:
    endpoints = (msgspec.structs.replace(backend.endpoint, weight=weight) for backend, weight in shares)
    return msgspec.structs.replace(service(port), endpoints=tuple(endpoints))


@pytest.mark.parametrize("protocol", [ProxyProtocol.V1, ProxyProtocol.V2])
async def test_a_task_that_asks_learns_who_its_client_is(plane: DataPlane, protocol: ProxyProtocol) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(await reader.readuntil(b"hello\n"))
        writer.close()

    async with await asyncio.start_server(hear, HOST, 0) as server:
        task = Backend("task")
        task.port = server.sockets[0].getsockname()[1]
        port = free_port()
        await plane.apply(1, (msgspec.structs.replace(service(port, task), proxy_protocol=protocol),))
        _, writer = await asyncio.open_connection(HOST, port)
        own: tuple[str, int] = writer.get_extra_info("sockname")
        writer.write(b"hello\n")
        async with asyncio.timeout(10):
            assert await heard == proxy_header(protocol, own, (HOST, port)) + b"hello\n"
        writer.close()


async def test_more_ports_come_without_cutting_off_what_there_is(plane: DataPlane, backends: Start) -> None:
    first, second = free_port(), free_port()
    one, two = await backends("one"), await backends("two")
    await plane.apply(1, (service(first, one),))
    reader, writer = await asyncio.open_connection(HOST, first)
    writer.write(b"before\n")
    assert await reader.readline() == b"one before\n"
    await plane.apply(2, (service(first, one), service(second, two)))
    writer.write(b"after\n")
    assert await reader.readline() == b"one after\n"
    assert [await ask(first), await ask(second)] == [b"one hello\n", b"two hello\n"]
    watched = Watched(plane)
    await plane.apply(3, (service(first, two), service(second, two)))
    assert (await watched.until(lambda state: state.revision == 3)).draining == ("one",)
    writer.write(b"withdrawn\n")
    assert await reader.readline() == b"one withdrawn\n"
    writer.close()
    await watched.until(lambda state: state.draining == ())


async def test_one_port_that_is_taken_disturbs_no_other(plane: DataPlane, backends: Start) -> None:
    taken, free = free_port(), free_port()
    one = await backends("one")
    with socket.socket() as holder:
        holder.bind((HOST, taken))
        holder.listen()
        await plane.apply(1, (service(taken, one), service(free, one)))
        assert await ask(free) == b"one hello\n"


async def test_what_finds_no_endpoint_is_let_go(plane: DataPlane) -> None:
    port = free_port()
    await plane.apply(1, (service(port),))
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(HOST, port)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_a_crowd_that_waits_for_a_job_is_bounded_and_disturbs_nobody(plane: DataPlane, backends: Start) -> None:
    waiting, other = free_port(), free_port()
    one = await backends("one")
    watched = Watched(plane)
    await plane.apply(1, (service(waiting, wake_wait_s=60.0, job="asleep"), service(other, one)))
    loop = asyncio.get_running_loop()
    crowd = await asyncio.gather(*(asyncio.open_connection(HOST, waiting) for _ in range(WAITING_LIMIT + 200)))
    reads = {loop.create_task(reader.read(1)) for reader, _ in crowd}
    turned_away: set[asyncio.Task[bytes]] = set()
    async with asyncio.timeout(20):  # nobody else is let go before a minute is over
        while len(turned_away) < 200:
            done, reads = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
            turned_away |= done
    assert await ask(other) == b"one hello\n"
    assert len(turned_away) == 200
    seen = await watched.until(lambda state: state.refused.get("shop/asleep") == 200)
    assert seen.wanted == ("shop/asleep",)
    assert seen.parked["shop/asleep"] == WAITING_LIMIT
    for _, writer in crowd:
        writer.close()
    await asyncio.wait(reads)


async def test_a_connection_to_a_job_that_sleeps_calls_for_it_and_waits(plane: DataPlane, backends: Start) -> None:
    port, watched = free_port(), Watched(plane)
    await plane.apply(1, (service(port, wake_wait_s=60.0),))
    assert watched.last.wanted == ()
    waiting = asyncio.create_task(ask(port))
    await watched.until(lambda state: state.wanted == ("shop/web",))
    one = await backends("one")
    await plane.apply(2, (service(port, one, wake_wait_s=60.0),))
    async with asyncio.timeout(20):
        assert await waiting == b"one hello\n"
    assert (await watched.until(lambda state: not state.wanted)).refused.get("shop/web", 0) == 0


async def test_a_connection_that_waits_is_answered_though_other_ports_have_come_meanwhile(
    plane: DataPlane, backends: Start
) -> None:
    port, watched = free_port(), Watched(plane)
    asleep, one = service(port, wake_wait_s=60.0), await backends("one")
    await plane.apply(1, (asleep,))
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"early\n")
    await watched.until(lambda state: state.parked.get("shop/web") == 1)
    others = [service(free_port(), one, job=f"other-{number}") for number in range(2)]
    await plane.apply(2, (asleep, others[0]))
    await plane.apply(3, (asleep, *others))
    await watched.until(lambda state: state.revision == 3 and state.wanted == ("shop/web",))  # it is still called for
    late = asyncio.create_task(ask(port))
    await watched.until(lambda state: state.parked["shop/web"] == 2)
    await plane.apply(4, (service(port, one, wake_wait_s=60.0), *others))
    async with asyncio.timeout(20):
        assert [await reader.readline(), await late] == [b"one early\n", b"one hello\n"]
    state = await watched.until(lambda state: not state.parked["shop/web"] and not state.wanted)
    assert state.refused.get("shop/web", 0) == 0
    await plane.apply(5, (service(port, wake_wait_s=60.0), *others))
    await watched.until(lambda state: state.revision == 5 and state.draining == ("one",))
    writer.write(b"last\n")
    assert await reader.readline() == b"one last\n"
    writer.close()
    await watched.until(lambda state: not state.draining)


CROWD = 10_000


async def test_ten_thousand_that_wait_for_a_job_which_cannot_start_cost_nobody_else_an_answer(
    plane: DataPlane, backends: Start
) -> None:
    """As many as may wait do, for as long as they may, in little memory; the others are closed at once."""
    waiting, other, one = free_port(), free_port(), await backends("one")
    awake = service(other, one)
    await plane.apply(1, (service(waiting, wake_wait_s=60.0, job="asleep"), awake))
    watched, left, process = Watched(plane), asyncio.Event(), carrier(plane)
    memory_bytes, files = process.memory_info().rss, process.num_fds()

    async def others() -> int:
        answers = 0
        while not left.is_set():
            async with asyncio.timeout(20):
                assert await ask(other) == b"one hello\n"
            answers += 1
        return answers

    asking = asyncio.create_task(others())
    with Crowd(waiting, CROWD) as crowd:
        await crowd.come()
        await crowd.until_turned_away(crowd.size - WAITING_LIMIT)
        seen = await watched.until(lambda state: state.refused.get("shop/asleep") == crowd.size - WAITING_LIMIT)
        assert (seen.parked["shop/asleep"], seen.wanted) == (WAITING_LIMIT, ("shop/asleep",))
        assert process.memory_info().rss - memory_bytes < CROWD_BYTES
    await plane.apply(2, (service(waiting, one, wake_wait_s=60.0, job="asleep"), awake))
    await watched.until(lambda state: not state.parked["shop/asleep"] and not state.open["shop/asleep"])
    left.set()
    assert await asking > 0
    assert process.num_fds() < files + 50


def carrier(plane: DataPlane) -> psutil.Process:
    """The process that has the connections: HAProxy's master has given them to its newest worker."""
    process = psutil.Process(plane.pid)
    return max(process.children(), key=lambda child: child.create_time(), default=process)


async def test_open_connections_are_told_by_job(plane: DataPlane, backends: Start) -> None:
    port, one = free_port(), await backends("one")
    watched = Watched(plane)
    await plane.apply(1, (service(port, one),))
    assert await ask(port) == b"one hello\n"
    _, writer = await asyncio.open_connection(HOST, port)
    await watched.until(lambda state: state.open.get("shop/web") == 1 and state.connections["shop/web"] == 2)
    writer.close()
    await watched.until(lambda state: state.open["shop/web"] == 0)
