"""What probes are answered: one reason a line when something is wrong, everything with `verbose`."""

from __future__ import annotations

import aiohttp
import pytest

from common.errors import Unavailable
from common.http_guard import guard
from controller.api.http.server import Check, application, serving


async def well() -> str:
    return "answers"


async def badly() -> str:
    raise Unavailable("no quorum")


@pytest.mark.parametrize(
    ("path", "ready", "expected"),
    [
        ("/livez", badly, (200, "ok\n")),
        ("/readyz", well, (200, "ok\n")),
        ("/readyz", badly, (503, "[-] store: no quorum\nnot ok\n")),
        ("/healthz", badly, (503, "[-] store: no quorum\nnot ok\n")),
        ("/healthz?verbose", badly, (503, "[+] loop: answers\n[-] store: no quorum\nnot ok\n")),
        ("/readyz?verbose", well, (200, "[+] store: answers\nok\n")),
    ],
)
async def test_probes(path: str, ready: Check, expected: tuple[int, str]) -> None:
    app = application({"loop": well}, {"store": ready}, lambda: b"", guard())
    async with (
        serving(app, "http_listen", "127.0.0.1:0", None, shutdown_s=1) as address,
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}{path}") as response,
    ):
        assert (response.status, await response.text()) == expected


async def test_metrics_are_served_in_prometheus_text_format() -> None:
    app = application({}, {}, lambda: b"podium_leader 1.0\n", guard())
    async with (
        serving(app, "http_listen", "[::1]:0", None, shutdown_s=1) as address,
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}/metrics") as response,
    ):
        assert address.startswith("[::1]:")
        assert response.content_type == "text/plain"
        assert await response.text() == "podium_leader 1.0\n"
