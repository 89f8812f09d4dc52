"""The controller's HTTP side: what probes and monitoring ask. Owns routes and wording; what is true is asked of others.

/livez: this process's loop turns. /readyz: the store answers and this controller's role is known; followers are ready
too. /healthz: both. `?verbose` names every check. /metrics: Prometheus' text format.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiohttp import web

from common.errors import PodiumError
from common.http_guard import Guard
from common.http_site import HTTP_BOUNDS, listening

Check: TypeAlias = Callable[[], Awaitable[str]]
"""Says what is well in a few words, or raises `PodiumError` with what is not."""

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def application(
    live: Mapping[str, Check], ready: Mapping[str, Check], metrics: Callable[[], bytes], admit: Guard
) -> web.Application:
    """The routes over these checks, each by its name, for whom `admit` lets in."""
    app = web.Application(client_max_size=HTTP_BOUNDS.request_bytes, middlewares=[admit])

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": _METRICS_TYPE})

    app.router.add_get("/livez", _probe(live))
    app.router.add_get("/readyz", _probe(ready))
    app.router.add_get("/healthz", _probe({**live, **ready}))
    app.router.add_get("/metrics", scrape)
    return app


@asynccontextmanager
async def serving(
    app: web.Application, path: str, address: str, tls: ssl.SSLContext | None, *, shutdown_s: float
) -> AsyncIterator[str]:
    """Serve at `address` while the context lasts; yields the address with the real port.

    Raises `Invalid` naming the setting `path` when the address cannot be listened on.
    """
    async with listening(app, path, address, tls, shutdown_s=shutdown_s) as where:
        yield where


def _probe(checks: Mapping[str, Check]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        results = await asyncio.gather(*(_outcome(name, check) for name, check in checks.items()))
        failed = [text for good, text in results if not good]
        lines = [text for _, text in results] if "verbose" in request.query else failed
        summary = "not ok" if failed else "ok"
        return web.Response(status=503 if failed else 200, text="\n".join([*lines, summary]) + "\n")

    return answer


async def _outcome(name: str, check: Check) -> tuple[bool, str]:
    try:
        return True, f"[+] {name}: {await check()}"
    except PodiumError as error:
        return False, f"[-] {name}: {error}"
