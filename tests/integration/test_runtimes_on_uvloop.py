"""Agents run on uvloop, which starts programs and watches descriptors in its own way: one life of a container on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path

import msgspec
import pytest
import uvloop

from agent.runtime.fake import Behaviour
from agent.runtime.interface import ExecResult
from common.errors import Unavailable
from common.model.job import Container
from tests.docker_images import ensure_image, require_docker
from tests.runtime_rigs import DockerRig, ProcessRig

SCRIPT = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done"


def run(life: Coroutine[object, object, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life)


async def whole_life(rig: ProcessRig | DockerRig, user: str) -> None:
    container = msgspec.structs.replace(rig.container(SCRIPT, Behaviour()), user=user)
    await rig.open(rig.node_id)
    try:
        await _lead(rig, container)
    finally:
        await rig.close()


async def _lead(rig: ProcessRig | DockerRig, container: Container) -> None:
    started = await rig.runtime.start_container(await rig.runtime.create(rig.request(container)))
    async for line in rig.runtime.logs(started.id, follow=True):
        assert line.text == "ready"
        break
    assert await rig.runtime.exec(started.id, ("sh", "-c", "echo ok; exit 3"), 20.0) == ExecResult(
        code=3, output="ok\n"
    )
    assert (await rig.runtime.exec(started.id, ("no-such-program",), 20.0)).code in {126, 127}
    if container.user:
        assert (await rig.runtime.exec(started.id, ("id", "-u"), 20.0)).output == "65534\n"
    with pytest.raises(Unavailable):
        await rig.runtime.exec(started.id, ("sleep", "600"), 0.2)
    await rig.runtime.close()
    adopted = await rig.open(rig.node_id)
    waiting = asyncio.create_task(adopted.wait(started.id))
    assert (await adopted.stop_container(started.id, "SIGTERM", 20.0)).code == 4
    assert (await waiting).code == 4
    await adopted.remove(started.id)
    assert await adopted.list() == ()


@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_process_on_uvloop(open_directory: Path, user: str) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    run(whole_life(ProcessRig(open_directory), user))


@pytest.mark.docker
@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_docker_container_on_uvloop(user: str) -> None:
    ensure_image(host=require_docker())
    run(whole_life(DockerRig(), user))
