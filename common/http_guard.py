"""Who may read an HTTP port of ours: whoever shows its token where one is asked for, and no web page ever.

A browser on a machine that reaches the port would let any page ask it: directly, from another site, or under a name of
that site's own that was made to mean this machine (DNS rebinding). Neither gets an answer.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TypeAlias

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from common.tls import host_of

BEARER = "Bearer "
Guard: TypeAlias = Middleware


def guard(names: Iterable[str] = (), reads: Callable[[str], bool] | None = None) -> Guard:
    """A middleware. `names` are host names of ours besides those that cannot be anybody else's; `reads` says whether
    a token gives the right to read, None: everybody may."""
    known = {socket.gethostname().lower(), *(host_of(name).lower() for name in names if name)}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST, "")
        if not _ours(host, known):
            text = f"{host[:200]!r} is no name of this machine; ask by its address, or set --http-name\n"
            return web.Response(status=421, text=text)
        if _from_another_site(request, host):
            return web.Response(status=403, text="pages of other sites get no answer here\n")
        if reads is not None and not reads(request.headers.get(hdrs.AUTHORIZATION, "").removeprefix(BEARER)):
            text = "show the token for HTTP (Authorization: Bearer TOKEN): http.token of its data directory\n"
            return web.Response(status=401, text=text, headers={hdrs.WWW_AUTHENTICATE: "Bearer"})
        return await handler(request)

    return check


def _ours(host: str, known: set[str]) -> bool:
    """Addresses and single words are nobody's domain, so no stranger's name server answers for them."""
    name = host_of(host).lower().rstrip(".")
    if name in known or (name and "." not in name and ":" not in name):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _from_another_site(request: web.Request, host: str) -> bool:
    """As the browser says (Fetch Metadata), or by the page's origin where it says nothing of the kind."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get(hdrs.ORIGIN, "")
    return bool(origin) and origin.partition("://")[2] != host
