"""The agent's hold on one supervisor: starts it, finds it again, gives it orders and learns of its end.

A supervisor is named by process id and start time and held by a pidfd, so a reused id is never signalled, waited for
or believed. Never reads what a task did; that is in the task's files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import sys
from pathlib import Path

import msgspec

from agent.runtime import shim
from agent.runtime.process_files import ShimRecord, TaskDirectory
from common.errors import Unavailable

START_TIMEOUT_S = 20.0
"""Starting an interpreter takes some 30 ms, on a machine that starts hundreds at once seconds."""
ORDER_TIMEOUT_S = 10.0
"""Orders are obeyed at once; only an exec from a slow disk takes its time."""
ANSWER_BYTES = 64 * 1024


class Supervisor:
    """A running supervisor, or one that has ended."""

    def __init__(self, directory: TaskDirectory, record: ShimRecord, pidfd: int) -> None:
        self._directory = directory
        self._pidfd = pidfd
        self.record = record
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._end)

    async def order(self, verb: str, number: int = 0) -> dict[str, object]:
        """Have it obey one order; its answer. Raises `Unavailable` when it has ended or does not answer in time."""
        try:
            async with asyncio.timeout(ORDER_TIMEOUT_S):
                return await self._converse(json.dumps({"verb": verb, "number": number}).encode() + b"\n")
        except TimeoutError:
            what = f"order `{verb}` within {ORDER_TIMEOUT_S:g} s"
            raise Unavailable(f"the supervisor (process {self.record.pid}) did not obey {what}") from None
        except OSError as error:
            raise Unavailable(f"the supervisor (process {self.record.pid}) cannot be reached: {error}") from None

    def close(self) -> None:
        """Let go of it; it goes on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    async def _converse(self, order: bytes) -> dict[str, object]:
        # Through a file descriptor: a socket's path may have 107 characters, and data directories can be longer.
        folder = os.open(self._directory.path, os.O_PATH | os.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{folder}/control"
            reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_BYTES)
        finally:
            os.close(folder)
        try:
            writer.write(order)
            await writer.drain()
            answer = await reader.readline()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if not answer:
            raise ConnectionResetError("it ended meanwhile")
        decoded: dict[str, object] = json.loads(answer)
        return decoded

    def _end(self) -> None:
        self.close()
        with contextlib.suppress(ChildProcessError):  # an earlier agent was its parent
            os.waitpid(self.record.pid, os.WNOHANG)
        self.ended.set()


async def spawn(directory: TaskDirectory) -> Supervisor:
    """Start a supervisor for a directory whose request is written; its child waits at the gate."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(write, True)
        pid = _start_interpreter(directory, write)
    finally:
        os.close(write)
    try:
        supervisor = attach(directory, await _first_line(read, directory))
        if supervisor is None:
            raise _failed(directory)
        return supervisor
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)  # our own child, not waited for yet: the id is still its own
        await asyncio.shield(_bury(pid))
        raise
    finally:
        os.close(read)


def attach(directory: TaskDirectory, record: ShimRecord) -> Supervisor | None:
    """Take hold of the supervisor of this record; None when it is no more."""
    if record.boot != shim.boot_id():
        return None
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return None
    # The process behind the pidfd cannot change any more, so what its start time is now says who it is.
    if shim.start_ticks(record.pid) != record.ticks or _has_ended(pidfd):
        os.close(pidfd)
        return None
    return Supervisor(directory, record, pidfd)


def _has_ended(pidfd: int) -> bool:
    """Dead, if perhaps not buried: an id is kept until whoever started the process has asked for its end."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _start_interpreter(directory: TaskDirectory, output: int) -> int:
    """No `subprocess`: that wants to bury its child itself, or has a thread wait for it."""
    argv = [sys.executable, "-I", "-S", "-E", shim.__file__, str(directory.path)]
    return os.posix_spawn(sys.executable, argv, _environment(), file_actions=[(os.POSIX_SPAWN_DUP2, output, 1)])


async def _first_line(read: int, directory: TaskDirectory) -> ShimRecord:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(read, readable.set)
    text = b""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not text.endswith(b"\n"):
                await readable.wait()
                readable.clear()
                with contextlib.suppress(BlockingIOError):
                    piece = os.read(read, ANSWER_BYTES)
                    if not piece:
                        raise _failed(directory)
                    text += piece
    except TimeoutError:
        raise Unavailable(f"the task's supervisor did not start within {START_TIMEOUT_S:g} s") from None
    finally:
        loop.remove_reader(read)
    return msgspec.json.decode(text, type=ShimRecord)


def _failed(directory: TaskDirectory) -> Unavailable:
    return Unavailable(f"the task's supervisor ended at once: {directory.last_words() or 'it said nothing'}")


async def _bury(pid: int) -> None:
    """Wait for a killed child of ours; it takes no longer than the kernel needs."""
    with contextlib.suppress(ChildProcessError):
        await asyncio.to_thread(os.waitpid, pid, 0)


def _environment() -> dict[str, str]:
    """Nothing of ours, but where an interpreter outside the system's folders finds its own library."""
    name = "LD_LIBRARY_PATH"
    return {name: os.environ[name]} if name in os.environ else {}


def marked_processes(mark: str) -> list[int]:
    """Ids of the processes of this machine that carry `mark` in their environment, as far as we may read it."""
    wanted = mark.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
