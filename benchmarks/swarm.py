"""The peer of the failover benchmark: Docker Swarm, one manager on each of the hosts, asked by its own command.

Owns the swarm and its one service. What is measured, and against what, is the benchmark's affair.
"""

from __future__ import annotations

import json
import subprocess

from tests.cluster.engine import OwnEngine
from tests.cluster.hosts import Host
from tests.cluster.machine import until

SERVICE = "bench"
BOUND_S = 120.0
"""On every wait: Swarm declares a node dead after some 15 s and takes some 20 s to replace what it ran."""


class Swarm:
    """Three managers that also run tasks, as three hosts would be set up."""

    def __init__(self, hosts: list[Host], image: str) -> None:
        self._hosts = hosts
        self._image = image

    def open(self) -> None:
        first, *others = self._hosts
        for host in self._hosts:
            host.start_engine(live_restore=False)  # which Swarm does not do
            self._engine(host).load(self._image)
        self._docker(first, "swarm", "init", "--advertise-addr", first.address)
        token = self._docker(first, "swarm", "join-token", "-q", "manager").strip()
        for host in others:
            address = f"{first.address}:2377"
            self._docker(host, "swarm", "join", "--advertise-addr", host.address, "--token", token, address)
        self.until_whole()

    def create(self, host: Host, name: str, replicas: int) -> bool:
        """Whether the manager of this host took it."""
        command = ["service", "create", "--detach", "--no-resolve-image", "--name", name, f"--replicas={replicas}"]
        command += ["--stop-grace-period=1s", self._image, "sleep", "86400"]
        return self._engine(host).docker(*command, check=False).returncode == 0

    def remove(self, host: Host, name: str) -> None:
        self._docker(host, "service", "rm", name)

    def spread(self, host: Host) -> None:
        """Its three replicas on three hosts again."""
        self._docker(host, "service", "update", "--detach", "--force", "--update-parallelism=0", SERVICE)
        until(lambda: self.runs_on(host) == sorted(each.name for each in self._hosts), "spread again", BOUND_S)

    def runs_on(self, host: Host) -> list[str]:
        """Hosts of the service's running tasks, as this one's manager knows them."""
        return sorted(node for node, state in self._tasks(host, SERVICE) if state.startswith("Running"))

    def is_placed(self, host: Host, name: str) -> bool:
        return any(node for node, _ in self._tasks(host, name))

    def leader(self) -> Host:
        """Raises `StopIteration` while nobody leads."""
        return next(host for host in self._hosts if self._leads(host))

    def until_whole(self) -> None:
        """Every manager is reachable and every node ready."""
        until(lambda: all(self._ready(host) == len(self._hosts) for host in self._hosts), "all nodes ready", BOUND_S)

    def restart(self, host: Host) -> None:
        self._engine(host).start()

    def kill(self, host: Host) -> None:
        self._engine(host).running.kill()

    def _leads(self, host: Host) -> bool:
        done = self._engine(host).docker("node", "inspect", "self", check=False)
        return done.returncode == 0 and json.loads(done.stdout)[0]["ManagerStatus"].get("Leader", False)

    def _ready(self, host: Host) -> int:
        done = self._engine(host).docker("node", "ls", "--format={{.Status}} {{.ManagerStatus}}", check=False)
        return sum(line in ("Ready Reachable", "Ready Leader") for line in done.stdout.splitlines())

    def _tasks(self, host: Host, name: str) -> list[tuple[str, str]]:
        layout = "--format={{.Node}}\t{{.CurrentState}}"
        command = ["service", "ps", "--filter=desired-state=running", layout, name]
        done: subprocess.CompletedProcess[str] = self._engine(host).docker(*command, check=False)
        lines = (line.partition("\t") for line in done.stdout.splitlines())
        return [(node, state) for node, _, state in lines]

    def _docker(self, host: Host, *arguments: str) -> str:
        return self._engine(host).docker(*arguments).stdout

    def _engine(self, host: Host) -> OwnEngine:
        assert host.engine is not None
        return host.engine
