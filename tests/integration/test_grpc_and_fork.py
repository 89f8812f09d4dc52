"""gRPC's handlers around fork() are off in every process of ours that starts others: they crash it now and then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import {module}
import asyncio, grpc, uvloop

async def main():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        connecting = asyncio.ensure_future(channel.channel_ready())  # keeps a thread inside gRPC
        await asyncio.sleep(0.2)
        await (await asyncio.create_subprocess_exec("true")).wait()
        connecting.cancel()

uvloop.run(main())
"""


@pytest.mark.parametrize("module", ["agent.app", "agent.__main__", "cli.dev", "controller.app"])
def test_a_process_that_talks_grpc_may_start_others(module: str) -> None:
    """gRPC says at level INFO when one of its handlers ran."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(module=module)],
        env=environment | {"GRPC_VERBOSITY": "info"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "INFO is not suitable for production" in done.stderr, "gRPC is heard"
    assert "fork" not in done.stderr
