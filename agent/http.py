"""The agent's HTTP side: what probes and monitoring ask. Owns routes and wording; what is true is asked of others.

/livez: this process's loop turns. /readyz: a controller has taken the node in and its runtimes answer. /healthz: both.
`?verbose` names every check. /metrics: Prometheus' text format.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiohttp import web

from agent.checks import Check
from common.errors import Fault, Invalid
from common.http_guard import guard
from common.tls import TlsFiles, http_context

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_BYTES = 64 * 1024
"""Nobody sends a body here."""
_SHUTDOWN_S = 1.0
"""A scrape that is under way may end; nothing else is worth waiting for."""


Checks: TypeAlias = Callable[[], tuple[Check, ...]]
LIVE = Check(name="loop", good=True, text="turns")


def application(ready: Checks, metrics: Callable[[], Awaitable[bytes]]) -> web.Application:
    """The routes over these checks."""
    app = web.Application(client_max_size=_REQUEST_BYTES, middlewares=[guard()])

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=await metrics(), headers={"Content-Type": _METRICS_TYPE})

    app.router.add_get("/livez", _probe(lambda: (LIVE,)))
    app.router.add_get("/readyz", _probe(ready))
    app.router.add_get("/healthz", _probe(lambda: (LIVE, *ready())))
    app.router.add_get("/metrics", scrape)
    return app


@asynccontextmanager
async def serving(app: web.Application, address: str, tls: TlsFiles | None) -> AsyncIterator[str]:
    """Serve at `address` while the context lasts; yields it with its real port. Raises `Invalid` when it is taken."""
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        context = http_context(tls) if tls else None
        try:
            await web.TCPSite(runner, host.strip("[]") or None, int(port), ssl_context=context).start()
        except (OSError, OverflowError, ValueError) as error:
            raise Invalid([Fault(path="http_listen", text=f"cannot listen on {address}: {error}")]) from None
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _probe(checks: Checks) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        results = checks()
        failed = [check for check in results if not check.good]
        shown = results if "verbose" in request.query else failed
        lines = [*(str(check) for check in shown), "not ok" if failed else "ok"]
        return web.Response(status=503 if failed else 200, text="\n".join(lines) + "\n")

    return answer
