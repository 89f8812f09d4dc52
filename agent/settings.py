"""What an operator sets of an agent, and the bounds and timers it lives by, each with its unit and its reason."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from agent.policy_file import policy_faults
from common.backoff import Backoff
from common.devices import device_faults
from common.errors import Fault, Invalid
from common.model.device import Device
from common.model.privileges import NodePolicy
from common.names import node_name_fault
from common.tls import TlsFiles, address_fault, advertise_fault, check_dial, check_listener, is_loopback
from common.tokens import JOIN, parse_token

TICK_S = 0.001
"""What loops count time in: what is due within it is due now. To wait for a part of it is to turn round until it is
over, and cost a node that only sends heartbeats a third of what it used."""

RUNTIMES = ("docker", "process", "fake")
PROXIES = ("auto", "relay", "haproxy")
LARGEST_PREFIX, SMALLEST_PREFIX = 8, 24
"""Of networks for jobs' addresses: one of /24 has room for 190 jobs and 63 slots, and for one agent."""
CROWD_LIMIT = 10_000
"""Nodes of one process: each has a connection, and a controller takes so many."""
ENGINE_SCHEMES = ("unix://", "tcp://", "http://", "https://", "ssh://")


class SessionTimers(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent holds on to its controller."""

    dial_timeout_s: float = 3.0
    """One address that does not answer must not keep us from the next one, which may lead."""
    register_timeout_s: float = 10.0
    """From Register to its answer: the controller commits the whole inventory first."""
    hedge_s: float = 1.0
    """A controller that has not answered after this long is asked on, and the next one beside it: a frozen leader
    accepts connections and answers nobody, a dead machine refuses none, and the successor gives us 5 s."""
    send_timeout_s: float = 10.0
    """For the transport to take one message: a peer that reads nothing is gone or stuck."""
    redial: Backoff = Backoff(first_s=0.1, limit_s=2.0)
    """Between rounds over the addresses. Short: after a failover nodes must be back within one `down` period (5 s)."""
    wait_limit_s: float = 30.0
    """Longest wait a controller may ask for before the next dial."""
    controllers_limit: int = 16
    """Addresses remembered beside those that were given: more are addresses of the past."""
    heartbeat_jitter: float = 0.1
    """Share of the period by which heartbeats come early, so that a thousand agents do not beat as one."""
    resync_again_s: float = 10.0
    """Without the complete set that was asked for after this long, ask again."""


class AgentBounds(msgspec.Struct, frozen=True, kw_only=True):
    """Everything has a limit."""

    batch_reports: int = 500
    """Statuses per message: one commit of the store holds 128 operations, so more gains nothing."""
    batch_interval_s: float = 0.05
    """At least this long between two batches; the first status after a quiet time goes out at once."""
    passing_s: float = 0.5
    """That the news of a task on its way (preparing, starting) waits for what comes next: one that runs by then is told
    of once, as running, and costs the store one write instead of two. Pulls and slow engines take longer."""
    unhurried_interval_s: float = 1.5
    """Between two statuses of a task that crashes again and again. With what it costs to move it to another node (it
    failed, is stopped, forgotten, replaced, placed) the store then has no more than one write of its slot a second."""
    batches_in_flight: int = 8
    """Unacknowledged batches; what changes meanwhile is merged and waits here, where it costs nothing."""
    outbox_messages: int = 8
    """Waiting to be written to the controller; few, so that a heartbeat never stands behind a long log."""
    log_streams: int = 256
    """Open at once, as many as a controller asks of one node: each holds a file or a stream of the engine open."""
    log_chunk_lines: int = 200
    log_chunk_bytes: int = 64 * 1024
    """A log shares its stream with heartbeats: small pieces keep those on time."""
    execs: int = 16
    """Programs of engineers at a time: each holds processes, a terminal or a connection to the engine open."""
    exec_window_bytes: int = 128 * 1024
    """Of input that may be under way to one program: several round trips of typing, and what a pipe holds twice."""
    exec_idle_s: float = 4 * 3600.0
    """Without a byte in either direction for so long a program is ended: its engineer has gone home."""
    log_tail_timeout_s: float = 2.0
    """For the tail of an ended container's output; without it the crash record goes out without lines."""
    hook_timeout_s: float = 300.0
    """For one `post_start` hook, which may fill a database; one that hangs must not keep its task starting for ever."""
    progress_interval_s: float = 1.0
    """Pulls report often, people read once a second."""
    runtime_poll_s: float = 5.0
    """How often runtimes are asked whether they answer: as often as a node is declared down."""
    runtime_poll_timeout_s: float = 5.0
    """An engine that takes longer to say that it is there is not there."""
    adopt_timeout_s: float = 10.0
    """For the first list of what runs already, before the agent registers; an engine that is away is asked later."""
    usage_interval_s: float = 5.0
    """The machine's usage is measured over this long: shorter is noise."""
    container_usage_interval_s: float = 10.0
    """Containers' usage is read when it is scraped, and no more often than this: every reading asks the engine."""
    container_usage_at_once: int = 8
    """Readings in flight: more gains nothing with Docker."""
    ended_kept: int = 20
    ended_kept_s: float = 600.0
    """The containers of so many tasks that ended by themselves are kept for so long after the controller forgot them:
    their logs are what one looks for then."""
    stop_extra_s: float = 15.0
    """When all tasks are stopped on exit: time beyond their own grace, after which they are left to the runtime."""


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    controllers: tuple[str, ...]
    """gRPC addresses, `host:port`; any of them names the leader."""
    data_dir: str
    """Journal and lock; one agent per directory. Process tasks keep their output below it."""
    name: str = ""
    """Empty: the host name."""
    count: int = 1
    """So many pretended nodes in one process, named `NAME-1` and on; only of the `fake` runtime."""
    advertise: str = "127.0.0.1"
    """Where the node's ports are reached: its own address in the cluster's network."""
    runtimes: tuple[str, ...] = ("docker",)
    docker_host: str = ""
    """Empty: the engine's default socket, `unix:///var/run/docker.sock`."""
    labels: dict[str, str] = {}
    cpus: float = 0.0
    """Cores the scheduler may set aside; 0: what the machine (or the agent's cgroup) has."""
    memory_bytes: int = 0
    """As with `cpus`."""
    devices: tuple[Device, ...] = ()
    """Units the node offers; those of a kind stand for all that would be found of it."""
    policy: NodePolicy = NodePolicy()
    """What tasks may have of this machine. A runtime `process` is there only where it allows processes."""
    find_devices: bool = True
    """Whether to offer the GPUs that the machine has: only one of several agents on a machine may."""
    proxy: str = "auto"
    """What carries the node's traffic: HAProxy where it is installed, else the built-in relay; or one by name."""
    web_port: int = 80
    web_tls_port: int = 443
    """Where HTTP is served that is routed by host name, on `advertise`."""
    certs: str = ""
    """Directory of its certificates, `NAME.pem` or `NAME.crt` with `NAME.key`; empty: none."""
    service_addresses: str = "auto"
    """Which addresses of its own the node gives to jobs that call each other: an IPv4 network, `none`, or `auto`, which
    is 198.18.0.0/15 where containers run and the agent is root, else 127.64.0.0/10."""
    dns_forward: tuple[str, ...] = ()
    """Servers for names that are not of jobs, `address` or `address:port`; empty: the machine's own."""
    secrets_dir: str = ""
    """Directory in memory for the configs and secrets of tasks; empty: one of the machine's usual places."""
    http_listen: str = ""
    """`host:port` for health and metrics; empty: none. Port 0 lets the system choose. Beyond loopback a member of a
    cluster shows its certificate there."""
    http_open: bool | None = None
    """Whether everybody who reaches HTTP may read it; None: on loopback, and where there is no authority."""
    http_token_file: str = ""
    """Holds the token by which it is read otherwise; empty: `http.token` in `data_dir`, made at the first start."""
    http_names: tuple[str, ...] = ()
    """Host names by which HTTP is asked, besides addresses, single words and the names of this machine."""
    join_token: str = ""
    """Of a cluster with an authority of its own; needed once."""
    join_file: str = ""
    """Holds the token instead, and may come later."""
    insecure: bool = False
    tls: TlsFiles | None = None
    timers: SessionTimers = SessionTimers()
    bounds: AgentBounds = AgentBounds()

    @property
    def identity_path(self) -> Path:
        """Where a member of a cluster with an authority of its own keeps its key and certificate."""
        return Path(self.data_dir) / "identity.json"

    @property
    def member(self) -> bool:
        """Whether this node belongs to such a cluster, or is to."""
        return self.joins or self.identity_path.exists()

    @property
    def reads_http_openly(self) -> bool:
        return self.http_open if self.http_open is not None else not self.member or is_loopback(self.http_listen)

    @property
    def http_token_path(self) -> Path:
        return Path(self.http_token_file) if self.http_token_file else Path(self.data_dir) / "http.token"

    @property
    def joins(self) -> bool:
        """Whether it was given a token, or is to be given one."""
        return bool(self.join_token or self.join_file)

    @property
    def node_name(self) -> str:
        return self.name or socket.gethostname().lower()

    def check(self) -> None:
        """Raises `Invalid` with every fault of the settings."""
        faults = list(self._faults())
        for check in self._address_checks():
            try:
                check()
            except Invalid as error:
                faults += error.faults
        if faults:
            raise Invalid(faults)

    def _faults(self) -> list[Fault]:
        faults = []
        if not self.controllers:
            faults.append(Fault(path="controllers", text="give at least one controller as host:port"))
        unknown = [name for name in self.runtimes if name not in RUNTIMES]
        if unknown or not self.runtimes:
            given = ", ".join(unknown) or "nothing"
            faults.append(Fault(path="runtimes", text=f"{given} given; allowed are {', '.join(RUNTIMES)}"))
        if "process" in self.runtimes and not self.policy.processes:
            text = "process is a runtime of nodes whose policy allows processes: name it with --runtime or in --policy"
            faults.append(Fault(path="runtimes", text=text))
        faults += self._crowd_faults()
        faults += self._proxy_faults()
        if not 0 <= self.cpus < 1e6:
            faults.append(Fault(path="cpus", text=f"{self.cpus} is not a number of cores"))
        if self.member and (self.tls or self.insecure):
            text = "a node that has joined a cluster needs neither TLS files nor --insecure; remove them, or "
            faults.append(Fault(path="join", text=f"{text}{self.identity_path} to leave the cluster"))
        if self.join_token:
            faults += _token_faults(self.join_token)
        if self.join_token and self.join_file:
            faults.append(Fault(path="join_file", text="a token was given too (--join): give one of the two"))
        if self.secrets_dir and not self.secrets_dir.startswith("/"):
            faults.append(Fault(path="secrets_dir", text=f"{self.secrets_dir!r} is not an absolute path"))
        if self.memory_bytes < 0:
            faults.append(Fault(path="memory", text=f"{self.memory_bytes} bytes is less than nothing"))
        faults += [Fault(path="device", text=text) for text in device_faults(self.devices)]
        faults += [Fault(path=f"policy.{fault.path}", text=fault.text) for fault in policy_faults(self.policy)]
        if not self.advertise:
            faults.append(Fault(path="advertise", text="give the address under which this node's ports are reached"))
        addresses = [address_fault("controllers", address, least_port=1) for address in self.controllers]
        addresses.append(address_fault("http_listen", self.http_listen) if self.http_listen else None)
        addresses.append(advertise_fault("advertise", self.advertise))
        return [*faults, *self._named_wrongly(), *(fault for fault in addresses if fault)]

    def _crowd_faults(self) -> Iterator[Fault]:
        if not 1 <= self.count <= CROWD_LIMIT:
            yield Fault(path="count", text=f"{self.count} is not a number of nodes from 1 to {CROWD_LIMIT}")
        if self.count > 1 and self.runtimes != ("fake",):
            text = "several nodes of one process share one machine, so they can only pretend: give --runtime fake too"
            yield Fault(path="count", text=text)

    def _proxy_faults(self) -> Iterator[Fault]:
        if self.proxy not in PROXIES:
            yield Fault(path="proxy", text=f"{self.proxy!r} given; allowed are {', '.join(PROXIES)}")
        for path, port in (("web_port", self.web_port), ("web_tls_port", self.web_tls_port)):
            if not 1 <= port <= 65535:
                yield Fault(path=path, text=f"{port} is out of range: ports are 1 to 65535")
        if self.web_port == self.web_tls_port:
            yield Fault(path="web_tls_port", text=f"{self.web_port} is given for plain HTTP too: choose another one")
        if text := _service_addresses_fault(self.service_addresses):
            yield Fault(path="service_addresses", text=text)
        for server in self.dns_forward:
            if text := _server_fault(server):
                yield Fault(path="dns_forward", text=text)
        if self.certs and not Path(self.certs).is_dir():
            yield Fault(path="certs", text=f"{self.certs} is no directory")

    def _named_wrongly(self) -> Iterator[Fault]:
        """The controller would refuse the name again and again, where nobody looks."""
        if fault := node_name_fault(self.node_name):
            whose = "" if self.name else "the host name: give another one with --name; "
            yield Fault(path="name", text=whose + fault)
        if self.docker_host and not self.docker_host.startswith(ENGINE_SCHEMES):
            text = f"{self.docker_host!r} is no engine's address: it begins with one of {', '.join(ENGINE_SCHEMES)}"
            yield Fault(path="docker_host", text=text)

    def _address_checks(self) -> list[Callable[[], None]]:
        def dial(address: str) -> None:
            check_dial("controllers", address, self.tls, insecure=self.insecure or self.member)

        def listen() -> None:
            check_listener("http_listen", self.http_listen, self.tls, insecure=self.insecure or self.member)

        return [*(partial(dial, address) for address in self.controllers), *([listen] if self.http_listen else [])]


def _service_addresses_fault(text: str) -> str:
    """Empty for one that will do: a block of it goes to each agent of a machine."""
    if text in ("auto", "none"):
        return ""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        return f"{text!r} given; allowed are auto, none, or an IPv4 network like 198.18.0.0/15"
    if not SMALLEST_PREFIX >= network.prefixlen >= LARGEST_PREFIX:
        return f"{text} given; allowed are networks from /{LARGEST_PREFIX} to /{SMALLEST_PREFIX}"
    return ""


def _server_fault(text: str) -> str:
    address, _, port = text.partition(":") if text.count(":") == 1 else (text, "", "53")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return f"{text!r} is no server: give an IP address, with :PORT if it is not 53"
    return "" if port.isdecimal() and 1 <= int(port) <= 65535 else f"{text!r}: ports are 1 to 65535"


def _token_faults(token: str) -> list[Fault]:
    try:
        parse_token(token, JOIN)
    except Invalid as error:
        return [Fault(path="join", text=str(error))]
    return []
