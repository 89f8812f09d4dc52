"""A listener of aiohttp that no crowd of silent connections fills: what is idle is closed, what is too much refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

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
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=shutdown_s,
        keepalive_timeout=bounds.idle_s,  # from the beginning of a connection on, and between its requests
        max_line_size=bounds.header_bytes,
        max_field_size=bounds.header_bytes,
    )
    await runner.setup()
    server: asyncio.Server | None = None
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: _protocol(runner.server, bounds.connections),
                host.strip("[]") or None,
                int(port),
                ssl=tls,
                ssl_handshake_timeout=bounds.handshake_s if tls is not None else None,
            )
        except (OSError, OverflowError, ValueError) as error:
            raise Invalid(f"{path}: cannot listen on {address}: {error}") from None
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        if server is not None:
            server.close()
        await runner.cleanup()


def _protocol(server: web.Server | None, limit: int) -> asyncio.Protocol:
    assert server is not None
    return server() if len(server.connections) < limit else _Refused()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()
