"""A door in front of an engine's socket: shut it, and the engine is away for those behind it and for nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from tests.docker_images import DEFAULT_HOST

_CHUNK_BYTES = 64 * 1024


class EngineDoor:
    """Relays every connection on `path` to the engine while it is open."""

    def __init__(self, path: Path, engine_host: str = DEFAULT_HOST) -> None:
        self._path = path
        self._engine_path = engine_host.removeprefix("unix://")
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self.hold = False
        """Accept connections and requests, and answer nothing."""
        self.deaf_to_events = False
        """Let nothing but the head of an event stream through."""

    @property
    def host(self) -> str:
        return f"unix://{self._path}"

    @property
    def connections(self) -> int:
        return len(self._relays)

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def shut(self) -> None:
        """Break all connections and let nobody in."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        relays = tuple(self._relays)
        for relay in relays:
            relay.cancel()
        if relays:
            await asyncio.wait(relays)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._relay(reader, writer)
        finally:
            self._relays.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine_path)
        heard: list[bytes] = []

        async def requests() -> None:
            while chunk := await reader.read(_CHUNK_BYTES):
                heard[:] = [chunk]
                engine_writer.write(chunk)
                await engine_writer.drain()
            engine_writer.write_eof()

        async def answers() -> None:
            while chunk := await engine_reader.read(_CHUNK_BYTES):
                is_events = self.deaf_to_events and b"/events?" in heard[0].split(b"\r\n", 1)[0]
                if is_events and not chunk.startswith(b"HTTP/1.1"):
                    continue
                if not self.hold:
                    writer.write(chunk)
                    await writer.drain()
            writer.close()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(requests())
                group.create_task(answers())
        except* OSError:
            pass
        finally:
            engine_writer.close()
