"""`podium controller` and `podium agent` under a service manager: a real socket, real processes, and the units."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cluster.processes import end_processes_naming
from tests.ports import free_ports

PODIUM = (sys.executable, "-m", "cli.main")
PATIENCE_S = 40.0
UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NEWER = ("RestartSteps", "RestartMaxDelaySec")
"""Of systemd 254; older ones say that they ignore them, and restart after `RestartSec` always."""


class Service:
    """A process as systemd starts one with `Type=notify` and a watchdog, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, receiver: socket.socket) -> None:
        self.process = process
        self._receiver = receiver
        self.said: list[str] = []

    async def says(self, beginning: str) -> str:
        """The next line that begins so."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                datagram = await asyncio.get_running_loop().sock_recv(self._receiver, 4096)
                lines = datagram.decode().splitlines()
                self.said += lines
                for line in lines:
                    if line.startswith(beginning):
                        return line

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        await self.says("STOPPING=1")
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def service(directory: Path, *arguments: str) -> AsyncIterator[Service]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        name = str(directory / f"notify-{arguments[0]}")
        receiver.bind(name)
        receiver.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *PODIUM,
            *arguments,
            env=os.environ | {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000", "HOME": str(directory)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield Service(process, receiver)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where everything is kept; the relay that an agent leaves behind, too, is ended with it."""
    yield tmp_path
    end_processes_naming(tmp_path)


def controller(directory: Path, grpc: int, http: int) -> tuple[str, ...]:
    listens = ("--grpc-listen", f"127.0.0.1:{grpc}", "--http-listen", f"127.0.0.1:{http}")
    return ("controller", "--store", f"sqlite://{directory / 'c.db'}", *listens)


def agent(directory: Path, grpc: int) -> tuple[str, ...]:
    where = ("--controller", f"127.0.0.1:{grpc}", "--data-dir", str(directory / "agent"), "--http-listen", "")
    return ("agent", *where, "--runtime", "process", "--name", "n1", "--insecure")


async def test_a_controller_is_ready_when_it_leads_and_feeds_the_watchdog(directory: Path) -> None:
    async with service(directory, *controller(directory, *free_ports(2))) as leader:
        await leader.says("READY=1")
        assert any(line.startswith("STATUS=leads, term") for line in leader.said)
        await leader.says("WATCHDOG=1")
        await leader.says("WATCHDOG=1")
        assert await leader.stop() == 0


async def test_a_controller_without_its_store_is_not_ready_and_asks_for_time(directory: Path) -> None:
    nobody, grpc, http = free_ports(3)
    listens = ("--grpc-listen", f"127.0.0.1:{grpc}", "--http-listen", f"127.0.0.1:{http}")
    async with service(directory, "controller", "--store", f"etcd://127.0.0.1:{nobody}", *listens) as waiting:
        await waiting.says("EXTEND_TIMEOUT_USEC=")
        await waiting.says("EXTEND_TIMEOUT_USEC=")
        assert "READY=1" not in waiting.said
        assert await waiting.stop() == 0


async def test_an_agent_whose_controllers_are_away_is_ready_and_says_so(directory: Path) -> None:
    grpc, http = free_ports(2)
    async with service(directory, *agent(directory, grpc)) as node:
        await node.says("READY=1")
        assert any("without a controller" in line for line in node.said)
        async with service(directory, *controller(directory, grpc, http), "--insecure"):
            while await node.says("STATUS=") != "STATUS=0 tasks":
                pass
        assert await node.stop() == 0


# --- the units


@pytest.fixture(scope="module")
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze is installed (Debian: apt install systemd)")
    return program


@pytest.mark.parametrize("name", ["podium-controller.service", "podium-agent.service"])
def test_systemd_understands_the_unit(name: str, analyze: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    installed = (UNITS / name).read_text()
    assert "ExecStart=/opt/podium/bin/podium " in installed
    # The program is not installed here, and verify looks for it.
    unit.write_text(installed.replace("/opt/podium/bin/podium", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False)
    complaints = [
        line for line in done.stderr.splitlines() if name in line and not any(f"'{key}'" in line for key in NEWER)
    ]
    assert complaints == []


def test_the_agents_unit_leaves_what_it_started_alone() -> None:
    unit = (UNITS / "podium-agent.service").read_text().splitlines()
    assert {"KillMode=process", "OOMPolicy=continue", "Delegate=yes"} <= set(unit)


@pytest.mark.parametrize("name", ["podium-controller.service", "podium-agent.service"])
def test_every_variable_of_a_unit_is_explained_in_its_sample(name: str) -> None:
    """What ExecStart passes on is set by Environment=, and the sample file says what else it may be."""
    lines = (UNITS / name).read_text().replace("\\\n", " ").splitlines()
    start = next(line for line in lines if line.startswith("ExecStart="))
    used = {word.strip("${}") for word in start.split() if word.startswith("$")}
    sample = (UNITS / f"{name.removeprefix('podium-').removesuffix('.service')}.env").read_text()
    defaults = {line.split("=")[1] for line in lines if line.startswith("Environment=")}
    assert used
    assert used - {"PODIUM_OPTIONS"} <= defaults
    assert {name for name in used if f"{name}=" not in sample} == set()
