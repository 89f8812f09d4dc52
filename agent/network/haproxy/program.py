"""The HAProxy process of one directory: found or started, spoken to over its sockets, reloaded, ended.

It runs in master-worker mode in a session of its own: the master outlives the agent, and hands its listening sockets
from worker to worker, so that a reload loses no connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import re
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.network.feed import socket_path
from agent.network.haproxy.config import ADMIN, METRICS, Limits
from common.errors import Unavailable

log = logging.getLogger(__name__)

CONFIG, MASTER = "haproxy.cfg", "master.sock"

START_TIMEOUT_S = 20.0
"""For the process to answer; it does in a twentieth of a second, on a machine in trouble much later."""
ANSWER_TIMEOUT_S = 5.0
"""To one command; the statistics of a thousand servers take some milliseconds."""
STOP_TIMEOUT_S = 5.0
LOOK_AGAIN_S = 0.02
LINE_BYTES = 8_000
"""Of commands sent at once: HAProxy reads them into one buffer of 16 KiB."""
PAYLOAD_BYTES = 15_000
"""Of what is handed over with a command: it has to fit into that buffer."""
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
LEAST_VERSION = (2, 5)
"""From it on servers are added at run time."""
THREADS_LIMIT = 4
CONNECTIONS_LIMIT = 100_000
SPARE_FILES = 500

_VERSION = re.compile(r"HAProxy version (\d+)\.(\d+)")
_USER = "haproxy"


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """What the master says of itself."""

    master: int = 0
    reloads: int = 0
    failed: int = 0
    worker: int = 0
    """The one that takes new connections."""
    old: tuple[int, ...] = ()
    """Those that carry on with the connections they have."""


def find_program() -> str:
    """Where HAProxy is installed; empty when it is not. Debian keeps it where ordinary users do not look."""
    return (
        shutil.which("haproxy", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])) or ""
    )


def machine_limits() -> Limits:
    """Two descriptors per connection; the hard limit is what HAProxy raises its own to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = CONNECTIONS_LIMIT * 2 if hard == resource.RLIM_INFINITY else hard
    return Limits(
        connections=max(100, min(CONNECTIONS_LIMIT, (files - SPARE_FILES) // 2)),
        threads=max(1, min(THREADS_LIMIT, os.cpu_count() or 1)),
        user=_USER if os.geteuid() == 0 and _exists(_USER) else "",
    )


async def version_problem(program: str) -> str:
    """Why this HAProxy cannot be used; empty when it can."""
    code, said = await _run(program, "-v")
    found = _VERSION.search(said)
    if code or found is None:
        return f"{program} does not say its version: {said.strip()[:200]}"
    if (int(found[1]), int(found[2])) < LEAST_VERSION:
        return f"{program} is HAProxy {found[1]}.{found[2]}; 2.5 or later is needed, which takes servers at run time"
    return ""


class Program:
    """See the module. Raises `Unavailable` whenever HAProxy does not do what it is told."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def processes(self) -> Processes | None:
        """None while none runs in this directory."""
        try:
            return _processes(await self.ask("show proc", MASTER))
        except Unavailable:
            return None

    async def start(self) -> Processes:
        """Start it with the configuration that lies there. It detaches itself: its starter ends when it is through."""
        program = find_program()
        if not program:
            raise Unavailable("HAProxy is not installed")
        command = (program, "-W", "-D", "-S", f"unix@{MASTER},mode,600", "-f", str(self._directory / CONFIG))
        code, said = await _run(*command, cwd=self._directory)
        if code:
            raise Unavailable(f"HAProxy does not start: {_last_lines(said)}")
        return await self._until(lambda now: bool(now.worker), "start")

    async def check(self, config: str, name: str = f"{CONFIG}.new") -> None:
        """Whether HAProxy would take a configuration; asked before it is told to."""
        path = self._lay_down(config, name)
        code, said = await _run(find_program(), "-c", "-q", "-f", str(path), cwd=self._directory)
        if code:
            raise Unavailable(f"HAProxy refuses its configuration: {_last_lines(said)}")

    def adopt(self, config: str) -> None:
        """What it is to serve when it starts or reloads the next time; replaced in one step."""
        self._lay_down(config, f"{CONFIG}.new").replace(self._directory / CONFIG)

    def _lay_down(self, config: str, name: str) -> Path:
        path = self._directory / name
        try:
            path.write_text(config)
            path.chmod(0o600)
        except OSError as error:
            raise Unavailable(f"HAProxy's configuration cannot be written: {error}") from None
        return path

    async def reload(self) -> Processes:
        """A new worker on the present configuration; the one before ends with its last connection."""
        before = await self._present()
        await self.ask("reload", MASTER)

        def renewed(now: Processes) -> bool:
            if now.reloads > before.reloads and now.failed > before.failed:
                raise Unavailable("HAProxy did not take its configuration, and goes on with the one before")
            return now.reloads > before.reloads and now.worker not in (0, before.worker)

        return await self._until(renewed, "reload")

    async def _until(self, done: Callable[[Processes], bool], what: str) -> Processes:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    now = await self.processes()
                    if now is not None and done(now):
                        return now
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            raise Unavailable(f"HAProxy did not {what} within {START_TIMEOUT_S:g} s") from None

    async def stop(self) -> None:
        """End it at once with all its connections; nothing of it is left when this returns."""
        found = await self.processes()
        if found is not None:
            await _ended(found.master)
        for name in (CONFIG, f"{CONFIG}.new", MASTER, ADMIN, METRICS):
            (self._directory / name).unlink(missing_ok=True)

    async def renew(self, path: str, content: bytes) -> bool:
        """Show another content of a certificate to those who come from now on; False when only a reload does that.
        `content` has no empty line: one would end it."""
        if len(content) > PAYLOAD_BYTES:
            return False
        await self.ask(f"set ssl cert {path} <<\n{content.decode()}")
        if "Success" in await self.ask(f"commit ssl cert {path}"):
            return True
        await self.ask(f"abort ssl cert {path}")
        return False

    async def command(self, commands: Iterable[str], worker: int = 0) -> str:
        """Tell the present worker, or an old one, in as few lines as its buffer allows; everything it answered."""
        answers = []
        for line in _lines(commands):
            if worker:
                answers += [await self.ask(f"@!{worker} {command}", MASTER) for command in line]
            else:
                answers.append(await self.ask(";".join(line), ADMIN))
        return "\n".join(answers)

    async def ask(self, line: str, socket: str = ADMIN) -> str:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                with socket_path(self._directory, socket) as path:
                    reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_LIMIT_BYTES)
                try:
                    writer.write(line.encode() + b"\n")
                    writer.write_eof()
                    return (await reader.read()).decode(errors="replace").strip()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"HAProxy in {self._directory} does not answer: {str(error) or type(error).__name__}"
            ) from None

    async def _present(self) -> Processes:
        found = await self.processes()
        if found is None:
            raise Unavailable(f"no HAProxy runs in {self._directory}")
        return found


def _processes(said: str) -> Processes:
    """The master's table: `PID TYPE RELOADS ...` under the headings of present and old workers."""
    master = 0, 0, 0
    workers: list[int] = []
    old: list[int] = []
    into = workers
    for line in said.splitlines():
        if line.startswith("# old workers"):
            into = old
        fields = line.split()
        if len(fields) < 3 or not fields[0].isdigit():
            continue
        if fields[1] == "master":
            failed = re.search(r"failed: (\d+)", line)
            master = int(fields[0]), int(fields[2]), int(failed[1]) if failed else 0
        elif fields[1] == "worker":
            into.append(int(fields[0]))
    if not master[0]:
        raise Unavailable(f"HAProxy's master says {said[:100]!r}")
    pid, reloads, failures = master
    return Processes(master=pid, reloads=reloads, failed=failures, worker=workers[0] if workers else 0, old=tuple(old))


def _lines(commands: Iterable[str]) -> Iterator[list[str]]:
    line: list[str] = []
    size = 0
    for command in commands:
        if line and size + len(command) > LINE_BYTES:
            yield line
            line, size = [], 0
        line.append(command)
        size += len(command) + 1
    if line:
        yield line


async def _ended(pid: int) -> None:
    """Send SIGTERM, and wait until the kernel says that the process is no more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await gone.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _run(*command: str, cwd: Path | None = None, limit_s: float = START_TIMEOUT_S) -> tuple[int, str]:
    """Its exit code and output, into a file: what it leaves behind may hold a pipe open long after it has ended."""
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.STDOUT, cwd=cwd
        )
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(limit_s):
                code = await asyncio.shield(ended)
        except asyncio.CancelledError:
            await asyncio.wait([ended], timeout=limit_s)  # in a moment; nobody would hear of its end otherwise
            raise
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await ended
            raise Unavailable(f"{command[0]} did not end within {limit_s:g} s") from None
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _last_lines(said: str) -> str:
    """The last two lines that say what is wrong."""
    lines = [line for line in said.splitlines() if "[ALERT]" in line] or said.splitlines()
    return " ".join(line.strip() for line in lines[:2])[:500]


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
