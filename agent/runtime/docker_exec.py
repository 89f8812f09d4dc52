"""Running one program inside a container of an engine, with an end in sight: output, exit code, or a kill in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from contextlib import aclosing
from pathlib import Path

from agent.runtime.docker_engine import Engine
from agent.runtime.interface import ExecManner, ExecResult
from common.errors import PodiumError, Unavailable

OUTPUT_BYTES = 4 * 1024
"""Of the program's output that are kept."""
CODE_LOOKS = 25
CODE_WAIT_S = 0.02
"""The engine closes the output a moment before it knows the exit code: look again, for half a second at most."""


async def execute(
    engine: Engine, container_id: str, argv: tuple[str, ...], timeout_s: float, manner: ExecManner
) -> ExecResult:
    """Run `argv` inside a running container. `Unavailable` when it did not end in time; it is killed then."""
    exec_id = await engine.create_exec(container_id, argv, manner=manner)
    try:
        async with asyncio.timeout(timeout_s):
            output = await _output(engine, exec_id)
            return ExecResult(code=await exit_code(engine, exec_id), output=output)
    except TimeoutError:
        await kill(engine, exec_id, container_id)
        raise Unavailable(f"`{' '.join(argv)}` did not end within {timeout_s:g} s and was killed") from None


async def _output(engine: Engine, exec_id: str) -> str:
    kept = bytearray()
    async with aclosing(engine.run_exec(exec_id)) as frames:
        async for frame in frames:
            kept += frame.payload[: OUTPUT_BYTES - len(kept)]
    return kept.decode("utf-8", "replace")


async def exit_code(engine: Engine, exec_id: str) -> int:
    """Of a program that has closed its output."""
    for _ in range(CODE_LOOKS):
        seen = await engine.inspect_exec(exec_id)
        if seen.exit_code is not None and not seen.running:
            return seen.exit_code
        await asyncio.sleep(CODE_WAIT_S)
    raise Unavailable("the engine does not say how the program ended; it may have closed its output and run on")


async def kill(engine: Engine, exec_id: str, container_id: str) -> None:
    """The engine has no call for this. It tells the process id, which is ours to kill if it is one of this machine; of
    a program that has just begun it knows it a moment after the program's first output.
    """
    for _ in range(CODE_LOOKS):
        try:
            seen = await engine.inspect_exec(exec_id)
        except PodiumError:
            return
        if seen.exit_code is not None:
            return
        if seen.running and _is_inside(seen.pid, container_id):
            with contextlib.suppress(OSError):
                os.kill(seen.pid, signal.SIGKILL)
            return
        await asyncio.sleep(CODE_WAIT_S)


def _is_inside(pid: int, container_id: str) -> bool:
    """Whether this process id is one of that container on this very machine, not a namesake elsewhere."""
    try:
        return pid > 1 and container_id in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
