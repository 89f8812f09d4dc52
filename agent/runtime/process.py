"""Plain processes of this machine as one node's runtime: each task has a supervisor of its own that outlives the agent.

Owns the directories of the tasks, one for each attempt, and through them everything a restarted agent needs to know.
A container's id is the process id of its program. It isolates nothing: programs share the machine's files and network;
memory and CPU limits hold where the system lets the agent make control groups, and status says so where not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import shutil
import signal as signals
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from agent.runtime import cgroups
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
from agent.runtime.process_attach import attached
from agent.runtime.process_exec import execute
from agent.runtime.process_files import FailedRecord, StartedRecord, StoredRequest, TaskDirectory, User, group_of
from agent.runtime.process_logs import OutputReader
from agent.runtime.process_request import arguments, check, container_key, environment, mark
from agent.runtime.process_shim import Supervisor, attach, marked_processes, spawn
from agent.runtime.process_usage import CpuMeter
from agent.runtime.process_users import Users
from agent.runtime.process_volumes import ProcessVolumes, expanded
from agent.runtime.signals import signal_number, signal_of_exit
from common.errors import Conflict, Invalid, NotFound, PodiumError, Unavailable
from common.model.job import Container, MountKind, Port
from common.model.node import RuntimeStatus
from common.model.resources import Resources, Usage
from common.model.session import LogLine, Program

logger = logging.getLogger(__name__)

GROUP_LOOKS = 20
GROUP_WAIT_S = 0.05
"""A control group can be removed once the last process killed in it is gone: looked for during a second."""

_REMOVED = ".removed-"
"""Before the name of a directory that is being deleted; an agent that finds one finishes the work."""


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the process runtime."""

    output_bytes: int = 10 * 1024 * 1024
    """Kept of each task's output, in two files."""
    starts_at_once: int = 4
    """Each is an interpreter's start, some 20 ms of a processor: more at once only lengthens each."""
    kill_timeout_s: float = 30.0
    """Covers a supervisor that buries thousands of processes; the kernel ends a killed one at once."""
    id_tries: int = 3
    """A process id may be that of an ended task that is still remembered; the next one is another."""


class _Task:
    """One attempt of one task, as far as this agent knows it."""

    def __init__(
        self, directory: TaskDirectory, request: StoredRequest, container_id: str, supervisor: Supervisor | None
    ) -> None:
        self.directory = directory
        self.request = request
        self.id = container_id
        self.supervisor = supervisor
        """None when an earlier agent's is no more."""
        self.cpu = CpuMeter()
        self.settled = False
        """Nothing of it can be left running any more."""
        self._exit: Exit | None = None

    @property
    def alive(self) -> bool:
        return self.supervisor is not None and not self.supervisor.ended.is_set()

    @property
    def started(self) -> StartedRecord | None:
        return self.directory.started()

    def exit(self) -> Exit | None:
        """How it ended; None while it runs and when it never ran."""
        if self._exit is None and not self.alive and self.started is not None:
            self._exit = self._find_exit()
        return self._exit

    def seen(self) -> RunningContainer:
        started = self.started
        return RunningContainer(
            id=self.id,
            identity=self.request.identity,
            running=started is not None and self.alive,
            started_at_s=started.at_s if started else 0.0,
            bindings=self.request.bindings if started else (),
            exit=self.exit(),
        )

    def _find_exit(self) -> Exit:
        record = self.directory.exit()
        if record is None:
            text = "its supervisor is gone, killed or with the machine: nobody knows how it ended"
            return Exit(code=None, memory_limit_bytes=self.request.memory_limit_bytes, message=text)
        return Exit(
            code=record.code,
            signal=signal_of_exit(record.code),
            oom=record.oom,
            memory_peak_bytes=record.memory_peak_bytes,
            memory_limit_bytes=self.request.memory_limit_bytes,
            ended_at_s=record.ended_at_s,
        )


class ProcessRuntime:
    """See `agent.runtime.interface.Runtime` for what each verb promises."""

    name = "process"

    def __init__(
        self,
        node_id: str,
        directory: Path,
        clock: Callable[[], float],
        settings: ProcessSettings | None = None,
        users: Users | None = None,
    ) -> None:
        self._node_id = node_id
        self._users = users or Users()
        self._directory = directory / "processes"
        self._volumes = ProcessVolumes(directory / "volumes")
        self._clock = clock
        self._settings = settings or ProcessSettings()
        self._tasks: dict[str, _Task] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._starts = asyncio.Semaphore(self._settings.starts_at_once)
        self._limits_problem = ""

    async def start(self) -> None:
        try:
            self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            if os.geteuid() == 0:
                # Users of tasks pass through it to their own directories. It cannot be listed, and every file in it is
                # for its owner only.
                self._directory.parent.chmod(0o711)
            entries = sorted(self._directory.iterdir())
        except OSError as error:
            raise Unavailable(f"the directory of process tasks {self._directory}: {error.strerror}") from None
        self._limits_problem = _try_limits(f"podium-probe-{os.getpid()}")
        known = {task.directory.path for task in self._tasks.values()}
        for path in entries:
            if path.name.startswith(_REMOVED):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            elif path not in known:
                await self._adopt(path)

    async def close(self) -> None:
        for task in self._tasks.values():
            if task.supervisor is not None:
                task.supervisor.close()
        self._tasks.clear()

    async def status(self) -> RuntimeStatus:
        return RuntimeStatus(name=self.name, version=platform.release(), message=self._limits_problem)

    async def prepare(self, container: Container, progress: Progress) -> tuple[Port, ...]:
        """Nothing to fetch: the program is on the machine or it is not."""
        if container.image:
            raise Invalid(f"image {container.image}: the process runtime runs no images")
        return ()

    async def owner_of(self, container: Container, task_id: str, namespace: str) -> Owner | None:
        user = self._users.of(container, task_id, namespace)
        return None if user is None else Owner(uid=user.uid, gid=user.gid)

    async def create(self, request: ContainerRequest) -> str:
        check(request, self._node_id)
        key = container_key(request.identity)
        async with self._locks.setdefault(key, asyncio.Lock()):
            made = self._made(request.identity)
            return made.id if made is not None else await self._make(key, request)

    async def start_container(self, container_id: str) -> RunningContainer:
        task = self._task(container_id)
        if task.started is None:
            _raise_if_failed(task.directory.failed())
            if not task.alive or task.supervisor is None:
                raise NotFound(f"process {container_id} was never started and its supervisor is gone: create it anew")
            answer = await task.supervisor.order("start")
            if "error" in answer:
                raise Invalid(str(answer["error"]))
        return task.seen()

    async def stop_container(self, container_id: str, signal: str, grace_s: float) -> Exit:
        number = signal_number(signal)
        task = self._task(container_id)
        if task.started is not None and task.supervisor is not None and task.alive:
            with contextlib.suppress(Unavailable):  # it ended meanwhile, or is to be killed anyway
                await task.supervisor.order("signal", number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    return await self._ended(task)
        return await self._kill(task)

    async def kill_container(self, container_id: str) -> None:
        if container_id in self._tasks:
            await self._kill(self._task(container_id))

    async def remove(self, container_id: str) -> None:
        task = self._tasks.get(container_id)
        if task is None:
            return
        await self._kill(task)
        path = task.directory.path
        doomed = path.with_name(_REMOVED + path.name)
        with contextlib.suppress(FileNotFoundError):
            path.rename(doomed)
        self._tasks.pop(container_id, None)
        for _ in range(GROUP_LOOKS):
            if cgroups.remove(group_of(task.request)):
                break
            await asyncio.sleep(GROUP_WAIT_S)
        await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)

    async def wait(self, container_id: str) -> Exit:
        return await self._ended(self._task(container_id))

    async def list(self) -> tuple[RunningContainer, ...]:
        return tuple(task.seen() for task in self._tasks.values())

    async def volumes(self) -> tuple[str, ...]:
        return await asyncio.to_thread(self._volumes.names)

    async def remove_volume(self, name: str) -> None:
        for task in self._tasks.values():
            if name in task.request.volumes:
                raise Conflict(f"process {task.id} has volume {name}: it runs, or its output is still kept")
        await asyncio.to_thread(self._volumes.remove, name)

    async def exec(
        self, container_id: str, argv: tuple[str, ...], timeout_s: float, manner: ExecManner = AS_THE_CONTAINER
    ) -> ExecResult:
        task, _ = self._running(container_id)
        return await execute(task.request, argv, timeout_s, manner)

    @contextlib.asynccontextmanager
    async def open_exec(self, container_id: str, program: Program) -> AsyncIterator[ExecSession]:
        task, supervisor = self._running(container_id)
        async with attached(task.request, program, supervisor.ended) as session:
            yield session

    async def logs(
        self, container_id: str, *, tail: int = -1, since_s: float = 0.0, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        task = self._task(container_id)
        reader = OutputReader(task.directory.path, task.request.identity)
        ended = (lambda: not task.alive) if follow else None
        async with aclosing(reader.lines(tail=tail, since_s=since_s, ended=ended)) as lines:
            async for line in lines:
                yield line

    async def usage(self, container_id: str) -> Usage:
        """CPU since the last call for this container; 0 at the first."""
        task = self._task(container_id)
        if not task.alive or task.supervisor is None:
            return Usage()
        return task.cpu.measure(task.supervisor.record.pid, asyncio.get_running_loop().time())

    def _task(self, container_id: str) -> _Task:
        try:
            return self._tasks[container_id]
        except KeyError:
            raise NotFound(f"no task of this node has process {container_id}") from None

    def _running(self, container_id: str) -> tuple[_Task, Supervisor]:
        task = self._task(container_id)
        if task.started is None or not task.alive or task.supervisor is None:
            raise Conflict(f"process {container_id} is not running: nothing can be run beside it")
        return task, task.supervisor

    def _made(self, identity: ContainerIdentity) -> _Task | None:
        key = container_key(identity)
        for task in self._tasks.values():
            if task.directory.path.name == key:
                if task.request.identity != identity:
                    raise Conflict(f"attempt {identity.attempt} of task {identity.task_id} belongs to another job")
                return task
        return None

    async def _make(self, key: str, request: ContainerRequest) -> str:
        user = self._users.of(request.container, request.identity.task_id, request.identity.namespace)
        for _ in range(self._settings.id_tries):
            task = await self._spawn(key, request, user)
            if task.id not in self._tasks:
                self._tasks[task.id] = task
                return task.id
            await self._kill(task)
            self._unmake(task.directory, group_of(task.request))
        raise Unavailable("no process id could be had that no remembered task has; remove ended tasks")

    async def _spawn(self, key: str, request: ContainerRequest, user: User | None) -> _Task:
        """A task whose supervisor runs and whose program waits at the gate; on any failure nothing is left of it."""
        container, directory = request.container, TaskDirectory(self._directory / key)
        group = cgroups.create(f"podium-{key}", request.limits)
        named = tuple(mount.source for mount in container.mounts if mount.kind is MountKind.VOLUME)
        places = await asyncio.to_thread(self._volumes.make, named, user)
        stored = StoredRequest(
            argv=arguments(expanded(container, places)),
            environment=environment(container, key, directory.scratch) | places,
            volumes=named,
            working_dir=container.working_dir or str(directory.scratch),
            user=user,
            control_groups=group.directories,
            output_bytes=self._settings.output_bytes,
            identity=request.identity,
            bindings=request.bindings,
            memory_limit_bytes=request.limits.memory_bytes,
        )
        try:
            directory.make(user)
            directory.write_request(stored)
            async with self._starts:
                supervisor = await spawn(directory)
        except OSError as error:
            self._unmake(directory, group)
            raise Unavailable(f"the directory of task {key} cannot be made: {error}") from None
        except BaseException:
            self._unmake(directory, group)
            raise
        return _Task(directory, stored, str(supervisor.record.program_pid), supervisor)

    def _unmake(self, directory: TaskDirectory, group: cgroups.Group) -> None:
        cgroups.remove(group)
        shutil.rmtree(directory.path, ignore_errors=True)

    async def _adopt(self, path: Path) -> None:
        """Take up what an earlier agent left; what it had not finished making is thrown away."""
        directory = TaskDirectory(path)
        try:
            request, record = directory.request(), directory.shim()
        except PodiumError as error:
            logger.warning("not a task of ours, left alone: %s", error)
            return
        if request is None or record is None:
            self._unmake(directory, cgroups.Group() if request is None else group_of(request))
            return
        if request.identity.node_id != self._node_id:
            return
        task = _Task(directory, request, str(record.program_pid), attach(directory, record))
        if not task.alive:
            self._settle(task)
        self._tasks[task.id] = task

    async def _ended(self, task: _Task) -> Exit:
        if task.supervisor is not None:
            await task.supervisor.ended.wait()
        self._settle(task)
        return task.exit() or Exit(code=None, message="it was never started")

    async def _kill(self, task: _Task) -> Exit:
        """End everything in it and see it end."""
        if task.supervisor is not None and task.alive:
            with contextlib.suppress(Unavailable):  # it ended meanwhile; if not, the wait below says so
                await task.supervisor.order("kill")
        limit_s = self._settings.kill_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._ended(task)
        except TimeoutError:
            raise Unavailable(f"process {task.id} still runs {limit_s:g} s after it was killed") from None

    def _settle(self, task: _Task) -> None:
        """When a supervisor was killed, its program ended with it, but what that had started may live."""
        if task.settled:
            return
        task.settled = True
        if task.started is None or task.directory.exit() is not None:
            return
        left = set(marked_processes(mark(task.directory.path.name))) | set(cgroups.processes(group_of(task.request)))
        for pid in sorted(left):
            with contextlib.suppress(OSError):
                os.kill(pid, signals.SIGKILL)


def _raise_if_failed(failed: FailedRecord | None) -> None:
    if failed is not None:
        raise Invalid(failed.error)


def _try_limits(name: str) -> str:
    """Why limits will not be enforced; empty when they will."""
    group = cgroups.create(name, Resources(cpu_millis=1000, memory_bytes=64 * 1024 * 1024))
    cgroups.remove(group)
    return f"limits are not enforced here ({group.problem})" if group.problem else ""
