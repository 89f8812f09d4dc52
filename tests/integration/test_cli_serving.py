"""The serving commands as processes: how they begin, what they say, how they stop and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cli.resident import ORDER
from client.client import Client
from client.local import found
from client.settings import load
from common.model.job import Container, JobSpec, TaskSpec
from common.model.node import NodeStatus
from tests.ports import free_port
from tests.process_table import lives

READY_TIMEOUT_S = 30.0
PODIUM = (sys.executable, "-m", "cli.main")


class Serving:
    """A serving command: its process, and what it said so far."""

    def __init__(self, process: asyncio.subprocess.Process, home: Path) -> None:
        self.process = process
        self._home = home
        self.said: list[str] = []

    def client(self) -> Client:
        """As its user's own commands ask it."""
        return Client(load({"HOME": str(self._home)}, controller=self.controller))

    @property
    def controller(self) -> str:
        """The address that `podium dev` announced."""
        found = re.search(r"controller on (\S+),", "".join(self.said))
        assert found is not None, self.said
        return found[1]

    async def ready(self) -> None:
        """Until it prints `ready`; everything it must say before is said by then."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(READY_TIMEOUT_S):
            line = await self.process.stdout.readline()
            assert line == b"ready\n", await self.process.stderr.read()
            while not (self.said and self.said[-1].startswith("controller on ")):
                self.said.append((await self.process.stderr.readline()).decode())

    async def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(READY_TIMEOUT_S):
            return await self.process.wait()


@asynccontextmanager
async def podium(*arguments: str, home: Path) -> AsyncIterator[Serving]:
    """Run a command in a session of its own, so that nothing of it survives the test."""
    process = await asyncio.create_subprocess_exec(
        *PODIUM,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())},
        start_new_session=True,
    )
    try:
        yield Serving(process, home)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def dev(data_dir: Path, *more: str) -> tuple[str, ...]:
    return ("dev", "--data-dir", str(data_dir), "--grpc-port", "0", "--http-port", "0", "--runtime", "process", *more)


def processes_of(data_dir: Path) -> dict[int, str]:
    """Living processes that name the data directory: their command lines by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(data_dir).encode() in (line := (entry / "cmdline").read_bytes()):
                found[int(entry.name)] = line.replace(b"\0", b" ").decode()
    return found


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory; what still names it afterwards (a stopped agent leaves its relay running) is ended."""
    yield tmp_path / "data"
    for pid in processes_of(tmp_path / "data"):
        os.kill(pid, signal.SIGKILL)


def sleeper(replicas: int) -> JobSpec:
    task = TaskSpec(container=Container(command=("sleep", "3600")))
    return JobSpec(namespace="shop", name="sleeper", replicas=replicas, task=task)


async def running(client: Client, replicas: int) -> dict[str, str]:
    """Once all replicas run: their runtime ids by task id."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        async for details in client.watch("shop"):
            tasks = [view.task for detail in details for view in detail.tasks if not view.task.ended]
            ids = {task.id: task.status.runtime_id for task in tasks if task.status.runtime_id}
            if details and details[0].view.healthy == replicas == len(ids):
                return ids
    raise AssertionError("a watch does not end")


async def test_dev_runs_jobs_and_leaves_nothing_but_its_data_directory(tmp_path: Path, data_dir: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    async with podium(*dev(data_dir, "--nodes", "2"), home=home) as serving:
        await serving.ready()
        async with serving.client() as client:
            nodes = await client.nodes()
            assert {(view.node.name, view.condition.status) for view in nodes} == {
                ("node-1", NodeStatus.READY),
                ("node-2", NodeStatus.READY),
            }
            await client.apply("shop", [sleeper(2)])
            pids = [int(pid) for pid in (await running(client, 2)).values()]
        assert await serving.stop(signal.SIGTERM) == 0
    assert processes_of(data_dir) == {}
    assert [pid for pid in pids if lives(pid)] == []
    assert list(home.iterdir()) == []


async def test_a_killed_dev_is_taken_up_by_the_next_one(tmp_path: Path, data_dir: Path) -> None:
    async with podium(*dev(data_dir), home=tmp_path) as first:
        await first.ready()
        async with first.client() as client:
            await client.apply("shop", [sleeper(3)])
            before = await running(client, 3)
        await first.stop(signal.SIGKILL)
    async with podium(*dev(data_dir), home=tmp_path) as second:
        await second.ready()
        async with second.client() as client:
            assert await running(client, 3) == before
        assert await second.stop(signal.SIGINT) == 130
    assert processes_of(data_dir) == {}


async def test_fewer_nodes_than_last_time_leave_nothing_of_the_others(tmp_path: Path, data_dir: Path) -> None:
    async with podium(*dev(data_dir, "--nodes", "2"), home=tmp_path) as first:
        await first.ready()
        async with first.client() as client:
            await client.apply("shop", [sleeper(2)])
            await running(client, 2)
        await first.stop(signal.SIGKILL)
    assert any("node-2" in line for line in processes_of(data_dir).values())
    async with podium(*dev(data_dir, "--nodes", "1"), home=tmp_path) as second:
        await second.ready()
        assert not any("node-2" in line for line in processes_of(data_dir).values())
        await second.stop(signal.SIGTERM)


async def refused(*arguments: str, home: Path) -> tuple[int | None, str]:
    async with podium(*arguments, home=home) as serving, asyncio.timeout(READY_TIMEOUT_S):
        out, said = await serving.process.communicate()
        assert out == b""
        return serving.process.returncode, said.decode()


async def test_one_dev_per_data_directory(tmp_path: Path, data_dir: Path) -> None:
    async with podium(*dev(data_dir, "--nodes", "1"), home=tmp_path) as first:
        await first.ready()
        code, said = await refused(*dev(data_dir), home=tmp_path)
        assert code == 1
        assert f"another `podium dev` (process {first.process.pid}) uses {data_dir}" in said
        await first.stop(signal.SIGTERM)


async def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = await refused(*dev(tmp_path / "data"), "--grpc-port", str(port), home=tmp_path)
    assert code == 2
    reason = f"127.0.0.1:{port} cannot be listened on (Address already in use)"
    assert said.splitlines() == [f"error: grpc_port: {reason}: give another with --grpc-port"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("controller", "--store", "floppy://a"), "store"),
        (("controller", "--store", "memory:", "--cluster-key", "k", "--insecure"), "cluster_key"),
        (("controller", "--store", "memory:", "--insecure", "--no-http-open"), "http_open"),
        (("controller", "--store", "memory:", "--tls-ca", "ca.pem"), "tls_cert: missing"),
        (("agent", "--controller", "10.0.0.1:7077"), "--insecure"),
        (("agent", "--runtime", "docker,podman"), "podman"),
        (("agent", "--memory", "lots"), "memory: 'lots' is not a size"),
        (("agent", "--cpus", "nan"), "cpus"),
        (("agent", "--device", "gpu:count=0"), "device: 'gpu:count=0' has count 0: allowed is 1 to 128"),
        (("agent", "--labels", "zone"), "labels: 'zone' is not KEY=VALUE"),
        (("dev", "--nodes", "0"), "--nodes"),
    ],
)
async def test_bad_settings_are_one_clear_line_and_2(tmp_path: Path, arguments: tuple[str, ...], fault: str) -> None:
    code, said = await refused(*arguments, home=tmp_path)
    assert code == 2
    assert fault in said
    assert "Traceback" not in said


async def client_at(address: str, home: Path) -> Client:
    """Once a controller of this user is there."""
    while found({"HOME": str(home)}, (address,)) is None:  # noqa: ASYNC110  another process writes it
        await asyncio.sleep(0.05)
    return Client(load({"HOME": str(home)}, controller=address))


async def test_a_controller_and_an_agent_of_their_own_stop_cleanly(tmp_path: Path, data_dir: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    store = f"sqlite://{tmp_path / 'controller.db'}"
    agent = ("agent", "--controller", address, "--name", "n1", "--data-dir", str(data_dir), "--http-listen", "")
    listeners = ("--grpc-listen", address, "--http-listen", "127.0.0.1:0")
    async with (
        podium("controller", "--store", store, *listeners, home=tmp_path) as controller,
        podium(*agent, "--runtime", "fake", "--labels", "zone=eu", "--memory", "1G", home=tmp_path) as node,
        asyncio.timeout(READY_TIMEOUT_S),
        await client_at(address, tmp_path) as client,
    ):
        async for event in client.events(follow=True):
            if event.kind == "node.ready":
                break
        (view,) = await client.nodes()
        assert (view.node.name, view.node.description.labels) == ("n1", {"zone": "eu"})
        assert view.node.description.capacity.memory_bytes == 1024**3
        for serving, command in ((controller, b"controller"), (node, b"agent")):  # begun anew, under the same name
            there = Path("/proc", str(serving.process.pid))
            assert ORDER.encode() in (there / "environ").read_bytes()
            assert (there / "cmdline").read_bytes().split(b"\0")[1:4] == [b"-m", b"cli.main", command]
        assert await node.stop(signal.SIGTERM) == 0
        assert await controller.stop(signal.SIGTERM) == 0


BROKEN = {
    "crashes after a while": ('"sleep 3; echo no such table; exit 3"', "true", "no such table"),
    "never healthy": ('"exec sleep 3600"', "echo refused; exit 1", "refused"),
}
"""A version's shell line, its health check, and what its failure has to be told by."""


def compose(line: str, check: str) -> str:
    return f"""
name: shop
services:
  sleeper:
    command: [sh, -c, {line}]
    healthcheck: {{test: "{check}", interval: 500ms, retries: 2}}
    deploy: {{replicas: 2, update_config: {{monitor: 8s}}}}
"""


@pytest.mark.parametrize("kind", BROKEN)
async def test_up_of_a_broken_version_says_why_and_the_old_one_is_untouched(
    tmp_path: Path, data_dir: Path, kind: str
) -> None:
    line, check, cause = BROKEN[kind]
    file = tmp_path / "compose.yaml"
    async with podium(*dev(data_dir, "--nodes", "2"), home=tmp_path) as serving:
        await serving.ready()
        async with serving.client() as client:
            file.write_text(compose('"exec sleep 3600"', "true"))
            assert (await up(file, serving.controller, tmp_path))[0] == 0
            before = await running(client, 2)
            file.write_text(compose(line, check))
            code, said = await up(file, serving.controller, tmp_path)
            assert (code, "version 2 was rolled back to 1" in said, cause in said) == (1, True, True), said
            assert await running(client, 2) == before


async def up(file: Path, controller: str, home: Path) -> tuple[int | None, str]:
    """The exit code of `podium up`, and what it said on stderr."""
    async with podium("up", "-f", str(file), "--controller", controller, home=home) as serving:
        assert serving.process.stderr is not None
        said = (await serving.process.stderr.read()).decode()
        return await serving.process.wait(), said
