"""The node's runtimes together: which one runs a task, whether each answers, and how long its calls take.

A runtime that is away is asked again and again and never keeps the agent from its other work. Never touches a
container.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import msgspec

from agent.container_request import PROCESS
from agent.runtime.interface import (
    AS_THE_CONTAINER,
    ContainerRequest,
    ExecManner,
    ExecResult,
    ExecSession,
    Exit,
    Owner,
    Progress,
    RunningContainer,
    Runtime,
)
from agent.settings import AgentBounds
from common.errors import Invalid, PodiumError, Unavailable
from common.model.job import Container, Port
from common.model.node import RuntimeStatus
from common.model.resources import Usage
from common.model.session import LogLine, Program

logger = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT")
Observe = Callable[[str, float], None]
"""Told the operation and its seconds, successful or not."""


class ObservedRuntime:
    """A runtime whose calls are timed, refused until it has started, and fail as promised. Implements `Runtime`."""

    def __init__(self, runtime: Runtime, observe: Observe) -> None:
        self._runtime = runtime
        self._observe = observe
        self._why_not_started = "it has not been started yet"
        self.name = runtime.name

    @property
    def started(self) -> bool:
        return not self._why_not_started

    async def start(self) -> None:
        try:
            await self._timed("start", self._runtime.start())
        except PodiumError as error:
            self._why_not_started = str(error)
            raise
        self._why_not_started = ""

    async def close(self) -> None:
        await self._runtime.close()

    async def status(self) -> RuntimeStatus:
        if self._why_not_started:
            return RuntimeStatus(name=self.name, ready=False, message=self._why_not_started)
        return await self._runtime.status()

    async def prepare(self, container: Container, progress: Progress) -> tuple[Port, ...]:
        self._check()
        return await self._timed("prepare", self._runtime.prepare(container, progress))

    async def owner_of(self, container: Container, task_id: str, namespace: str) -> Owner | None:
        self._check()
        return await self._timed("owner_of", self._runtime.owner_of(container, task_id, namespace))

    async def create(self, request: ContainerRequest) -> str:
        self._check()
        return await self._timed("create", self._runtime.create(request))

    async def start_container(self, container_id: str) -> RunningContainer:
        self._check()
        return await self._timed("start_container", self._runtime.start_container(container_id))

    async def stop_container(self, container_id: str, signal: str, grace_s: float) -> Exit:
        self._check()
        return await self._timed("stop_container", self._runtime.stop_container(container_id, signal, grace_s))

    async def kill_container(self, container_id: str) -> None:
        self._check()
        await self._timed("kill_container", self._runtime.kill_container(container_id))

    async def remove(self, container_id: str) -> None:
        self._check()
        await self._timed("remove", self._runtime.remove(container_id))

    async def wait(self, container_id: str) -> Exit:
        self._check()
        try:
            return await self._runtime.wait(container_id)  # lasts as long as the container: not a request, not timed
        except PodiumError:
            raise
        except Exception as error:
            raise _mistake("wait", error) from error

    async def list(self) -> tuple[RunningContainer, ...]:
        self._check()
        return await self._timed("list", self._runtime.list())

    async def volumes(self) -> tuple[str, ...]:
        self._check()
        return await self._timed("volumes", self._runtime.volumes())

    async def remove_volume(self, name: str) -> None:
        self._check()
        await self._timed("remove_volume", self._runtime.remove_volume(name))

    async def exec(
        self, container_id: str, argv: tuple[str, ...], timeout_s: float, manner: ExecManner = AS_THE_CONTAINER
    ) -> ExecResult:
        self._check()
        return await self._timed("exec", self._runtime.exec(container_id, argv, timeout_s, manner))

    @asynccontextmanager
    async def open_exec(self, container_id: str, program: Program) -> AsyncIterator[ExecSession]:
        self._check()
        with _unforeseen("exec"):
            async with self._runtime.open_exec(container_id, program) as session:
                yield session

    async def logs(
        self, container_id: str, *, tail: int = -1, since_s: float = 0.0, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        self._check()
        lines = self._runtime.logs(container_id, tail=tail, since_s=since_s, follow=follow)
        with _unforeseen("logs"):
            async for line in lines:
                yield line

    async def usage(self, container_id: str) -> Usage:
        self._check()
        return await self._timed("usage", self._runtime.usage(container_id))

    def _check(self) -> None:
        if self._why_not_started:
            raise Unavailable(self._why_not_started)

    async def _timed(self, operation: str, call: Awaitable[AnswerT]) -> AnswerT:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await call
        except PodiumError:
            raise
        except Exception as error:
            raise _mistake(operation, error) from error
        finally:
            self._observe(operation, loop.time() - began)


@contextmanager
def _unforeseen(operation: str) -> Iterator[None]:
    try:
        yield
    except PodiumError:
        raise
    except Exception as error:
        raise _mistake(operation, error) from error


def _mistake(operation: str, error: Exception) -> Unavailable:
    """One in a runtime's adapter must cost one task a repeat, not the node all its tasks."""
    logger.exception("runtime call %s went wrong in an unforeseen way", operation)
    return Unavailable(f"{type(error).__name__}: {error}")


class Runtimes:
    """See the module."""

    def __init__(
        self, runtimes: Iterable[Runtime], bounds: AgentBounds, observe: Observe, clock: Callable[[], float]
    ) -> None:
        self._runtimes = {runtime.name: ObservedRuntime(runtime, observe) for runtime in runtimes}
        self._of_images, self._of_processes = (
            self._runtimes.get(name) or self._runtimes.get("fake") for name in ("docker", PROCESS)
        )
        self._bounds = bounds
        self._clock = clock
        self._statuses = {name: RuntimeStatus(name=name, ready=False) for name in self._runtimes}
        self._answered: list[Callable[[str], None]] = []

    @property
    def statuses(self) -> tuple[RuntimeStatus, ...]:
        """As of the last poll."""
        return tuple(self._statuses.values())

    def all(self) -> tuple[Runtime, ...]:
        return tuple(self._runtimes.values())

    def on_answer(self, answered: Callable[[str], None]) -> None:
        """Call back with a runtime's name at every poll that it answers."""
        self._answered.append(answered)

    def of(self, container: Container) -> Runtime:
        """The runtime for a container; without an image it is a process. Raises `Invalid` when the node has none."""
        found = self._of_images if container.image else self._of_processes
        if found is None:
            wanted = "docker" if container.image else PROCESS
            what = f"image {container.image!r}" if container.image else "a job without an image"
            have = ", ".join(self._runtimes) or "none"
            text = f"{what} needs the {wanted} runtime; this node has {have} (podium agent --runtime {wanted})"
            raise Invalid(text)
        return found

    async def poll(self) -> None:
        """Ask every runtime once whether it answers, starting those that have not."""
        await asyncio.gather(*(self._poll(runtime) for runtime in self._runtimes.values()))

    async def run(self) -> None:
        """Keep asking."""
        while True:
            await asyncio.sleep(self._bounds.runtime_poll_s)
            await self.poll()

    async def close(self) -> None:
        for runtime in self._runtimes.values():
            try:
                async with asyncio.timeout(self._bounds.runtime_poll_timeout_s):
                    await runtime.close()
            except (TimeoutError, PodiumError) as error:
                logger.warning("runtime %s: not closed cleanly: %s", runtime.name, str(error) or "it took too long")

    async def _poll(self, runtime: ObservedRuntime) -> None:
        before = self._statuses[runtime.name]
        now = await self._ask(runtime)
        now = msgspec.structs.replace(now, since_s=0.0 if now.ready else before.since_s or self._clock())
        self._statuses[runtime.name] = now
        if (before.ready, before.message) != (now.ready, now.message):
            state = f"answers (version {now.version})" if now.ready else now.problem
            logger.log(logging.INFO if now.ready else logging.WARNING, "runtime %s %s", runtime.name, state)
        if now.ready:
            for answered in self._answered:
                answered(runtime.name)

    async def _ask(self, runtime: ObservedRuntime) -> RuntimeStatus:
        try:
            async with asyncio.timeout(self._bounds.runtime_poll_timeout_s):
                if not runtime.started:
                    await runtime.start()
                return await runtime.status()
        except TimeoutError:
            message = f"no answer within {self._bounds.runtime_poll_timeout_s:g} s"
        except PodiumError as error:
            message = str(error)
        return msgspec.structs.replace(self._statuses[runtime.name], ready=False, message=message)
