"""What one contract suite needs to put the same questions to different runtimes.

A test says what a program should do twice: as a shell script for runtimes that run programs, and as a `Behaviour` for
the fake. A rig makes the container of it, opens further runtimes over the same machine, and leaves nothing behind.
"""

from __future__ import annotations

import itertools
import time
import uuid
from pathlib import Path
from typing import Protocol

from agent.runtime.docker import DockerRuntime
from agent.runtime.fake import Behaviour, FakeEngine, FakeRuntime, Preparation
from agent.runtime.interface import ContainerIdentity, ContainerRequest, Runtime
from agent.runtime.process import ProcessRuntime
from agent.runtime.process_users import Users
from common.model.job import Container, Port
from common.model.resources import Resources
from common.model.task import PortBinding
from tests.docker_images import DEFAULT_HOST, EXPOSED_IMAGE, TEST_IMAGE, ensure_exposed_image
from tests.ports import free_port


class Rig(Protocol):
    node_id: str
    runtime: Runtime
    executes: bool
    """Whether real programs run."""

    async def open(self, node_id: str) -> Runtime:
        """Another runtime object over the same machine, as after a restart of the agent."""

    def container(self, script: str, behaviour: Behaviour) -> Container: ...

    def binding(self) -> PortBinding:
        """A place on this machine for container port 8000."""

    def declaring(self) -> Container:
        """Whose image says that it listens on port 8080, where there are images."""

    async def close(self) -> None:
        """Remove every container of every node this rig opened."""


class _Rig:
    executes = True

    def __init__(self) -> None:
        self.node_id = f"node-{uuid.uuid4().hex[:12]}"
        self._opened: list[Runtime] = []
        self._tasks = itertools.count(1)

    @property
    def runtime(self) -> Runtime:
        return self._opened[0]

    def request(
        self, container: Container, *, attempt: int = 1, task_id: str = "", bindings: tuple[PortBinding, ...] = ()
    ) -> ContainerRequest:
        identity = ContainerIdentity(
            node_id=self.node_id,
            task_id=task_id or f"{uuid.uuid4().hex[:16]}{next(self._tasks):04d}",
            attempt=attempt,
            namespace="shop",
            job="web",
            slot=3,
        )
        return ContainerRequest(identity=identity, container=container, limits=Resources(), bindings=bindings)

    async def close(self) -> None:
        for runtime in self._opened:
            await runtime.start()
            for container in await runtime.list():
                await runtime.remove(container.id)
            await runtime.close()

    async def _keep(self, runtime: Runtime) -> Runtime:
        self._opened.append(runtime)
        await runtime.start()
        return runtime


class FakeRig(_Rig):
    executes = False

    def __init__(self) -> None:
        super().__init__()
        self._behaviours: dict[str, Behaviour] = {}
        self.engine = FakeEngine(time.time, behave=lambda request: self._behaviours[request.container.command[0]])

    async def open(self, node_id: str) -> Runtime:
        return await self._keep(FakeRuntime(node_id, self.engine))

    def container(self, script: str, behaviour: Behaviour) -> Container:
        self._behaviours[script] = behaviour
        return Container(command=(script,))

    def binding(self) -> PortBinding:
        return PortBinding(container_port=8000, host_address="127.0.0.1", host_port=0)

    def declaring(self) -> Container:
        self.engine.prepare = lambda _container: Preparation(ports=(Port(container_port=8080),))
        return Container(image=EXPOSED_IMAGE)


class ProcessRig(_Rig):
    def __init__(self, directory: Path, users: Users | None = None) -> None:
        super().__init__()
        self.directory = directory
        self.users = users

    async def open(self, node_id: str) -> Runtime:
        return await self._keep(ProcessRuntime(node_id, self.directory, time.time, users=self.users))

    def container(self, script: str, behaviour: Behaviour) -> Container:
        return Container(command=("sh", "-c", script))

    def binding(self) -> PortBinding:
        return PortBinding(container_port=8000, host_address="127.0.0.1", host_port=free_port())

    def declaring(self) -> Container:
        return Container(command=("true",))


class DockerRig(_Rig):
    def __init__(self, host: str = DEFAULT_HOST) -> None:
        super().__init__()
        self.host = host

    async def open(self, node_id: str) -> Runtime:
        return await self._keep(DockerRuntime(node_id, host=self.host, clock=time.time))

    def container(self, script: str, behaviour: Behaviour) -> Container:
        return Container(image=TEST_IMAGE, command=("sh", "-c", script))

    def binding(self) -> PortBinding:
        return PortBinding(container_port=8000, host_address="127.0.0.1", host_port=0)

    def declaring(self) -> Container:
        return Container(image=ensure_exposed_image(self.host))
