"""The peer of the start and crash benchmarks: the containers Podium would create, made by aiodocker without Podium.

The requests come from the agent's own builder, so both sides ask the engine for the same; only the node's id differs,
so that no agent takes these for its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiodocker

from agent.container_request import engine_bindings, request_of
from agent.runtime.docker_request import Json, configuration, container_name
from benchmarks.stage import ADDRESS, NODE
from common.model.ids import new_id
from common.model.job import DesiredState, JobSpec
from common.model.session import Assignment

AT_ONCE = 8
"""Creates and starts in flight: as the agent does it, and more gains nothing."""


class RawEngine:
    def __init__(self, docker: aiodocker.Docker) -> None:
        self._docker = docker
        self._rng = random.Random()
        self._made: list[aiodocker.containers.DockerContainer] = []

    async def start_all(self, spec: JobSpec, count: int | None = None) -> float:
        """Create and start what the job's tasks (or `count` of them) would be; seconds until the last has started."""
        requests = [self._request(spec, slot) for slot in range(1, (count or spec.replicas) + 1)]
        limit = asyncio.Semaphore(AT_ONCE)
        begun_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(self._start(name, body, limit) for name, body in requests))
        return asyncio.get_running_loop().time() - begun_s

    async def remove_all(self) -> None:
        limit = asyncio.Semaphore(AT_ONCE)

        async def remove(container: aiodocker.containers.DockerContainer) -> None:
            async with limit:
                await container.delete(force=True, v=True)

        made, self._made = self._made, []
        await asyncio.gather(*(remove(container) for container in made))

    async def pid_of(self, container_id: str) -> int:
        """Of the container's first process."""
        return int((await self._docker.containers.get(container_id))["State"]["Pid"])

    async def _start(self, name: str, body: dict[str, Json], limit: asyncio.Semaphore) -> None:
        async with limit:
            container = await self._docker.containers.create(body, name=name)
            self._made.append(container)
            await container.start()

    def _request(self, spec: JobSpec, slot: int) -> tuple[str, dict[str, Json]]:
        assignment = Assignment(
            task_id=new_id(self._rng),
            namespace=spec.namespace,
            job=spec.name,
            slot=slot,
            version=1,
            desired=DesiredState.RUN,
            task=spec.task,
        )
        bindings = engine_bindings(spec.task.ports, ADDRESS)
        node_id = new_id(self._rng)
        request = request_of(assignment, 1, bindings, node_id=node_id, node_name=NODE, address=ADDRESS)
        return container_name(request.identity), configuration(request)


@asynccontextmanager
async def raw_engine() -> AsyncIterator[RawEngine]:
    async with aiodocker.Docker(url="unix:///var/run/docker.sock") as docker:
        raw = RawEngine(docker)
        try:
            yield raw
        finally:
            await raw.remove_all()
