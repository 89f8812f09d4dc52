"""What systemd is told of a process that serves, and what its silence means."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from common.service_manager import LOOK_AGAIN_S, Condition, ServiceManager
from tests.virtual_time import VirtualLoop, on_virtual_time


class Told:
    """Everything that was said, with the loop's time."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str]] = []

    def send(self, datagram: bytes) -> None:
        self.said += [(asyncio.get_running_loop().time(), line) for line in datagram.decode().splitlines()]

    def times(self, text: str) -> list[float]:
        return [at_s for at_s, said in self.said if said == text]

    def lines(self) -> list[str]:
        return [said for _, said in self.said]


class Service:
    """What is looked at."""

    def __init__(self, *, ready: bool, text: str) -> None:
        self.condition = Condition(ready=ready, text=text)

    def becomes(self, *, ready: bool, text: str) -> None:
        self.condition = Condition(ready=ready, text=text)

    async def look(self) -> Condition:
        return self.condition


@asynccontextmanager
async def accompanied(manager: ServiceManager, service: Service) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    beside = asyncio.create_task(manager.accompany(service.look, stop))
    try:
        yield stop
    finally:
        beside.cancel()
        await asyncio.wait([beside])


@on_virtual_time
async def test_one_that_waits_for_its_store_says_why_and_asks_for_time_until_it_is_ready() -> None:
    told, service = Told(), Service(ready=False, text="the etcd store\ndid not answer")
    async with accompanied(ServiceManager(told.send), service):
        await asyncio.sleep(600)
        assert "READY=1" not in told.lines()
        assert "STATUS=the etcd store did not answer" in told.lines()
        asked = told.times("EXTEND_TIMEOUT_USEC=30000000")
        assert max(later - earlier for earlier, later in pairwise(asked)) < 30
        service.becomes(ready=True, text="leads, term 7")
        await asyncio.sleep(2)
        asked = told.times("EXTEND_TIMEOUT_USEC=30000000")
        await asyncio.sleep(60)
    assert told.lines()[-2:] == ["STATUS=leads, term 7", "READY=1"]
    assert told.times("EXTEND_TIMEOUT_USEC=30000000") == asked


@on_virtual_time
async def test_status_follows_what_changes_and_readiness_is_said_once() -> None:
    told, service = Told(), Service(ready=True, text="leads, term 7")
    async with accompanied(ServiceManager(told.send), service):
        await asyncio.sleep(5 * LOOK_AGAIN_S)
        service.becomes(ready=False, text="the etcd store did not answer")
        await asyncio.sleep(5 * LOOK_AGAIN_S)
    assert told.lines() == ["STATUS=leads, term 7", "READY=1", "STATUS=the etcd store did not answer"]


@on_virtual_time
async def test_stopping_is_said_when_the_stop_begins() -> None:
    told = Told()
    async with accompanied(ServiceManager(told.send), Service(ready=True, text="")) as stop:
        await asyncio.sleep(1)
        assert "STOPPING=1" not in told.lines()
        stop.set()
        await asyncio.sleep(1)
        assert told.lines()[-1] == "STOPPING=1"


@on_virtual_time
async def test_the_watchdog_is_fed_twice_per_interval_also_while_a_look_hangs() -> None:
    told = Told()

    async def hang() -> Condition:
        await asyncio.sleep(1_000)
        return Condition(ready=True, text="")

    beside = asyncio.create_task(ServiceManager(told.send, watchdog_s=30).accompany(hang, asyncio.Event()))
    await asyncio.sleep(100)
    beside.cancel()
    await asyncio.wait([beside])
    assert told.times("WATCHDOG=1") == [0, 15, 30, 45, 60, 75, 90]


@on_virtual_time
async def test_a_stuck_loop_starves_the_watchdog() -> None:
    told = Told()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    async with accompanied(ServiceManager(told.send, watchdog_s=30), Service(ready=True, text="")):
        await asyncio.sleep(20)
        loop._skip(100)  # the clock goes on, the loop does not: what a function that never returns looks like
        await asyncio.sleep(1)
    assert told.times("WATCHDOG=1") == [0, 15, 120]


@on_virtual_time
async def test_without_a_watchdog_there_is_nothing_to_feed() -> None:
    told = Told()
    async with accompanied(ServiceManager(told.send), Service(ready=True, text="")):
        await asyncio.sleep(100)
    assert "WATCHDOG=1" not in told.lines()


# --- the environment and the socket

PID = 42


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Callable[[str], socket.socket]]:
    """A service manager's socket at an address."""
    made: list[socket.socket] = []

    def bind(address: str) -> socket.socket:
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(address)
        receiver.settimeout(5)
        made.append(receiver)
        return receiver

    yield bind
    for receiver in made:
        receiver.close()


@pytest.mark.parametrize("abstract", [False, True])
async def test_it_arrives_at_the_socket(abstract: bool, bound: Callable[[str], socket.socket], tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    receiver = bound(f"\0{name}" if abstract else name)
    environ = {"NOTIFY_SOCKET": f"@{name}" if abstract else name, "WATCHDOG_USEC": "30000000", "HOME": "/"}
    manager = ServiceManager.of(environ, PID)
    assert manager is not None
    assert environ == {"HOME": "/"}  # what it starts has no say in its name
    async with accompanied(manager, Service(ready=True, text="12 tasks")):
        said = {await asyncio.to_thread(receiver.recv, 1024) for _ in range(2)}
    assert said == {b"STATUS=12 tasks\nREADY=1", b"WATCHDOG=1"}


async def test_a_service_manager_that_is_gone_holds_nothing_up(tmp_path: Path) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1000"}, PID)
    assert manager is not None
    async with accompanied(manager, Service(ready=True, text="")) as stop:
        stop.set()
        await asyncio.sleep(0)


async def test_one_that_reads_nothing_holds_nothing_up(bound: Callable[[str], socket.socket], tmp_path: Path) -> None:
    name = str(tmp_path / "full")
    bound(name)
    manager = ServiceManager.of({"NOTIFY_SOCKET": name}, PID)
    assert manager is not None
    for _ in range(5_000):  # the kernel holds far fewer
        manager._tell("STATUS=busy")


def test_the_watchdog_of_another_process_is_not_fed() -> None:
    asked = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000"}
    others, ours = (ServiceManager.of({**asked, "WATCHDOG_PID": str(pid)}, PID) for pid in (PID + 1, PID))
    assert others is not None
    assert ours is not None
    assert (others._watchdog_s, ours._watchdog_s) == (None, 3.0)


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_where_nobody_asks_nobody_is_told(environ: dict[str, str]) -> None:
    assert ServiceManager.of(environ, PID) is None
