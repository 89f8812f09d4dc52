"""What the question whether an engine answers costs it: Docker its version each time, Podman only once."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from agent.runtime.docker import DockerRuntime

PODMAN = {"Version": "4.3.1", "ApiVersion": "1.41", "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}]}
DOCKER = {"Version": "20.10.24", "ApiVersion": "1.41", "Components": [{"Name": "Engine"}, {"Name": "containerd"}]}


class PretendedEngine:
    """Answers what it is and that it is there, and counts how often it is asked."""

    def __init__(self) -> None:
        self.version: dict[str, object] = DOCKER
        self.away = False
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        what = request.path.rpartition("/")[2]
        if what == "events":
            raise web.HTTPNotFound
        if what == "json":
            return web.json_response([])
        self.asked.append(what)
        if self.away:
            raise web.HTTPServiceUnavailable
        return web.json_response(self.version) if what == "version" else web.Response(text="OK")


@pytest.fixture
async def engine() -> AsyncIterator[tuple[PretendedEngine, DockerRuntime]]:
    pretended = PretendedEngine()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pretended.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    with tempfile.TemporaryDirectory(prefix="podium-") as directory:  # short enough for a socket's path
        socket = str(Path(directory) / "engine.sock")
        await web.UnixSite(runner, socket).start()
        runtime = DockerRuntime("n1", host=f"unix://{socket}", clock=lambda: 0.0)
        yield pretended, runtime
        await runtime.close()
        await runner.cleanup()


async def asked(pretended: PretendedEngine, runtime: DockerRuntime) -> tuple[bool, str, list[str]]:
    pretended.asked.clear()
    status = await runtime.status()
    return status.ready, status.version, list(pretended.asked)


async def test_docker_tells_its_version_each_time(engine: tuple[PretendedEngine, DockerRuntime]) -> None:
    pretended, runtime = engine
    await runtime.start()
    for _ in range(2):
        assert await asked(pretended, runtime) == (True, "20.10.24", ["version"])


async def test_podman_tells_its_version_again_only_after_it_was_away(
    engine: tuple[PretendedEngine, DockerRuntime],
) -> None:
    pretended, runtime = engine
    pretended.version = PODMAN
    await runtime.start()
    for _ in range(2):
        assert await asked(pretended, runtime) == (True, "4.3.1", ["_ping"])
    pretended.away = True
    ready, _, _ = await asked(pretended, runtime)
    assert not ready
    pretended.away, pretended.version = False, PODMAN | {"Version": "5.0.0"}
    assert await asked(pretended, runtime) == (True, "5.0.0", ["version"])
    assert await asked(pretended, runtime) == (True, "5.0.0", ["_ping"])
