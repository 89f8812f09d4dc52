"""The Docker runtime on Podman's socket: the same life of a container, on the other engine that speaks this API."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime.docker import DockerRuntime
from agent.runtime.docker_engine import EngineSettings
from agent.runtime.interface import ContainerIdentity, ContainerRequest
from common.model.job import Container, Port
from common.model.task import PortBinding
from tests.cluster.processes import end_processes_naming
from tests.docker_images import ensure_image

# Limits that a process without CAP_SYS_RESOURCE may set (Podman's own default needs more), and the runtime that both
# versions of control groups know.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
"""
START_TIMEOUT_S = 20.0


@pytest.fixture
def podman() -> Iterator[str]:
    """The address of a Podman service of the test's own, in a directory whose name is short enough for Podman."""
    if shutil.which("podman") is None or shutil.which("docker") is None or os.geteuid() != 0:
        pytest.skip("needs podman, the docker client and root; Podman is not among what the suite installs")
    directory = Path(tempfile.mkdtemp(prefix="podium-"))
    (directory / "containers.conf").write_text(CONFIGURATION)
    environment = os.environ | {"CONTAINERS_CONF": str(directory / "containers.conf")}
    storage = ["--root", str(directory / "root"), "--runroot", str(directory / "run")]
    socket = directory / "podman.sock"
    service = subprocess.Popen(
        ["podman", *storage, "system", "service", "--time", "0", f"unix://{socket}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(socket, service)
        yield f"unix://{socket}"
    finally:
        service.terminate()
        service.wait()
        subprocess.run(
            ["podman", *storage, "rm", "--all", "--force"], env=environment, capture_output=True, check=False
        )
        subprocess.run(
            ["podman", *storage, "system", "reset", "--force"], env=environment, capture_output=True, check=False
        )
        end_processes_naming(directory)  # conmon stays five minutes for each exec
        shutil.rmtree(directory, ignore_errors=True)


def _await(socket: Path, service: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not socket.exists():
        if service.poll() is not None or time.monotonic() > deadline_s:
            pytest.skip("podman is installed but its service does not start here")
        time.sleep(0.05)


async def test_a_container_lives_and_ends_on_podman(podman: str) -> None:
    image = ensure_image(host=podman)
    patient = EngineSettings(status_timeout_s=30.0)  # Podman's first answer takes seconds on a busy machine
    runtime = DockerRuntime("n1", host=podman, clock=time.time, settings=patient)
    await runtime.start()
    try:
        request = ContainerRequest(
            identity=ContainerIdentity(node_id="n1", task_id="t1", attempt=1, namespace="shop", job="web", slot=1),
            container=Container(
                image=image, command=("sh", "-c", "echo up; mkdir /w; echo x >/w/index.html; exec httpd -f -h /w")
            ),
            ports=(Port(container_port=80, published_port=8080),),
            bindings=(PortBinding(container_port=80, host_address="127.0.0.1", host_port=0),),
        )
        await runtime.prepare(request.container, lambda _: None)
        container_id = await runtime.create(request)
        started = await runtime.start_container(container_id)
        assert started.running
        assert started.bindings[0].host_port
        assert (await runtime.exec(container_id, ("sh", "-c", "echo in; exit 3"), 10.0)).code == 3
        assert [found.id for found in await runtime.list()] == [container_id]
        assert [line.text async for line in runtime.logs(container_id)] == ["up"]
        waiting = asyncio.ensure_future(runtime.wait(container_id))
        ended = await runtime.stop_container(container_id, "SIGKILL", 5.0)
        assert ended.code == 137
        assert (await waiting).code == 137
        await runtime.remove(container_id)
        assert await runtime.list() == ()
        assert (await runtime.status()).ready
    finally:
        await runtime.close()
