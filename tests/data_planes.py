"""Tasks behind a data plane, and eyes on what it tells: for the tests of every implementation."""

from __future__ import annotations

import asyncio
import resource
import select
import socket
from collections.abc import Callable

from agent.network.interface import DataPlane, DataPlaneState
from common.model.endpoint import Endpoint, Service
from common.model.job import Protocol

HOST = "127.0.0.1"
_FILES_SPARED = 500


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
        return self.endpoint_of(1)

    def endpoint_of(self, slot: int) -> Endpoint:
        return Endpoint(task_id=self.name, slot=slot, node_id="n", address=HOST, port=self.port)


def service(
    port: int, *backends: Backend, protocol: Protocol = Protocol.TCP, wake_wait_s: float = 0.0, job: str = "web"
) -> Service:
    return Service(
        namespace="shop",
        job=job,
        container_port=80,
        published_port=port,
        protocol=protocol,
        endpoints=tuple(backend.endpoint for backend in backends),
        wake_wait_s=wake_wait_s,
    )


async def ask(port: int, line: bytes = b"hello\n", *, at: str = HOST) -> bytes:
    reader, writer = await asyncio.open_connection(at, port)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    return answer


class Crowd:
    """Clients that connect to one port, say nothing and wait: as many as asked for, or as there may be files. They go
    with the context."""

    def __init__(self, port: int, wanted: int) -> None:
        self._port = port
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.size = min(wanted, hard - _FILES_SPARED)
        self._soft = soft
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self.turned_away = 0

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    async def come(self) -> None:
        await asyncio.to_thread(self._come)

    def _come(self) -> None:
        for _ in range(self.size):
            one = socket.create_connection((HOST, self._port), timeout=20)
            self._sockets[one.fileno()] = one
            self._poll.register(one, select.EPOLLIN | select.EPOLLRDHUP)

    async def until_turned_away(self, number: int) -> None:
        """Until so many have been closed by the other side."""
        async with asyncio.timeout(30):
            while self.turned_away < number:
                await asyncio.to_thread(self._look)

    def _look(self) -> None:
        for file, _ in self._poll.poll(timeout=0.1):
            self._poll.unregister(file)
            self._sockets.pop(file).close()
            self.turned_away += 1

    def leave(self) -> None:
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()
        if not self._poll.closed:
            self._poll.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (self._soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


class Watched:
    """The states a plane told, and a way to wait for one."""

    def __init__(self, plane: DataPlane) -> None:
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
