"""Running one program beside a process task, with its user, folder and control groups, and with an end in sight."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from agent.runtime.interface import ExecManner, ExecResult
from agent.runtime.process_files import StoredRequest
from agent.runtime.shim import NOT_FOUND, NOT_RUNNABLE
from common.errors import Unavailable

OUTPUT_BYTES = 4 * 1024
"""Of the program's output that are kept."""
READ_BYTES = 16 * 1024
BECOME = Path(__file__).with_name("become.py")
CLOSE_TIMEOUT_S = 1.0
"""After the program ended its output may still be held open by what it left behind; this long it is waited for."""


async def execute(request: StoredRequest, argv: tuple[str, ...], timeout_s: float, manner: ExecManner) -> ExecResult:
    """Run `argv` with the task's environment. Raises `Unavailable` when it did not end in time; it is killed then."""
    try:
        process = await _start(request, argv, manner)
    except (FileNotFoundError, NotADirectoryError) as error:
        return ExecResult(code=NOT_FOUND, output=f"cannot execute `{argv[0]}`: {error.strerror}")
    except OSError as error:
        return ExecResult(code=NOT_RUNNABLE, output=f"cannot execute `{argv[0]}`: {error.strerror}")
    reading = asyncio.create_task(_output(process))
    try:
        async with asyncio.timeout(timeout_s):
            code = await process.wait()
        kill_group(process)  # what it left running holds its output open, and nobody waits for it
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            output = await asyncio.shield(reading)
    except TimeoutError:
        if process.returncode is None:
            raise Unavailable(f"`{' '.join(argv)}` did not end within {timeout_s:g} s and was killed") from None
        raise Unavailable(f"`{' '.join(argv)}` ended, but something it started keeps its output open") from None
    finally:
        await _bury(process, reading)
    return ExecResult(code=code if code >= 0 else 128 - code, output=output)


async def _start(request: StoredRequest, argv: tuple[str, ...], manner: ExecManner) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *becoming(request),
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=manner.working_dir or request.working_dir,
        env={**request.environment, **manner.environment},
        start_new_session=True,
    )
    join_groups(request, process.pid)
    return process


def join_groups(request: StoredRequest, pid: int) -> None:
    """Put a process under the task's limits."""
    for directory in request.control_groups:
        with contextlib.suppress(OSError):  # ended already, or the system does not let us
            (Path(directory) / "cgroup.procs").write_text(str(pid))


def becoming(request: StoredRequest) -> tuple[str, ...]:
    """What goes before a program that runs as the task's user, with no more rights than the task has. It takes a
    terminal over, and says itself why a program cannot be executed."""
    user = request.user
    told = ("-", "-", "") if user is None else (str(user.uid), str(user.gid), ",".join(map(str, user.groups)))
    return (sys.executable, "-I", "-S", "-E", str(BECOME), *told)


async def _output(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    kept = bytearray()
    while chunk := await process.stdout.read(READ_BYTES):
        kept += chunk[: OUTPUT_BYTES - len(kept)]
    return kept.decode("utf-8", "replace")


def kill_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _bury(process: asyncio.subprocess.Process, reading: asyncio.Task[str]) -> None:
    """Nothing of it is left behind, however it went: no process, no open pipe."""
    if process.returncode is None:
        kill_group(process)
        await asyncio.shield(process.wait())
    reading.cancel()
    await asyncio.wait([reading])
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public closes a pipe that others hold
