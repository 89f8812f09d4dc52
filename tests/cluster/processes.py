"""Whole clusters of real processes for tests: controllers, agents and what they run, started and ended by us alone.

Everything lies below one temporary directory; on the way out whatever still names that directory in its command line,
and every container of the test's node ids, is ended.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from agent.journal import IDENTITY
from agent.network.names.place import BOOK, route
from client.client import Client
from client.local import found
from client.settings import ClientSettings, load
from common.errors import PodiumError
from common.model.api import JobDetail, NodeView, TaskView
from common.model.job import DesiredState
from common.model.task import Health, TaskState
from tests.ports import free_port
from tests.process_table import until_ended

PODIUM = str(Path(sys.executable).with_name("podium"))
PATIENCE_S = 90.0
"""Bound on every wait; what is awaited takes a few seconds on an idle machine."""


PATIENT = ("--tune", "down=120")
"""For the controller, where a node that is away for a moment, or for longer on a busy machine, is not replaced."""


def surroundings(directory: Path, *, secure: bool) -> dict[str, str]:
    """Of a cluster's programs and commands: contexts of its own; in the clear where security is not the subject."""
    return dict(os.environ) | {
        "XDG_CONFIG_HOME": str(directory / "config"),
        "PODIUM_INSECURE": "" if secure else "1",
    }


class Program:
    """One `podium` process with its log."""

    def __init__(self, name: str, directory: Path, *arguments: str, secure: bool = False) -> None:
        self.name = name
        self.arguments = arguments
        self._environ = surroundings(directory, secure=secure)
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Program:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PODIUM, *self.arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def until_it_says(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.log():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Until it has ended; the exit code."""
        assert self._process is not None
        try:
            return self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"{self.name} did not end; its log:\n{self.log()[-3000:]}") from None

    def kill(self) -> None:
        self.end(signal.SIGKILL)


def refused(program: Program, code: int) -> str:
    """Start a program that must end by itself; what it said since."""
    before = len(program.log())
    program.start()
    assert program.wait() == code, program.log()
    said = program.log()[before:]
    assert "Traceback" not in said
    return said


class Watched:
    """A cluster as its users see it: the command, and a client that waits for what is to come about."""

    directory: Path
    controllers: tuple[str, ...]
    """gRPC addresses."""
    client: Client
    secure = False
    """Whether it has an authority, and commands find their right by themselves."""

    def logs(self) -> str:
        """The ends of its programs' logs, for a failed test."""
        raise NotImplementedError

    def podium(self, *arguments: str, code: int | None = 0, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        """Run the command as a user would; `code` is the exit code it must have (None: any)."""
        environment = surroundings(self.directory, secure=self.secure) | {
            "PODIUM_CONTROLLER": ",".join(self.controllers),
            "COLUMNS": "160",
        }
        done = subprocess.run(
            [PODIUM, *arguments], env=environment, capture_output=True, text=True, timeout=timeout_s, cwd=self.directory
        )
        assert code is None or done.returncode == code, (
            f"podium {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        )
        return done

    async def run(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`podium` without holding this loop up."""
        return await asyncio.to_thread(self.podium, *arguments, code=code)

    def read(self, *arguments: str) -> Any:
        """The JSON that a reading command prints."""
        return json.loads(self.podium(*arguments, "-o", "json").stdout)

    # --- waiting, by the watch stream: every change comes as an event

    async def until(self, namespace: str, holds: Callable[[tuple[JobDetail, ...]], bool]) -> tuple[JobDetail, ...]:
        """The first state of the namespace's jobs for which `holds`."""
        last: tuple[JobDetail, ...] = ()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with suppress(PodiumError):
                        async for last in self.client.watch(namespace):
                            if holds(last):
                                return last
        except TimeoutError:
            states = [[(t.task.slot, t.state.value, t.health.value, t.node, t.message) for t in d.tasks] for d in last]
            raise AssertionError(f"did not come to pass within {PATIENCE_S:g} s: {states}\n{self.logs()}") from None
        raise AssertionError("unreachable")

    async def until_nodes(self, holds: Callable[[tuple[NodeView, ...]], bool]) -> tuple[NodeView, ...]:
        """The first answer about nodes for which `holds`, asked again with every event."""
        last: tuple[NodeView, ...] = ()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with suppress(PodiumError):
                        if holds(last := await self.client.nodes()):
                            return last
                        async for _ in self.client.events(follow=True):
                            if holds(last := await self.client.nodes()):
                                return last
        except TimeoutError:
            raise AssertionError(f"nodes are {last}\n{self.logs()}") from None
        raise AssertionError("unreachable")

    async def until_ready(self, count: int) -> None:
        await self.until_nodes(lambda nodes: sum(node.condition.status.value == "ready" for node in nodes) >= count)


class Cluster(Watched):
    """A controller and agents as separate processes, and a client to them."""

    def __init__(self, directory: Path, store: str, runtime: str, *options: str, secure: bool = False) -> None:
        """`options` are the controller's."""
        self.directory = directory
        self.secure = secure
        self.runtime = runtime
        self.proxy = "relay"
        """The built-in one, so that a test runs the same wherever it runs."""
        self.grpc, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        listens = ("--grpc-listen", self.grpc, "--http-listen", self.http)
        keys = ("--data-dir", str(directory / "keys")) if secure else ()
        arguments = ("controller", "--store", store, *listens, *keys, *options)
        self.controller = Program("controller", directory, *arguments, secure=secure)
        self.agents: dict[str, Program] = {}
        self.addresses: dict[str, str] = {}
        self.controllers = (self.grpc,)
        self.client = Client(ClientSettings(controllers=(self.grpc,), insecure=True))

    async def begin(self) -> None:
        """Start the controller; a secure one has made its authority by the end, and `client` the right to ask."""
        self.controller.start()
        if self.secure:
            environ = surroundings(self.directory, secure=True)
            async with asyncio.timeout(PATIENCE_S):
                while found(environ, (self.grpc,)) is None:  # noqa: ASYNC110  another process writes it
                    await asyncio.sleep(0.05)
            self.client = Client(load(environ, controller=self.grpc))

    def add_agent(self, name: str, address: str, *options: str) -> Program:
        data = self.directory / name
        data.mkdir()
        agent = Program(
            name,
            self.directory,
            *("agent", "--controller", self.grpc, "--name", name, "--advertise", address, "--data-dir", str(data)),
            *(
                "--runtime",
                self.runtime,
                "--proxy",
                self.proxy,
                "--http-listen",
                f"{'127.0.0.1' if self.secure else address}:{free_port()}",
                *(("--process-user", "root") if os.geteuid() == 0 else ()),  # directories of tests are their owner's
                *options,
            ),
            secure=self.secure,
        )
        self.agents[name], self.addresses[name] = agent, address
        return agent

    def logs(self) -> str:
        programs = [self.controller, *self.agents.values()]
        return "\n".join(f"--- {program.name}\n{program.log()[-2500:]}" for program in programs)


def live(detail: JobDetail) -> list[TaskView]:
    """Tasks that are meant to run, by slot."""
    tasks = [view for view in detail.tasks if view.task.desired is DesiredState.RUN and not view.task.ended]
    return sorted((view for view in tasks if view.state is not TaskState.LOST), key=lambda view: view.task.slot)


def healthy(detail: JobDetail, count: int, version: int | None = None) -> bool:
    """Whether exactly `count` tasks run, each in its own slot, healthy where that is checked, of `version` if given."""
    tasks = live(detail)
    rest = [
        view for view in detail.tasks if not view.task.ended and view not in tasks and view.state is not TaskState.LOST
    ]
    return (
        len(tasks) == count
        and not rest
        and len({view.task.slot for view in tasks}) == count
        and all(view.state is TaskState.RUNNING for view in tasks)
        and all(view.health in (Health.HEALTHY, Health.NONE) for view in tasks)
        and all(version is None or view.task.version == version for view in tasks)
    )


@asynccontextmanager
async def cluster(
    directory: Path, store: str, runtime: str, nodes: Iterable[tuple[str, str]], *options: str, secure: bool = False
) -> AsyncIterator[Cluster]:
    """A running cluster; `nodes` are (name, address), `options` the controller's. All it started is gone afterwards."""
    made = Cluster(directory, store, runtime, *options, secure=secure)
    try:
        await made.begin()
        for name, address in nodes:
            made.add_agent(name, address).start()
        async with made.client:
            await made.until_ready(len(made.agents))
            yield made
    finally:
        await asyncio.to_thread(end_cluster, made)


def end_cluster(made: Cluster) -> None:
    for program in (*made.agents.values(), made.controller):
        with suppress(AssertionError):
            program.kill()
    end_processes_naming(made.directory)
    end_containers_of(file.read_text().strip() for file in made.directory.glob(f"*/{IDENTITY}"))
    end_routes_of(made.directory)


def end_routes_of(directory: Path) -> None:
    """Agents that were killed leave the machine the owner of their addresses for jobs."""
    for file in directory.glob(f"*/{BOOK}"):
        network = ipaddress.IPv4Network(json.loads(file.read_text())["network"])
        if not network.is_loopback and os.geteuid() == 0:
            route(network, add=False)


def end_processes_naming(directory: Path) -> None:
    """Kill every process (relays, shims and what they run) whose command line or environment names our directory."""
    ours = [process for process in psutil.process_iter() if _names(process, str(directory))]
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    until_ended(ours)


def processes_naming(directory: Path) -> list[str]:
    return [" ".join(process.cmdline()) for process in psutil.process_iter() if _names(process, str(directory))]


def _names(process: psutil.Process, text: str) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return process.pid != os.getpid() and (
            any(text in word for word in process.cmdline()) or process.cwd().startswith(text)
        )
    return False


def end_containers_of(node_ids: Iterable[str]) -> None:
    for node_id in node_ids:
        ids = containers_of(node_id)
        if ids:
            subprocess.run(["docker", "rm", "-f", *ids], capture_output=True, check=False, timeout=60)


def containers_of(node_id: str, *, only_running: bool = False) -> list[str]:
    """Ids of a node's containers; none where there is no engine."""
    with suppress(FileNotFoundError):
        command = [
            "docker",
            "ps",
            "-q" if only_running else "-aq",
            "--no-trunc",
            "--filter",
            f"label=podium.node={node_id}",
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split()
    return []
