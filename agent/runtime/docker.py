"""Containers of a Docker Engine (or Podman's socket that speaks the same) as one node's runtime.

Owns which containers are this node's: those that carry its labels, nobody else's are ever touched. It keeps no state
of its own that the engine does not have, so a restarted agent finds everything by the labels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import msgspec

from agent.runtime.cgroups import end_engine_leftovers
from agent.runtime.docker_answers import ImageInspection, Inspection, Stats
from agent.runtime.docker_attach import attached
from agent.runtime.docker_engine import Engine, EngineSettings, LeftOver
from agent.runtime.docker_exec import execute
from agent.runtime.docker_owner import ImageUsers
from agent.runtime.docker_pull import pull
from agent.runtime.docker_request import (
    ATTEMPT_LABEL,
    NODE_LABEL,
    TASK_LABEL,
    bindings_of,
    configuration,
    container_name,
    declared_ports,
    engine_volume,
    identity_of,
)
from agent.runtime.docker_slots import Rank, Slots
from agent.runtime.docker_streams import stamped_lines, unix_time_s
from agent.runtime.docker_watch import ExitWatch
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
from agent.runtime.signals import signal_number, signal_of_exit
from common.errors import Conflict, Invalid, NotFound, PodiumError, Unavailable
from common.model.job import Container, Port, PullPolicy
from common.model.node import RuntimeStatus
from common.model.resources import Usage
from common.model.session import LogLine, Program
from common.model.task import PortBinding
from common.references import Reference, parse_reference

logger = logging.getLogger(__name__)

NAME_TRIES = 25
NAME_WAIT_S = 0.2
"""The engine gives a name away before it lists the container, and takes it back after it lists it no more: a repeated
create that comes in between finds the name taken by nobody, so for five seconds it is tried again."""
KILL_TIMEOUT_S = 30.0
"""The kernel ends a killed process at once, unless its disk hangs; then the agent is told so."""


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """What need not be asked of the engine again: it never changes."""

    identity: ContainerIdentity
    bindings: tuple[PortBinding, ...] = ()
    """As requested."""
    fresh: bool = False
    """Created by this runtime and never started yet."""


class DockerRuntime:
    """See `agent.runtime.interface.Runtime` for what each verb promises."""

    name = "docker"

    def __init__(
        self,
        node_id: str,
        *,
        host: str = "unix:///var/run/docker.sock",
        clock: Callable[[], float],
        settings: EngineSettings | None = None,
    ) -> None:
        self._node_id = node_id
        self._host = host
        self._local = host.startswith("unix://")
        self._socket = host.removeprefix("unix://") if self._local else ""
        self._clock = clock
        self._settings = settings or EngineSettings()
        self._labels = {NODE_LABEL: node_id}
        self._known: dict[str, _Known] = {}
        self._exits: dict[str, Exit] = {}
        self._cpu_samples: dict[str, tuple[float, int]] = {}
        self._owners = ImageUsers()
        self._slots = Slots(self._settings.starts_at_once)
        self._inspections = asyncio.Semaphore(self._settings.inspections_at_once)
        self._pulls = asyncio.Semaphore(self._settings.pulls_at_once)
        self._opened: tuple[Engine, ExitWatch] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._opened is None:
            engine = Engine(self._host, self._settings)
            self._opened = engine, ExitWatch(engine, self._labels, local=self._local)
        engine, watch = self._opened
        await engine.negotiate()
        if self._watching is None:
            self._watching = asyncio.create_task(watch.run(), name="docker exit watch")
            self._watching.add_done_callback(_report_death)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        if self._opened is not None:
            engine, _ = self._opened
            self._opened = None
            await engine.close()

    async def status(self) -> RuntimeStatus:
        try:
            version = await self._engine.answering_version()
        except PodiumError as error:
            return RuntimeStatus(name=self.name, ready=False, message=str(error))
        return RuntimeStatus(name=self.name, ready=True, version=version)

    async def prepare(self, container: Container, progress: Progress) -> tuple[Port, ...]:
        reference = parse_reference(container.image)
        policy = container.pull_policy
        present = await self._engine.image_if_there(reference) if policy is not PullPolicy.ALWAYS else None
        if present is None:
            if policy is PullPolicy.NEVER:
                raise NotFound(f"image {reference} is not on this node, and pull_policy `never` forbids pulling it")
            present = await self._pulled(reference, progress, anew=policy is PullPolicy.ALWAYS)
        return declared_ports(present.config)

    async def _pulled(self, reference: Reference, progress: Progress, *, anew: bool) -> ImageInspection:
        async with self._pulls:
            # Another task's pull of the same image may have ended while this one waited its turn.
            present = None if anew else await self._engine.image_if_there(reference)
            if present is None:
                await pull(self._engine, reference, progress)
        return present or await self._engine.image(reference)

    async def owner_of(self, container: Container, task_id: str, namespace: str) -> Owner | None:
        return await self._owners.of(self._engine, container)

    async def create(self, request: ContainerRequest) -> str:
        identity = request.identity
        if identity.node_id != self._node_id:
            raise Invalid(f"identity.node_id: {identity.node_id} is not this node, {self._node_id}")
        name, body = container_name(identity), configuration(request, self._socket)
        for _ in range(NAME_TRIES):
            try:
                async with self._slots.hold(Rank.CREATE):
                    container_id = await self._engine.create(name, body)
            except Conflict:
                if made := await self._made_before(identity, request.bindings):
                    return made
                await asyncio.sleep(NAME_WAIT_S)
            else:
                self._known[container_id] = _Known(identity=identity, bindings=request.bindings, fresh=True)
                return container_id
        raise Conflict(f"a container named {name} exists on the engine and is not this task's; remove or rename it")

    async def start_container(self, container_id: str) -> RunningContainer:
        known = await self._own(container_id)
        if not known.fresh:
            # It may run, or even have ended: starting an ended one would run it a second time.
            seen = await self._inspect(container_id)
            if seen.running or seen.exit is not None:
                return seen
        self._known[container_id] = msgspec.structs.replace(known, fresh=False)
        self._watch.watch(container_id)
        async with self._slots.hold(Rank.START):
            await self._begin(container_id)
        if not all(binding.host_port for binding in known.bindings):
            return await self._inspect(container_id)
        return RunningContainer(
            id=container_id,
            identity=known.identity,
            running=True,
            started_at_s=self._clock(),
            bindings=known.bindings,
        )

    async def stop_container(self, container_id: str, signal: str, grace_s: float) -> Exit:
        number = signal_number(signal)
        await self._own(container_id)
        self._watch.peak_bytes(container_id)  # gone with the container
        if await self._engine.send_signal(container_id, str(number)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    return await self.wait(container_id)
            await self._engine.send_signal(container_id, "SIGKILL")
        elif (seen := await self._inspect(container_id)).exit is None and not seen.running:
            return Exit(code=None, message="it was never started")
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                return await self.wait(container_id)
        except TimeoutError:
            raise Unavailable(f"container {container_id} still runs {KILL_TIMEOUT_S:g} s after it was killed") from None

    async def kill_container(self, container_id: str) -> None:
        with contextlib.suppress(NotFound):
            await self._own(container_id)
            self._watch.peak_bytes(container_id)
            await self._engine.send_signal(container_id, "SIGKILL")

    async def remove(self, container_id: str) -> None:
        with contextlib.suppress(NotFound):
            await self._own(container_id)
            async with self._slots.hold(Rank.REMOVE):
                await self._engine.delete(container_id)
                self._end_leftovers(container_id)
        # Whoever still waits for it looks, and learns that it is gone.
        if self._watch.watches(container_id):
            self._watch.watch(container_id).set()
        self._watch.forget(container_id)
        for kept in (self._known, self._exits, self._cpu_samples):
            kept.pop(container_id, None)

    async def wait(self, container_id: str) -> Exit:
        await self._own(container_id)
        if not self._watch.watches(container_id):
            self._watch.watch(container_id).set()  # an adopted one may have ended before: look at once
        hint = self._watch.watch(container_id)
        while container_id not in self._exits:
            await hint.wait()
            hint.clear()
            try:
                ended = (await self._inspect(container_id)).exit
            except NotFound:
                return Exit(code=None, ended_at_s=self._clock(), message="the container was removed")
            except Unavailable as error:
                logger.debug("container %s cannot be inspected, waiting on: %s", container_id[:12], error)
                continue  # the list after the engine's return sets the hint again
            except asyncio.CancelledError:
                hint.set()  # a grace that ended just now: whoever waits next has to look
                raise
            if ended is not None:
                self._exits[container_id] = ended
                hint.set()  # for others that wait for it
        return self._exits[container_id]

    async def list(self) -> tuple[RunningContainer, ...]:
        listed = await self._engine.find(self._labels, ended=True)
        ours = [each.id for each in listed if identity_of(each.labels or {}) is not None]
        try:
            async with asyncio.TaskGroup() as group:
                inspections = [group.create_task(self._if_there(container_id)) for container_id in ours]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return tuple(seen for inspection in inspections if (seen := inspection.result()) is not None)

    async def volumes(self) -> tuple[str, ...]:
        return await self._engine.volumes_of(self._node_id)

    async def remove_volume(self, name: str) -> None:
        await self._engine.remove_volume(engine_volume(self._node_id, name))

    async def exec(
        self, container_id: str, argv: tuple[str, ...], timeout_s: float, manner: ExecManner = AS_THE_CONTAINER
    ) -> ExecResult:
        await self._own(container_id)
        return await execute(self._engine, container_id, argv, timeout_s, manner)

    @contextlib.asynccontextmanager
    async def open_exec(self, container_id: str, program: Program) -> AsyncIterator[ExecSession]:
        await self._own(container_id)
        async with attached(self._engine, container_id, program) as session:
            yield session

    async def logs(
        self, container_id: str, *, tail: int = -1, since_s: float = 0.0, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        identity = (await self._own(container_id)).identity
        frames = self._engine.log_frames(container_id, tail=tail, since_s=since_s, follow=follow)
        async with aclosing(frames):
            async for frame in frames:
                for time_s, text in stamped_lines(frame.payload):
                    yield LogLine(
                        task_id=identity.task_id,
                        job=f"{identity.namespace}/{identity.job}",
                        slot=identity.slot,
                        time_s=time_s,
                        stream=frame.stream,
                        text=text,
                    )

    async def usage(self, container_id: str) -> Usage:
        """CPU since the last call for this container; 0 at the first."""
        await self._own(container_id)
        stats = await self._engine.stats(container_id)
        now_s, total_ns = asyncio.get_running_loop().time(), stats.cpu_stats.cpu_usage.total_usage
        before_s, before_ns = self._cpu_samples.get(container_id, (now_s, total_ns))
        self._cpu_samples[container_id] = now_s, total_ns
        busy_s, elapsed_s = max(total_ns - before_ns, 0) / 1e9, now_s - before_s
        return Usage(
            cpu_millis=round(1000 * busy_s / elapsed_s) if elapsed_s > 0 else 0,
            memory_bytes=_memory_in_use(stats),
            tasks=stats.pids_stats.current or 0,
        )

    @property
    def _engine(self) -> Engine:
        if self._opened is None:
            raise Unavailable("the Docker runtime is not open: start it first")
        return self._opened[0]

    @property
    def _watch(self) -> ExitWatch:
        if self._opened is None:
            raise Unavailable("the Docker runtime is not open: start it first")
        return self._opened[1]

    async def _begin(self, container_id: str) -> None:
        """Start it. Raises `NotFound` when the engine can start it no more, for having begun that once before it died.

        Nothing is held against the task then, and its next attempt gets another container. What may still run of this
        one is ended first; on a remote engine nobody could tell, so there the task waits for somebody to look.
        """
        try:
            await self._engine.begin(container_id)
        except LeftOver as error:
            if not self._local:
                raise
            self._end_leftovers(container_id)
            raise NotFound(f"the engine was interrupted while it started the container: {error}") from None

    def _end_leftovers(self, container_id: str) -> None:
        if self._local and (ended := end_engine_leftovers(container_id)):
            logger.warning("container %s: ended %d processes that the engine forgot", container_id[:12], ended)

    async def _own(self, container_id: str) -> _Known:
        """What we know of a container. Raises `NotFound` for one that is gone or does not carry our label."""
        if container_id not in self._known:
            await self._inspect(container_id)
        return self._known[container_id]

    async def _inspect(self, container_id: str) -> RunningContainer:
        async with self._inspections:
            inspection = await self._engine.inspect(container_id)
        identity = identity_of(inspection.config.labels or {})
        if identity is None or identity.node_id != self._node_id:
            raise NotFound(f"container {container_id} does not belong to node {self._node_id}")
        self._known.setdefault(inspection.id, _Known(identity=identity))
        return self._seen(identity, inspection)

    def _seen(self, identity: ContainerIdentity, inspection: Inspection) -> RunningContainer:
        started_at_s = unix_time_s(inspection.state.started_at)
        return RunningContainer(
            id=inspection.id,
            identity=identity,
            running=inspection.state.running,
            started_at_s=started_at_s,
            bindings=bindings_of(inspection.network_settings.ports),
            exit=self._exit_of(inspection) if started_at_s and not inspection.state.running else None,
        )

    def _exit_of(self, inspection: Inspection) -> Exit:
        state, limit_bytes = inspection.state, inspection.host_config.memory
        peak_bytes = self._watch.peak_bytes(inspection.id)
        return Exit(
            code=state.exit_code,
            signal=signal_of_exit(state.exit_code),
            oom=state.oom_killed,
            # Whoever was killed for memory had all it was allowed, however late the last measurement was.
            memory_peak_bytes=max(peak_bytes, limit_bytes) if state.oom_killed else peak_bytes,
            memory_limit_bytes=limit_bytes,
            ended_at_s=unix_time_s(state.finished_at),
            message=state.error,
        )

    async def _if_there(self, container_id: str) -> RunningContainer | None:
        try:
            return await self._inspect(container_id)
        except NotFound:
            return None  # removed since it was listed

    async def _made_before(self, identity: ContainerIdentity, bindings: tuple[PortBinding, ...]) -> str:
        """The container of this attempt; empty when the engine lists none."""
        labels = {TASK_LABEL: identity.task_id, ATTEMPT_LABEL: str(identity.attempt)}
        for listed in await self._engine.find(self._labels | labels, ended=True):
            if identity_of(listed.labels or {}) == identity:
                self._known.setdefault(listed.id, _Known(identity=identity, bindings=bindings))
                return listed.id
        return ""


def _memory_in_use(stats: Stats) -> int:
    """Without the page cache the kernel can take back, as `docker stats` shows it (cgroup v1, then v2)."""
    detail = stats.memory_stats.stats or {}
    reclaimable = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return max(stats.memory_stats.usage - reclaimable, 0)


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the watch over containers ended, ends of containers go unseen", exc_info=error)
