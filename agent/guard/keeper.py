"""The agent's hold on its node's guard: writes what the guard reads, and sees to it that one is there.

All is in two files of one directory, so that a guard or an agent that begins anew knows what the one before knew. A
guard that was killed is started again with the next acknowledgement. Knows nothing of tasks or controllers.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

from agent.guard import watchman
from agent.guard.interface import HeldContainer
from agent.runtime.process_request import mark
from agent.runtime.signals import signal_number
from common.errors import Unavailable

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
"""An interpreter starts in 30 ms; on a machine in trouble much later."""
BURY_LOOKS = 50
BURY_LOOK_S = 0.1
"""A killed process is gone at once, unless its disk hangs."""
_UNIX = "unix://"
_LONG_AGO_S = -1e12

Entry: TypeAlias = dict[str, str | int | float]


class GuardKeeper:
    """A `Guard` over one process in `directory`. `docker_host` is the engine's address; `boottime` counts sleep."""

    def __init__(self, directory: Path, boottime: Callable[[], float], docker_host: str) -> None:
        self._directory = directory
        self._boottime = boottime
        self._engine = (docker_host or "unix:///var/run/docker.sock").removeprefix(_UNIX)
        if docker_host and not docker_host.startswith(_UNIX):
            self._engine = ""
        self._boot = watchman.boot_id()
        self._held: dict[str, Entry] = {}
        self._starting: asyncio.Task[None] | None = None

    def acknowledged_s(self) -> float:
        try:
            acknowledged_s = watchman.read_acknowledged(self._boot, str(self._directory))
        except (OSError, ValueError):
            return float("-inf")
        return min(acknowledged_s, self._boottime())

    async def begin(self, task_ids: Collection[str]) -> None:
        try:
            held = watchman.read_held(str(self._directory))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            logger.error("what the guard holds cannot be read (%s); its containers are left to the guard", error)
            return
        entries = {str(entry["task_id"]): entry for entry in held}
        orphans = {task_id: entry for task_id, entry in entries.items() if task_id not in task_ids}
        self._held = entries | {key: {**entry, "fence_after_s": _LONG_AGO_S} for key, entry in orphans.items()}
        if self._held:
            self._write()
            await self._start_if_gone()
        for task_id, entry in orphans.items():
            logger.info("exclusive task %s lives no more for this agent: what is left of it is ended", task_id)
            await self._bury(entry)
            self.release(task_id)

    async def hold(self, container: HeldContainer, acknowledged_s: float) -> None:
        if container.runtime not in ("docker", "process"):
            return
        if container.runtime == "docker" and not self._engine:
            logger.warning("task %s: no guard reaches containers of a remote engine", container.task_id)
            return
        try:
            self._acknowledge(acknowledged_s)  # first: what was written when nothing was held is of long ago
        except OSError as error:
            raise Unavailable(f"the guard cannot be told of an acknowledgement: {error}") from None
        self._held[container.task_id] = self._entry(container)
        self._write()
        await self._start_if_gone()

    def release(self, task_id: str) -> None:
        if self._held.pop(task_id, None) is not None:
            try:
                self._write()
            except Unavailable as error:
                logger.warning("%s: the guard goes on looking for the ended task %s", error, task_id)

    def extend(self, acknowledged_s: float) -> None:
        if not self._held:
            return
        try:
            self._acknowledge(acknowledged_s)
        except OSError as error:
            logger.error("cannot tell the guard of an acknowledgement (%s): it will end exclusive tasks", error)
        if not self._guarded() and (self._starting is None or self._starting.done()):
            logger.warning("the guard of exclusive tasks is gone: starting it again")
            self._starting = asyncio.get_running_loop().create_task(self._start_again())

    async def close(self) -> None:
        if self._starting is not None:
            await asyncio.wait([self._starting])

    # --- what the guard reads

    def _entry(self, container: HeldContainer) -> Entry:
        entry: Entry = {
            "task_id": container.task_id,
            "container_id": container.container_id,
            "runtime": container.runtime,
            "fence_after_s": container.fence_after_s,
            "signal": int(signal_number(container.signal)),
            "grace_s": container.grace_s,
        }
        if container.runtime == "docker":
            return {**entry, "engine": self._engine}
        ticks = watchman.start_ticks(int(container.container_id))
        return {**entry, "ticks": ticks, "mark": mark(f"{container.task_id}.{container.attempt}")}

    def _write(self) -> None:
        """As a whole: a guard that reads sees all of it or what was before. Raises `Unavailable`."""
        path = self._directory / watchman.HELD
        fresh = path.with_suffix(".new")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text(json.dumps({"containers": list(self._held.values())}))
            fresh.replace(path)
        except OSError as error:
            raise Unavailable(f"cannot write {path}: {error.strerror}; is its disk full or read-only?") from None

    def _acknowledge(self, acknowledged_s: float) -> None:
        """In place and always of one length: that works on a full disk too."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = f"{self._boot} {max(acknowledged_s, 0.0):020.6f} end\n".encode()
        file = os.open(self._directory / watchman.ACKNOWLEDGED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, line, 0)
        finally:
            os.close(file)

    # --- its process

    def _guarded(self) -> bool:
        """Whether a guard lives: it holds the lock as long as it does."""
        with contextlib.suppress(OSError):
            lock = os.open(self._directory / watchman.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(lock)
        return False

    async def _start_again(self) -> None:
        try:
            await self._start_if_gone()
        except Unavailable as error:
            logger.error("%s", error)

    async def _start_if_gone(self) -> None:
        """Raises `Unavailable`."""
        if self._guarded():
            return
        starter = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-E", watchman.__file__, str(self._directory)),
            stdin=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(asyncio.ensure_future(starter.wait()))
        except TimeoutError:
            starter.kill()
            await starter.wait()
        if not self._guarded():
            raise Unavailable(f"the guard of exclusive tasks does not start; see {self._directory / watchman.LOG}")

    async def _bury(self, entry: Entry) -> None:
        """The guard kills it; so do we, to be sure that it is gone when this returns."""
        for _ in range(BURY_LOOKS):
            found = list(watchman.processes(entry))
            if not found:
                return
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(BURY_LOOK_S)
        raise Unavailable(f"container {entry['container_id']} of a forgotten exclusive task does not end")
