"""Asking a Prometheus: one number, or why there is none, whatever the other side does."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from common.errors import Invalid
from controller.prometheus import Prometheus
from controller.settings import ControllerSettings
from tests.ports import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[Prometheus]:
    app = web.Application()
    app.router.add_post("/api/v1/query", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield Prometheus(f"http://127.0.0.1:{port}/", timeout_s=5.0)
    finally:
        await runner.cleanup()


def says(text: str, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert (await request.post())["query"] == "sum(queue)"
        return web.Response(text=text, status=status)

    return handler


VECTOR = '{"status":"success","data":{"resultType":"vector","result":[%s]}}'
ONE = '{"metric":{},"value":[1700000000.1,"%s"]}'


@pytest.mark.parametrize(
    "text", [VECTOR % (ONE % "42.5"), '{"status":"success","data":{"resultType":"scalar","result":[1,"42.5"]}}']
)
async def test_one_number_is_the_answer(text: str) -> None:
    async with answering(says(text)) as prometheus:
        assert (await prometheus.ask("sum(queue)")).value == 42.5


@pytest.mark.parametrize(
    ("text", "status", "problem"),
    [
        (VECTOR % "", 200, "the query gives 0 series: one number is wanted"),
        (VECTOR % f"{ONE % 1},{ONE % 2}", 200, "the query gives 2 series"),
        (VECTOR % (ONE % "NaN"), 200, "the query gives NaN, which is no number"),
        (
            '{"status":"error","errorType":"bad_data","error":"parse error: x"}',
            400,
            "refuses the query: parse error: x",
        ),
        ("<html>who are you?</html>", 502, "answered with status 502 and nothing that can be read"),
        ("{}", 200, "nothing that can be read"),
        (VECTOR % " " * 70_000, 200, "more than 64 KiB"),
    ],
)
async def test_anything_else_is_a_problem_in_words(text: str, status: int, problem: str) -> None:
    async with answering(says(text, status)) as prometheus:
        answer = await prometheus.ask("sum(queue)")
    assert answer.value is None
    assert problem in answer.problem


async def test_one_that_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = await Prometheus(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.05).ask("sum(queue)")
    assert answer.problem == "Prometheus did not answer within 0.05 s"


async def test_one_that_is_not_there_is_a_problem() -> None:
    assert "cannot be asked" in (await Prometheus(f"http://127.0.0.1:{free_port()}").ask("x")).problem


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://p", "http://", "http://p:x", "http://p/?query=1"])
def test_what_is_no_address_of_one_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="is no address of a Prometheus"):
        ControllerSettings(store="memory:", prometheus=url).check()
    ControllerSettings(store="memory:", prometheus="https://p.example.com:9090/prefix").check()
