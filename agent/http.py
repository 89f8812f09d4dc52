"""The agent's HTTP side: what probes and monitoring ask. Owns routes and wording; what is true is asked of others.

/livez: this process's loop turns. /readyz: a controller has taken the node in and its runtimes answer. /healthz: both.
`?verbose` names every check. /metrics: Prometheus' text format.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiohttp import web

from agent.checks import Check
from common.http_guard import Guard
from common.http_site import HTTP_BOUNDS, listening

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SHUTDOWN_S = 1.0
"""A scrape that is under way may end; nothing else is worth waiting for."""


Checks: TypeAlias = Callable[[], tuple[Check, ...]]
LIVE = Check(name="loop", good=True, text="turns")


def application(ready: Checks, metrics: Callable[[], Awaitable[bytes]], guard: Guard) -> web.Application:
    """The routes over these checks, for whom `guard` lets in."""
    app = web.Application(client_max_size=HTTP_BOUNDS.request_bytes, middlewares=[guard])

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=await metrics(), headers={"Content-Type": _METRICS_TYPE})

    app.router.add_get("/livez", _probe(lambda: (LIVE,)))
    app.router.add_get("/readyz", _probe(ready))
    app.router.add_get("/healthz", _probe(lambda: (LIVE, *ready())))
    app.router.add_get("/metrics", scrape)
    return app


@asynccontextmanager
async def serving(app: web.Application, address: str, tls: ssl.SSLContext | None) -> AsyncIterator[str]:
    """Serve at `address` while the context lasts; yields it with its real port. Raises `Invalid` when it is taken."""
    async with listening(app, "http_listen", address, tls, shutdown_s=_SHUTDOWN_S) as where:
        yield where


def _probe(checks: Checks) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        results = checks()
        failed = [check for check in results if not check.good]
        shown = results if "verbose" in request.query else failed
        lines = [*(str(check) for check in shown), "not ok" if failed else "ok"]
        return web.Response(status=503 if failed else 200, text="\n".join(lines) + "\n")

    return answer
