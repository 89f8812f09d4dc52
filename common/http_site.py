"""A listener of aiohttp that no crowd of silent connections fills: what is idle is closed, what is too much refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from common.errors import Invalid


class HttpBounds(msgspec.Struct, frozen=True, kw_only=True):
    """Probes and scrapers are few, quick and small."""

    connections: int = 512
    """At once; more are closed before a byte is read."""
    handshake_s: float = 5.0
    """For TLS to be agreed on."""
    idle_s: float = 30.0
    """A connection on which no request is under way, or has not come as a whole, is closed after so long."""
    request_bytes: int = 64 * 1024
    """Nobody sends a body here."""
    header_bytes: int = 8 * 1024
    """Of one line, or of one field."""


HTTP_BOUNDS = HttpBounds()


@asynccontextmanager
async def listening(
    app: web.Application,
    path: str,
    address: str,
    tls: ssl.SSLContext | None,
    *,
    shutdown_s: float,
    bounds: HttpBounds = HTTP_BOUNDS,
) -> AsyncIterator[str]:
    """Serve at `address` while the context lasts; yields the address with the real port.

    Raises `Invalid` naming the setting `path` when the address cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    door = _Door(bounds)
    app.middlewares.append(door.middleware)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=shutdown_s,
        keepalive_timeout=bounds.idle_s,
        max_line_size=bounds.header_bytes,
        max_field_size=bounds.header_bytes,
    )
    await runner.setup()
    sweeping: asyncio.Task[None] | None = None
    server: asyncio.Server | None = None
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: door.protocol(runner.server),
                host.strip("[]") or None,
                int(port),
                ssl=tls,
                ssl_handshake_timeout=bounds.handshake_s if tls is not None else None,
            )
        except (OSError, OverflowError, ValueError) as error:
            raise Invalid(f"{path}: cannot listen on {address}: {error}") from None
        sweeping = asyncio.create_task(door.sweep(runner.server), name="http idle connections")
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        if server is not None:
            server.close()
        if sweeping is not None:
            sweeping.cancel()
            await asyncio.wait([sweeping])
        await runner.cleanup()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Door:
    """Knows since when each connection has had no request under way."""

    def __init__(self, bounds: HttpBounds) -> None:
        self._bounds = bounds
        self._idle_since_s: dict[Any, float | None] = {}
        """By aiohttp's handler of the connection; None while a request is under way."""

    def protocol(self, server: Any) -> asyncio.BaseProtocol:
        return _Refused() if len(server.connections) >= self._bounds.connections else server()

    @property
    def middleware(self) -> Any:
        @web.middleware
        async def note(request: web.Request, handler: Any) -> Any:
            self._idle_since_s[request.protocol] = None
            try:
                return await handler(request)
            finally:
                if request.protocol in self._idle_since_s:
                    self._idle_since_s[request.protocol] = asyncio.get_running_loop().time()

        return note

    async def sweep(self, server: Any) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._bounds.idle_s / 10)
            self._close_idle(server.connections, asyncio.get_running_loop().time())

    def _close_idle(self, connections: list[Any], now_s: float) -> None:
        self._idle_since_s = {one: self._idle_since_s.get(one, now_s) for one in connections}
        for one, since_s in self._idle_since_s.items():
            if since_s is not None and now_s - since_s >= self._bounds.idle_s:
                one.force_close()
