"""A runtime in memory, on the loop's own time: for simulations and tests, and shipped because users simulate too.

Owns pretended containers and plays the behaviour each was given: how long it takes to prepare, start and stop, when and
how it ends, what a health check finds. It keeps every promise of the interface that has nothing to do with a kernel,
and never starts anything. `FakeEngine` is the machine and outlives agents; `FakeRuntime` is one agent's view of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from agent.runtime.fake_exec import FakeExec
from agent.runtime.interface import (
    AS_THE_CONTAINER,
    ContainerIdentity,
    ContainerRequest,
    ExecManner,
    ExecResult,
    ExecSession,
    Exit,
    Owner,
    Progress,
    RunningContainer,
)
from agent.runtime.signals import KILLED, signal_number, signal_of_exit
from common.errors import Conflict, Fault, Invalid, NotFound, PodiumError, Unavailable
from common.model.job import Container, Mount, MountKind, Port
from common.model.node import RuntimeStatus
from common.model.resources import Usage
from common.model.session import LogLine, LogStream, Program
from common.model.task import PortBinding

OUTPUT_LINES = 10_000
"""Kept per container; older ones are dropped, as rotation would."""
LINE_BYTES = 16 * 1024
FIRST_PORT = 30_000
"""First host port given to a binding that lets the engine choose."""

ExecAnswer = ExecResult | PodiumError
_Answer = TypeVar("_Answer")


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What one container, and the calls that make it, will do. The default starts at once and runs until stopped."""

    create_s: float = 0.0
    create_error: PodiumError | None = None
    start_s: float = 0.0
    start_error: PodiumError | None = None
    exit_after_s: float | None = None
    """Ends by itself this long after its start; None: never."""
    exit_code: int = 0
    oom: bool = False
    stop_s: float = 0.0
    """How long it takes to end after a stop signal; longer than the grace: it is killed."""
    stop_exit_code: int | None = None
    """With what it ends when stopped in time; None: by the signal."""
    exec_s: float = 0.0
    exec_answer: ExecAnswer = ExecResult(code=0, output="")
    output: tuple[str, ...] = ()
    """Printed at the start."""
    usage: Usage = Usage()


class Preparation(msgspec.Struct, frozen=True, kw_only=True):
    """How making an image present goes."""

    takes_s: float = 0.0
    progress: tuple[str, ...] = ()
    error: PodiumError | None = None
    ports: tuple[Port, ...] = ()
    """That the image declares."""


def _run_forever(_request: ContainerRequest) -> Behaviour:
    return Behaviour()


def _be_present(_container: Container) -> Preparation:
    return Preparation()


class FakeContainer:
    """One pretended container. Tests may read it and change its `behaviour` while it runs."""

    def __init__(self, container_id: str, request: ContainerRequest, behaviour: Behaviour) -> None:
        self.id = container_id
        self.request = request
        self.behaviour = behaviour
        self.bindings: tuple[PortBinding, ...] = ()
        self.started = False
        self.started_at_s = 0.0
        self.exit: Exit | None = None
        self.ended = asyncio.Event()
        self.printed = asyncio.Event()
        self.output: deque[LogLine] = deque(maxlen=OUTPUT_LINES)
        self.lines_dropped = 0
        self.timer: asyncio.TimerHandle | None = None
        self.execs: list[FakeExec] = []
        self.programs: list[tuple[tuple[str, ...], ExecManner]] = []
        """What was run inside it, in order: health checks and hooks."""

    @property
    def identity(self) -> ContainerIdentity:
        return self.request.identity

    @property
    def running(self) -> bool:
        return self.started and self.exit is None

    def seen(self) -> RunningContainer:
        return RunningContainer(
            id=self.id,
            identity=self.identity,
            running=self.running,
            started_at_s=self.started_at_s,
            bindings=self.bindings,
            exit=self.exit,
        )


class FakeEngine:
    """A machine's containers. Keep one while agents on it come and go."""

    def __init__(
        self,
        clock: Callable[[], float],
        behave: Callable[[ContainerRequest], Behaviour] = _run_forever,
        prepare: Callable[[Container], Preparation] = _be_present,
    ) -> None:
        self.clock = clock
        self.behave = behave
        self.prepare = prepare
        self.containers: dict[str, FakeContainer] = {}
        self.volumes: set[tuple[str, str]] = set()
        """(node id, name): they outlive containers."""
        self._by_attempt: dict[tuple[str, int], FakeContainer] = {}
        self.away = ""
        """Why every call fails at the moment; empty while the engine answers."""
        self._created = 0
        self._ports = FIRST_PORT

    def create(self, request: ContainerRequest, behaviour: Behaviour) -> FakeContainer:
        self.volumes |= {
            (request.identity.node_id, mount.source)
            for mount in request.container.mounts
            if mount.kind is MountKind.VOLUME
        }
        self._created += 1
        container = FakeContainer(f"fake-{self._created:06d}", request, behaviour)
        self.containers[container.id] = container
        self._by_attempt[request.identity.task_id, request.identity.attempt] = container
        return container

    def made(self, task_id: str, attempt: int) -> FakeContainer | None:
        """The container of this attempt, if it was created."""
        return self._by_attempt.get((task_id, attempt))

    def forget(self, container: FakeContainer) -> None:
        """Remove it, running or not; whoever waits for it learns that it is gone."""
        self.end(container, KILLED)
        if container.exit is None:
            container.exit = Exit(code=None, message="it was removed before it was started")
            container.ended.set()
        self.containers.pop(container.id, None)
        self._by_attempt.pop((container.identity.task_id, container.identity.attempt), None)

    def by_task(self, task_id: str) -> FakeContainer:
        """The task's newest container. Raises `NotFound`."""
        for container in reversed(self.containers.values()):
            if container.identity.task_id == task_id:
                return container
        raise NotFound(f"no container of task {task_id}")

    def begin(self, container: FakeContainer) -> None:
        """Let it run from now on."""
        container.started = True
        container.started_at_s = self.clock()
        container.bindings = tuple(self._bound(binding) for binding in container.request.bindings)
        for text in container.behaviour.output:
            self.print(container, text)
        after_s = container.behaviour.exit_after_s
        if after_s is not None:
            loop = asyncio.get_running_loop()
            container.timer = loop.call_later(after_s, self.end, container, container.behaviour.exit_code)

    def end(self, container: FakeContainer, code: int) -> None:
        """End it now with this exit code; 128 + n means by signal n. Ended or never started: nothing happens."""
        if not container.running:
            return
        if container.timer is not None:
            container.timer.cancel()
        limit_bytes = container.request.limits.memory_bytes
        container.exit = Exit(
            code=code,
            signal=signal_of_exit(code),
            oom=container.behaviour.oom,
            memory_peak_bytes=limit_bytes if container.behaviour.oom else container.behaviour.usage.memory_bytes,
            memory_limit_bytes=limit_bytes,
            ended_at_s=self.clock(),
        )
        container.ended.set()
        container.printed.set()

    def print(self, container: FakeContainer, text: str, stream: LogStream = LogStream.STDOUT) -> None:
        """Add lines to its output."""
        for line in text.split("\n"):
            for start in range(0, max(len(line), 1), LINE_BYTES):
                container.lines_dropped += len(container.output) == OUTPUT_LINES
                container.output.append(self._log_line(container, line[start : start + LINE_BYTES], stream))
        container.printed.set()
        container.printed.clear()

    def lose_power(self) -> None:
        """The machine stops dead: whatever ran has ended and nobody can say how."""
        for container in self.containers.values():
            if container.running:
                self.end(container, KILLED)
                container.exit = Exit(code=None, ended_at_s=self.clock(), message="the machine was restarted")

    def _log_line(self, container: FakeContainer, text: str, stream: LogStream) -> LogLine:
        identity = container.identity
        return LogLine(
            task_id=identity.task_id,
            job=f"{identity.namespace}/{identity.job}",
            slot=identity.slot,
            time_s=self.clock(),
            stream=stream,
            text=text,
        )

    def _bound(self, binding: PortBinding) -> PortBinding:
        if binding.host_port:
            return binding
        self._ports += 1
        return msgspec.structs.replace(binding, host_port=self._ports)


class FakeRuntime:
    """One agent's runtime over a `FakeEngine`; sees the containers of its own node only."""

    name = "fake"

    def __init__(self, node_id: str, engine: FakeEngine) -> None:
        self._node_id = node_id
        self._engine = engine

    async def start(self) -> None:
        self._check_engine()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def status(self) -> RuntimeStatus:
        away = self._engine.away
        return RuntimeStatus(name=self.name, ready=not away, version="1", message=away)

    async def prepare(self, container: Container, progress: Progress) -> tuple[Port, ...]:
        self._check_engine()
        preparation = self._engine.prepare(container)
        for line in preparation.progress:
            progress(line)
        await _takes(preparation.takes_s)
        self._check_engine()
        if preparation.error is not None:
            raise preparation.error
        return preparation.ports

    async def owner_of(self, container: Container, task_id: str, namespace: str) -> Owner | None:
        self._check_engine()
        return None

    async def create(self, request: ContainerRequest) -> str:
        self._check_engine()
        self._check_identity(request.identity)
        behaviour = self._engine.behave(request)
        await _takes(behaviour.create_s)
        self._check_engine()
        if behaviour.create_error is not None:
            raise behaviour.create_error
        made = self._engine.made(request.identity.task_id, request.identity.attempt)
        if made is None:
            return self._engine.create(request, behaviour).id
        if made.identity != request.identity:
            raise Conflict(f"attempt {request.identity.attempt} of task {request.identity.task_id} belongs to another")
        return made.id

    async def start_container(self, container_id: str) -> RunningContainer:
        container = self._own(container_id)
        if container.started:
            return container.seen()
        await _takes(container.behaviour.start_s)
        self._check_engine()
        if container.behaviour.start_error is not None:
            raise container.behaviour.start_error
        if not container.started:
            self._engine.begin(container)
        return container.seen()

    async def stop_container(self, container_id: str, signal: str, grace_s: float) -> Exit:
        container = self._own(container_id)
        number = signal_number(signal)
        if container.running:
            await _unless_it_ends(container, min(grace_s, container.behaviour.stop_s))
            given = container.behaviour.stop_exit_code
            stopped = 128 + number if given is None else given
            self._engine.end(container, stopped if container.behaviour.stop_s <= grace_s else KILLED)
        return container.exit or Exit(code=None, message="it was never started")

    async def kill_container(self, container_id: str) -> None:
        self._check_engine()
        if container_id in self._engine.containers:
            self._engine.end(self._own(container_id), KILLED)

    async def remove(self, container_id: str) -> None:
        self._check_engine()
        if container_id in self._engine.containers:
            self._engine.forget(self._own(container_id))

    async def wait(self, container_id: str) -> Exit:
        container = self._own(container_id)
        await container.ended.wait()
        assert container.exit is not None
        return container.exit

    async def list(self) -> tuple[RunningContainer, ...]:
        self._check_engine()
        containers = self._engine.containers.values()
        return tuple(container.seen() for container in containers if container.identity.node_id == self._node_id)

    async def volumes(self) -> tuple[str, ...]:
        self._check_engine()
        return tuple(sorted(name for node_id, name in self._engine.volumes if node_id == self._node_id))

    async def remove_volume(self, name: str) -> None:
        self._check_engine()
        for container in self._engine.containers.values():
            if container.identity.node_id == self._node_id and name in map(_source, container.request.container.mounts):
                raise Conflict(f"container {container.id} has volume {name}")
        self._engine.volumes.discard((self._node_id, name))

    async def exec(
        self, container_id: str, argv: tuple[str, ...], timeout_s: float, manner: ExecManner = AS_THE_CONTAINER
    ) -> ExecResult:
        container = self._own(container_id)
        if not container.running:
            raise Conflict(f"container {container_id} is not running: nothing can be run inside it")
        container.programs.append((argv, manner))
        await asyncio.sleep(min(container.behaviour.exec_s, timeout_s))
        if container.behaviour.exec_s > timeout_s:
            raise Unavailable(f"`{' '.join(argv)}` did not end within {timeout_s:g} s and was killed")
        return _answered(container.behaviour.exec_answer)

    @asynccontextmanager
    async def open_exec(self, container_id: str, program: Program) -> AsyncIterator[ExecSession]:
        """Says what `exec_answer` has, then echoes its input until that ends."""
        container = self._own(container_id)
        if not container.running:
            raise Conflict(f"container {container_id} is not running: nothing can be run inside it")
        session = FakeExec(program, _answered(container.behaviour.exec_answer))
        container.execs.append(session)
        yield session

    async def logs(
        self, container_id: str, *, tail: int = -1, since_s: float = 0.0, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        container = self._own(container_id)
        chosen = [line for line in container.output if line.time_s >= since_s]
        place = container.lines_dropped + len(container.output)
        for line in chosen if tail < 0 else chosen[max(len(chosen) - tail, 0) :]:
            yield line
        while follow:
            for line in tuple(container.output)[max(place - container.lines_dropped, 0) :]:
                yield line
                place += 1
            if not container.running:
                return
            if place >= container.lines_dropped + len(container.output):
                await container.printed.wait()

    async def usage(self, container_id: str) -> Usage:
        container = self._own(container_id)
        return container.behaviour.usage if container.running else Usage()

    def _check_engine(self) -> None:
        if self._engine.away:
            raise Unavailable(self._engine.away)

    def _check_identity(self, identity: ContainerIdentity) -> None:
        if identity.node_id != self._node_id:
            text = f"{identity.node_id} is not this node, {self._node_id}"
            raise Invalid([Fault(path="identity.node_id", text=text)])

    def _own(self, container_id: str) -> FakeContainer:
        self._check_engine()
        container = self._engine.containers.get(container_id)
        if container is None or container.identity.node_id != self._node_id:
            raise NotFound(f"no container {container_id} of this node")
        return container


def _source(mount: Mount) -> str:
    return mount.source if mount.kind is MountKind.VOLUME else ""


async def _takes(seconds: float) -> None:
    """What takes no time is done at once: a turn of the loop for each call is half of what 5,000 nodes cost."""
    if seconds > 0:
        await asyncio.sleep(seconds)


async def _unless_it_ends(container: FakeContainer, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await container.ended.wait()
    except TimeoutError:
        return


def _answered(answer: _Answer | PodiumError) -> _Answer:
    if isinstance(answer, PodiumError):
        raise answer
    return answer
