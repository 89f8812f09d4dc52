"""A steady load of HTTP requests that looks at every answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

REQUEST_TIMEOUT_S = 15.0


async def get(address: str, port: int, path: str = "/", host: str = "") -> str:
    """The body of one answer on a connection of its own. Raises `OSError` or `ValueError` when there is none."""
    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(address, port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {host or address}\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator or b" 200 " not in head.split(b"\r\n")[0]:
        raise ValueError(f"not an answer: {answer[:200]!r}")
    return body.decode().strip()


class Load:
    """What the load saw so far."""

    def __init__(self) -> None:
        self.bodies: Counter[str] = Counter()
        self.failures: list[str] = []
        self._seen = asyncio.Event()

    @property
    def answers(self) -> int:
        return sum(self.bodies.values())

    async def until(self, holds: Callable[[Load], bool], within_s: float = 90.0) -> None:
        """Wait for an answer after which `holds`; a failed request ends the wait too."""
        async with asyncio.timeout(within_s):
            while not holds(self) and not self.failures:
                self._seen.clear()
                await self._seen.wait()

    async def one(self, address: str, port: int, path: str, host: str) -> None:
        begun_s = time.monotonic()
        try:
            self.bodies[await get(address, port, path, host)] += 1
        except (OSError, ValueError) as error:
            self.failures.append(f"{address}:{port} after {time.monotonic() - begun_s:.2f} s: {error!r}")
        self._seen.set()


@asynccontextmanager
async def load(
    targets: list[tuple[str, int]],
    per_second: float,
    path: str = "/",
    known: Callable[[str], bool] = bool,
    host: str = "",
) -> AsyncIterator[Load]:
    """Requests at a fixed rate, in turn over the targets, while the block runs; all answered or failed at its end."""
    seen = Load()
    done = asyncio.Event()

    async def drive(group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        for number in range(1_000_000):
            try:
                async with asyncio.timeout_at(begun_s + number / per_second):
                    await done.wait()
                return
            except TimeoutError:
                address, port = targets[number % len(targets)]
                group.create_task(seen.one(address, port, path, host))

    async with asyncio.TaskGroup() as group:
        group.create_task(drive(group))
        try:
            yield seen
        finally:
            done.set()
    seen.failures += [f"unknown answer {body!r}" for body in seen.bodies if not known(body)]
