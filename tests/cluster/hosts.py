"""A cluster on hosts of its own: on each an etcd member, a controller, an agent and a Docker Engine, and cables to cut.

It trusts as every cluster does: the first controller makes its authority, an operator on that host two tokens by
which the other controllers and all agents join, and the tests ask as its first user.

Hosts are machines made of namespaces on one switch, which is a machine too: when the tests let go, or die, the kernel
takes all of it away. Nothing of this machine's own network, engine or firewall is touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from client.client import Client
from client.settings import ClientSettings
from common.errors import PodiumError
from tests.cluster.engine import OwnEngine
from tests.cluster.machine import Machine, Running, until, until_async
from tests.cluster.processes import PODIUM, Watched

AGENTS, GRPC, HTTP, STORE, STORE_PEER = 7076, 7077, 7078, 2379, 2380
DOORS = f"{AGENTS}:{GRPC}"
"""Both ports of a controller that agents use, as iptables writes a range."""
SMALL_DISKS = {"agent": 24 << 20, "etcd": 256 << 20}
"""Bytes, of hosts that have disks of their own to be filled: etcd sets 128 MB aside for its log."""
FILL = "fill"
_BLOAT_BYTES = 1 << 20
_ROOT_PLACE = 254
_NETWORKS = range(64, 128)
_REVOKED = 'grpc_server_handled_total{grpc_code="OK",grpc_method="LeaseRevoke"'


class Host:
    """One machine with what runs on it. `place` is the last part of its address."""

    def __init__(self, name: str, place: int, directory: Path, network: str, *, small_disks: bool = False) -> None:
        directory.mkdir()
        self.name = name
        self.address = f"{network}.{place}"
        self.machine = Machine(name, directory)
        self.engine: OwnEngine | None = None
        self.store: Running | None = None
        self.controller: Running | None = None
        self.agents: dict[str, Running] = {}
        self._tokens = directory.parent / "tokens"
        self._network = network
        self._small_disks = small_disks
        for disk in SMALL_DISKS:
            self.disk(disk).mkdir()

    @property
    def keys(self) -> Path:
        """Of its controller."""
        return self.machine.directory / "keys"

    @property
    def grpc(self) -> str:
        return f"{self.address}:{GRPC}"

    @property
    def agent(self) -> Running:
        return self.agents[self.name]

    def boot(self) -> None:
        self.machine.boot()
        if self._small_disks:  # in memory: they do not outlive the machine
            for disk, size_bytes in SMALL_DISKS.items():
                self.machine.do("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(self.disk(disk)))

    def disk(self, name: str) -> Path:
        """`agent` or `etcd`."""
        return self.machine.directory / name

    def agent_directory(self, name: str = "") -> Path:
        return self.disk("agent") / (name or self.name)

    def fill(self, disk: str) -> None:
        """To the last byte; for a host with small disks."""
        self.machine.do("dd", "if=/dev/zero", f"of={self.disk(disk) / FILL}", "bs=1M", check=False)
        self.machine.do("dd", "if=/dev/zero", f"of={self.disk(disk) / FILL}2", "bs=1", "count=65536", check=False)

    def free(self, disk: str) -> None:
        self.machine.do("rm", "-f", str(self.disk(disk) / FILL), f"{self.disk(disk) / FILL}2")

    # --- what runs on it

    def start_engine(self, *, live_restore: bool = True) -> None:
        self.engine = OwnEngine(self.machine, live_restore=live_restore)
        self.engine.start()

    def start_store(self, members: Iterable[Host]) -> None:
        client, peer = f"http://{self.address}:{STORE}", f"http://{self.address}:{STORE_PEER}"
        cluster = ",".join(f"{each.name}=http://{each.address}:{STORE_PEER}" for each in members)
        command = ["etcd", f"--name={self.name}", f"--data-dir={self.disk('etcd') / 'data'}", "--logger=zap"]
        command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        command += [f"--initial-cluster={cluster}", "--initial-cluster-state=new"]
        command += ["--pre-vote"]  # as docs/operations.md advises: one that comes back must not unseat their leader
        self.store = self.machine.start("etcd", *command)

    def start_controller(self, members: Iterable[Host], *options: str, joins: bool) -> None:
        """One that does not join begins the cluster."""
        stores = ",".join(f"{each.address}:{STORE}" for each in members)
        command = [PODIUM, "controller", "--store", f"etcd://{stores}", "--data-dir", str(self.keys)]
        command += [
            "--grpc-listen",
            self.grpc,
            "--http-listen",
            f"{self.address}:{HTTP}",
            *(self._joins("controller") if joins else ()),
        ]
        self.controller = self.machine.start("controller", *command, *options, environment=self._environment)

    def start_agent(self, controllers: Iterable[str], name: str = "", *options: str) -> None:
        """The host's own agent with its engine; one of another `name` shares the host and gets `options`."""
        name = name or self.name
        command = [PODIUM, "agent", "--controller", ",".join(controllers), "--name", name]
        command += self._joins("agent")
        command += ["--advertise", self.address, "--data-dir", str(self.agent_directory(name))]
        if self.engine is not None:
            command += ["--runtime", "docker", "--docker-host", self.engine.host]
        self.agents[name] = self.machine.start(f"agent-{name}", *command, *options, environment=self._environment)

    def make_token(self, role: str) -> None:
        """As the operator of this host, whose commands find their right by themselves once the cluster has begun."""
        options = ("--role", role, "--uses", "100", "--ttl", "1d", "--out", str(self._tokens / role))
        command = ("env", f"HOME={self.machine.directory}", PODIUM, "token", "create", "--controller", self.grpc)
        until(lambda: self.machine.do(*command, *options, check=False).returncode == 0, f"a token for {role}s")

    def _joins(self, role: str) -> tuple[str, str]:
        return "--join-file", str(self._tokens / role)

    @property
    def _environment(self) -> dict[str, str]:
        return {"HOME": str(self.machine.directory)}

    # --- its cable and its firewall

    def cut(self) -> None:
        """Pull the cable out."""
        self._link("down")

    def mend(self) -> None:
        """The cable back in, no packet dropped any more, room on its disks; in one go, as time is short."""
        disks = " ".join(f"{self.disk(disk) / FILL}*" for disk in SMALL_DISKS)
        self.machine.do("sh", "-ec", f"iptables -F INPUT; iptables -F OUTPUT; ip link set eth0 up; rm -f {disks}")

    def drop(self, chain: str, *match: str) -> None:
        """Lose packets: `INPUT` before they are heard, `OUTPUT` as they are sent."""
        self.machine.do("iptables", "-A", chain, *match, "-j", "DROP")

    def _link(self, state: str) -> None:
        self.machine.do("ip", "link", "set", "eth0", state)

    def programs(self) -> list[Running]:
        return [each for each in (self.store, self.controller, *self.agents.values()) if each is not None]


class Hosts(Watched):
    """Three hosts as a rule: `n1`, `n2` and `n3`, the last with small disks; and `edge` with a cable only.

    `options` are those of every controller beyond where it listens and what it keeps its state in.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self._options = options
        self.network = _free_network()
        (directory / "switch").mkdir()
        self.switch = Machine("switch", directory / "switch")
        self.all = [
            Host(f"n{place}", place, directory / f"n{place}", self.network, small_disks=place == 3)
            for place in (1, 2, 3)
        ]
        self.edge = Host("edge", 9, directory / "edge", self.network)
        self.controllers = tuple(host.grpc for host in self.all)
        self.client: Client

    def new_client(self) -> Client:
        """As the first user, whose token every controller keeps."""
        token = (self.first.keys / "admin.token").read_text().strip()
        return Client(ClientSettings(controllers=self.controllers, token=token))

    @property
    def first(self) -> Host:
        """Whose controller begins the cluster."""
        return self.all[0]

    # --- begin and end

    def open(self, image: str) -> None:
        """Everything runs and answers but the agents, whose registration one awaits as a client."""
        self.plug()
        with ThreadPoolExecutor(len(self.all)) as pool:
            for host in self.all:
                host.start_store(self.all)
            list(pool.map(lambda host: self._equip(host, image), self.all))
        for host in self.all:
            self._start_controller(host)
            host.start_agent(self.controllers)
        for role in ("controller", "agent"):
            self.first.make_token(role)
        self.client = self.new_client()

    def _start_controller(self, host: Host) -> None:
        host.start_controller(self.all, *self._options, joins=host is not self.first)

    def plug(self) -> None:
        """The machines are up and wired; nothing runs on them."""
        self._plug_switch()
        for host in (*self.all, self.edge):
            self.boot(host)

    def boot(self, host: Host) -> None:
        """The machine, and its cable into the switch."""
        host.boot()
        port, pid = f"p-{host.name}", str(host.machine.pid)
        self._on_switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", pid)
        self._on_switch("ip", "link", "set", port, "master", "switch", "up")
        host.machine.do("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.machine.do("ip", "link", "set", "eth0", "up")

    def close(self) -> None:
        for host in (*self.all, self.edge):
            host.machine.die()
        self.switch.die()

    def revive(self, host: Host) -> None:
        """Start again whatever of it has ended."""
        if host.engine is None or not host.engine.running.runs:
            host.start_engine()
        if host.store is None or not host.store.runs:
            host.start_store(self.all)
        if host.controller is None or not host.controller.runs:
            self._start_controller(host)
        if host.name not in host.agents or not host.agent.runs:
            host.start_agent(self.controllers)

    def mend(self) -> None:
        """All cables in, nothing frozen, everything running."""
        for host in self.all:
            host.mend()
            for program in host.programs():
                if program.runs:
                    program.thaw()
            self.revive(host)

    # --- who is who

    def host(self, name: str) -> Host:
        return next(host for host in self.all if host.name == name)

    def others(self, *hosts: Host) -> list[Host]:
        return [host for host in self.all if host not in hosts]

    async def leader(self) -> Host:
        """Where the leader runs, once somebody leads."""
        address = (await self.client.status()).leader
        return next(host for host in self.all if host.grpc == address)

    async def until_led(self, *, by_none_of: Iterable[Host] = ()) -> Host:
        """Who leads, once it is none of these."""
        barred, leaders = tuple(by_none_of), list[Host]()

        async def led() -> bool:
            with suppress(PodiumError):
                leaders[:] = [await self.leader()]
            return bool(leaders) and leaders[0] not in barred

        await until_async(led, "somebody else leads")
        return leaders[0]

    def store_leader(self) -> Host:
        """Which etcd member leads the others."""
        for host in self.all:
            done = self._etcdctl(host, "endpoint", "status", "--write-out=json")
            if done.returncode == 0:
                status = json.loads(done.stdout)[0]["Status"]
                if status["leader"] == status["header"]["member_id"]:
                    return host
        raise AssertionError("no etcd member leads")

    def store_answers(self, host: Host) -> bool:
        return self._etcdctl(host, "endpoint", "health").returncode == 0

    def bloat(self, near: Host) -> bool:
        """One more megabyte into every member's disk; whether that was taken."""
        return self._etcdctl(near, "put", "/bloat", given="x" * _BLOAT_BYTES).returncode == 0

    def leases_given_back(self) -> int:
        """How many etcd was asked to revoke, over all members; those that ran out are not among them."""
        return sum(_revoked(host.address) for host in self.all)

    def containers(self) -> dict[str, str]:
        """When each running container of all hosts was started, by id."""
        return {
            container: started_at
            for host in self.all
            if host.engine is not None
            for container, started_at in host.engine.containers().items()
        }

    def logs(self) -> str:
        programs = [program for host in (*self.all, self.edge) for program in host.programs()]
        wanted = [program for program in programs if "etcd" not in program.name]
        return "\n".join(f"--- {program.name}\n{program.log()[-2500:]}" for program in wanted)

    # --- small steps

    def _plug_switch(self) -> None:
        self.switch.boot()
        self._on_switch("ip", "link", "add", "switch", "type", "bridge")
        self._on_switch("ip", "link", "set", "switch", "up")
        cable, pid = f"podium{self.switch.pid}", str(self.switch.pid)
        _do("ip", "link", "add", cable, "type", "veth", "peer", "name", "uplink", "netns", pid)
        self._on_switch("ip", "link", "set", "uplink", "master", "switch", "up")
        _do("ip", "address", "add", f"{self.network}.{_ROOT_PLACE}/24", "dev", cable)
        _do("ip", "link", "set", cable, "up")

    def _equip(self, host: Host, image: str) -> None:
        host.start_engine()
        assert host.engine is not None
        host.engine.load(image)
        until(lambda: self.store_answers(host), f"etcd of {host.name} answers")

    def _on_switch(self, *command: str) -> None:
        """In its network only: process ids given are those of the outside."""
        _do("nsenter", f"--net=/proc/{self.switch.pid}/ns/net", "--", *command)

    def _etcdctl(self, host: Host, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        endpoint = f"--endpoints=http://{host.address}:{STORE}"
        command = ["etcdctl", endpoint, "--command-timeout=2s", *arguments]
        environment = os.environ | {"ETCDCTL_API": "3"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, env=environment, check=False, input=given
        )


def _revoked(address: str) -> int:
    with urllib.request.urlopen(f"http://{address}:{STORE}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith(_REVOKED)]
    return int(float(line.rpartition(" ")[2]))


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _free_network() -> str:
    """The first three parts of addresses that nobody here has a way to."""
    taken = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    return next(network for place in _NETWORKS if f"{(network := f'10.99.{place}')}." not in taken)
