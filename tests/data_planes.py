"""Tasks behind a data plane, and eyes on what it tells: for the tests of every implementation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent.network.interface import DataPlane, DataPlaneState
from common.model.endpoint import Endpoint, Service
from common.model.job import Protocol

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
