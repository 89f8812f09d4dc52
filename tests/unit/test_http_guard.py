"""An HTTP port answers whoever asks it by a name of its own and with its token, and no page of another site."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from common.http_guard import guard


async def status(headers: dict[str, str], reads: Callable[[str], bool] | None = None, *names: str) -> int:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application(middlewares=[guard(names, reads)])
    app.router.add_get("/metrics", answer)
    async with TestClient(TestServer(app)) as client, client.get("/metrics", headers=headers) as response:
        return response.status


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7078", "localhost", "[::1]:7078", "10.0.0.1", "controller-1:7078", "Podium.Example.ORG:7078"],
)
async def test_names_that_are_ours(host: str) -> None:
    assert await status({"Host": host}, None, "podium.example.org:7077") == 200


async def test_the_machines_own_name_is() -> None:
    assert await status({"Host": socket.gethostname()}) == 200


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:7078", "127.0.0.1.evil.com", "", "a.b"])
async def test_names_that_may_be_anybodys_are_refused(host: str) -> None:
    assert await status({"Host": host}, None, "podium.example.org:7077") == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_pages_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    assert await status({"Host": "127.0.0.1:7078"} | headers) == 403


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://127.0.0.1:7078"}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}]
)
async def test_its_own_pages_are_not(headers: dict[str, str]) -> None:
    assert await status({"Host": "127.0.0.1:7078"} | headers) == 200


@pytest.mark.parametrize(
    ("shown", "expected"), [("Bearer right", 200), ("Bearer wrong", 401), ("", 401), ("Basic cmlnaHQ=", 401)]
)
async def test_where_a_token_is_asked_for_it_must_be_right(shown: str, expected: int) -> None:
    headers = {"Authorization": shown} if shown else {}
    assert await status(headers, lambda secret: secret == "right") == expected
