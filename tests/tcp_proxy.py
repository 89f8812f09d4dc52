"""A TCP proxy that a test puts between two programs to lose, hold back or deliver late what they say."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType

_CHUNK_BYTES = 65_536


class TcpProxy:
    """Listens on `address` and forwards to the target; `async with` runs it. New connections always pass freely."""

    def __init__(self, target_port: int) -> None:
        self.address = ""
        self.request_held = asyncio.Event()
        """Set when something was held back."""
        self._answer_swallowed = asyncio.Event()
        self._target_port = target_port
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await asyncio.gather(*(connection.ended.wait() for connection in list(self._connections)))

    def swallow_answers(self) -> None:
        """From now on, nothing the target says on today's connections reaches the client."""
        for connection in self._connections:
            connection.answers_pass = False

    def swallow_answers_after(self, text: bytes) -> None:
        """On today's connections, nothing the target says after it was sent `text` reaches the client."""
        for connection in self._connections:
            connection.last_words = text

    def hold_requests(self) -> None:
        """From now on, what clients say on today's connections is kept until `deliver`, even beyond their end."""
        for connection in self._connections:
            connection.requests_pass = False

    def hang_up(self) -> None:
        """Break today's connections towards the client only."""
        for connection in self._connections:
            connection.client.close()

    async def deliver(self) -> None:
        """Hand what was held back to the target."""
        for connection in self._connections:
            connection.target.write(bytes(connection.held))
            connection.held.clear()
            await connection.target.drain()

    async def answered(self, text: bytes) -> None:
        """Wait until the target has said `text` on a connection whose answers do not pass."""
        while not any(text in connection.swallowed for connection in self._connections):
            self._answer_swallowed.clear()
            await self._answer_swallowed.wait()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        from_target, target = await asyncio.open_connection("127.0.0.1", self._target_port)
        connection = _Connection(client, target, self.request_held, self._answer_swallowed)
        self._connections.add(connection)
        try:
            await asyncio.gather(connection.forward_requests(reader), connection.forward_answers(from_target))
        finally:
            self._connections.discard(connection)
            connection.close()
            connection.ended.set()


class _Connection:
    def __init__(
        self,
        client: asyncio.StreamWriter,
        target: asyncio.StreamWriter,
        request_held: asyncio.Event,
        answer_swallowed: asyncio.Event,
    ) -> None:
        self.client = client
        self.target = target
        self.requests_pass = True
        self.answers_pass = True
        self.last_words: bytes | None = None
        self.held = bytearray()
        self.swallowed = bytearray()
        self.ended = asyncio.Event()
        self._request_held = request_held
        self._answer_swallowed = answer_swallowed

    async def forward_requests(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if self.last_words is not None and self.last_words in chunk:
                    self.answers_pass = False
                if self.requests_pass:
                    self.target.write(chunk)
                    await self.target.drain()
                else:
                    self.held += chunk
                    self._request_held.set()
        if self.requests_pass and self.answers_pass:
            self.target.close()

    async def forward_answers(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if self.answers_pass and not self.client.is_closing():
                    self.client.write(chunk)
                    await self.client.drain()
                else:
                    self.swallowed += chunk
                    self._answer_swallowed.set()
        self.client.close()

    def close(self) -> None:
        self.client.close()
        self.target.close()
