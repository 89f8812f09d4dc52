"""What an operator sets of a controller, and the timers it lives by, each with its unit and its reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from common.backoff import Backoff
from common.errors import Fault, Invalid
from common.model.job import Strategy
from common.tls import TlsFiles, address_fault, advertise_fault, check_listener, is_loopback
from common.tokens import JOIN, parse_token
from controller.core.exclusive import ExclusiveTimers, timer_faults
from controller.core.liveness import LivenessTimers

GRPC_PORT = 7077
HTTP_PORT = 7078
AGENT_PORT = 7076


class LeaseTimers(msgspec.Struct, frozen=True, kw_only=True):
    """How long a term outlives its leader, and how a leader lets go."""

    lease_s: float = 3.0
    """The store keeps the leader key this long without a renewal: a crash costs this much, etcd's minimum is 2 s."""
    renewals: int = 3
    """Renewals per lease: two may be lost."""
    step_down_share: float = 2 / 3
    """Of the lease, without a renewal: the rest is room for clocks that differ and work that has to stop."""
    stop_s: float = 2.0
    """A term's work has this long to end after its lease is lost; then the process ends instead: it may be stuck."""
    resign_s: float = 1.0
    """Giving the leader key up at once is a courtesy: without an answer in this time the lease runs out by itself."""
    again: Backoff = Backoff(first_s=0.2, limit_s=10.0)
    """Before campaigning again after a term that failed: a fault that comes back must not spin."""


class ScalingTimers(msgspec.Struct, frozen=True, kw_only=True):
    """When jobs that follow their load are looked at."""

    period_s: float = 15.0
    """Between two looks, and what CPU and requests are averaged over: Kubernetes' default."""

    @property
    def report_s(self) -> float:
        """Between two reports of a node while something is scaled by them: a few within each period."""
        return min(5.0, self.period_s / 3)


class Timers(msgspec.Struct, frozen=True, kw_only=True):
    liveness: LivenessTimers = LivenessTimers()
    heartbeats_per_s: int = 1_000
    """The leader gets at most this many: with more nodes than that the period is stretched."""
    registrations_per_s: float = 300.0
    """Agents taken in by the leader: 1,000 that reconnect at once are back within 3.3 s, before one is given up."""
    registration_burst: int = 100
    """So many may come at the same moment: a rack that was restarted is no crowd."""
    acknowledge_s: float = 2.0
    """An agent without an acknowledgement for this long redials: half-open connections hang for tens of seconds."""
    lease: LeaseTimers = LeaseTimers()
    exclusive: ExclusiveTimers = ExclusiveTimers()
    """Of exclusive jobs: when agents stop them by themselves, and when they are replaced."""
    scaling: ScalingTimers = ScalingTimers()
    rebalance_auto: bool = False
    """Tasks are moved for a better balance without anybody's order."""
    strategy: Strategy = Strategy.SPREAD
    """Of jobs that do not say theirs."""
    spread_s: float = 15.0
    """Every controller knows a new authority or cluster key after this long: they look every 10 s."""
    key_kept_s: float = 3_600.0
    """A new cluster key lies in the store, sealed under the one before it, for controllers that were away."""
    loop_turn_s: float = 0.25
    """How often the event loop is asked to be punctual; lateness is measured against it."""
    loop_stuck_s: float = 5.0
    """A loop that has not turned for this long is no longer alive to a probe: as long as a node's silence is death."""
    ping_s: float = 1.0
    """A store that takes longer to answer is not reachable to a probe."""
    shutdown_s: float = 3.0
    """Open requests have this long to end on a clean stop."""

    def stretched(self, nodes: int) -> LivenessTimers:
        """The liveness timers for a cluster of `nodes`: periods long enough for the limit on heartbeats."""
        period_s = max(self.liveness.period_s, nodes / self.heartbeats_per_s)
        return msgspec.structs.replace(self.liveness, period_s=period_s)

    def faults(self) -> Iterator[Fault]:
        """What the numbers must not be beside each other."""
        period_s, down_s = self.liveness.period_s, self.liveness.down_s
        unreachable_s = self.liveness.unreachable_s
        if unreachable_s < 1.5 * period_s:
            text = f"{unreachable_s:g} s is too short: at least 1.5 heartbeats ({1.5 * period_s:g} s), one may be late"
            yield Fault(path="timers.unreachable", text=text)
        if down_s < 2 * period_s:
            text = f"{down_s:g} s is too short: at least 2 heartbeats ({2 * period_s:g} s), one may be lost"
            yield Fault(path="timers.down", text=text)
        elif down_s <= unreachable_s:
            text = f"{down_s:g} s is not later than unreachable ({unreachable_s:g} s): traffic leaves before tasks move"
            yield Fault(path="timers.down", text=text)
        if self.acknowledge_s >= down_s:
            text = f"{self.acknowledge_s:g} s is not before down ({down_s:g} s): a hanging connection would cost a node"
            yield Fault(path="timers.acknowledge", text=text)

    def stretched_exclusive(self, nodes: int) -> ExclusiveTimers:
        """The timers of exclusive tasks that are made in a cluster of `nodes`."""
        return self.exclusive.stretched(self.stretched(nodes).period_s)


class ControllerSettings(msgspec.Struct, frozen=True, kw_only=True):
    store: str
    """`sqlite:///path`, `etcd://host:port,host:port` or `memory:`."""
    grpc_listen: str = f"127.0.0.1:{GRPC_PORT}"
    """Port 0 lets the system choose."""
    http_listen: str = f"127.0.0.1:{HTTP_PORT}"
    advertise: str = ""
    """Where engineers, agents and the other controllers reach this one; empty: the gRPC listener itself."""
    tls: TlsFiles | None = None
    """Of both listeners."""
    store_tls: TlsFiles | None = None
    """Towards etcd."""
    cluster_key: str = ""
    """File of the cluster's keys: with it the cluster has an authority of its own, and TLS that nobody sets up."""
    join_token: str = ""
    """For a further controller of a cluster, whose keys it has not yet; needed once."""
    join_file: str = ""
    """Holds that token instead, and may come later."""
    join_at: tuple[str, ...] = ()
    """Controllers to show it to; none: the one that leads, at the address that it advertises."""
    audit_log: str = ""
    """File of the audit log; empty: `audit.log` beside the cluster's keys, or only in memory where there are none."""
    agent_listen: str = ""
    """Where agents connect, each with its certificate, in a cluster that has an authority of its own; empty: on the
    host of `grpc_listen`, port 7076 beside 7077, else any."""
    http_names: tuple[str, ...] = ()
    """Host names by which HTTP is asked, besides addresses, single words and the names of this machine."""
    http_open: bool | None = None
    """Whether everybody who reaches HTTP may read it; None: on loopback, and where there are no tokens."""
    insecure: bool = False
    prometheus: str = ""
    """Address of the Prometheus that jobs may be scaled by, e.g. `http://prometheus:9090`; empty: there is none."""
    timers: Timers = Timers()
    long_lived: bool = False
    """This process does nothing else: garbage collection may be tuned for a large, mostly frozen state."""

    @property
    def agent_door(self) -> str:
        host, _, port = self.grpc_listen.rpartition(":")
        return self.agent_listen or f"{host}:{AGENT_PORT if port == str(GRPC_PORT) else 0}"

    @property
    def reads_http_openly(self) -> bool:
        if self.http_open is not None:
            return self.http_open
        return not self.cluster_key or is_loopback(self.http_listen)

    @property
    def audit_path(self) -> Path | None:
        if self.audit_log:
            return Path(self.audit_log)
        return Path(self.cluster_key).with_name("audit.log") if self.cluster_key else None

    def check(self) -> None:
        """Raises `Invalid` for what is no address, or would serve other machines in the clear unasked."""
        given = {"grpc_listen": self.grpc_listen, "http_listen": self.http_listen}
        given |= {f"join_at.{number}": address for number, address in enumerate(self.join_at)}
        if self.agent_listen:
            given["agent_listen"] = self.agent_listen
        if self.advertise:
            given["advertise"] = self.advertise
        least = {"advertise": 1}
        checked = [address_fault(path, address, least_port=least.get(path, 0)) for path, address in given.items()]
        faults = [fault for fault in (*checked, advertise_fault("advertise", self.advertise)) if fault]
        faults += self.timers.faults()
        faults += [Fault(path=path, text=text) for path, text in timer_faults(self.timers.exclusive)]
        if self.http_open is False and not self.cluster_key:
            text = "there is no token for HTTP without an authority of the cluster's own: leave it open"
            faults.append(Fault(path="http_open", text=text))
        faults += self._join_faults()
        faults += self._prometheus_faults()
        if self.cluster_key and (self.tls or self.insecure):
            text = "a cluster with its own authority needs neither TLS files nor --insecure: give one of the three"
            faults.append(Fault(path="cluster_key", text=text))
        if faults:
            raise Invalid(faults)
        safe = self.insecure or bool(self.cluster_key)
        check_listener("grpc_listen", self.grpc_listen, self.tls, insecure=safe)
        check_listener("http_listen", self.http_listen, self.tls, insecure=safe)

    def _join_faults(self) -> Iterator[Fault]:
        if self.join_token:
            yield from _token_faults(self.join_token)
        if self.join_token and self.join_file:
            yield Fault(path="join_file", text="a token was given too (--join): give one of the two")
        if (self.join_token or self.join_file) and not self.cluster_key:
            yield Fault(path="join", text="a cluster that is run with --insecure or TLS files is not joined by a token")

    def _prometheus_faults(self) -> Iterator[Fault]:
        if self.prometheus and not _is_http(self.prometheus):
            text = f"{self.prometheus!r} is no address of a Prometheus: write e.g. http://prometheus:9090"
            yield Fault(path="prometheus", text=text)


def _token_faults(token: str) -> Iterator[Fault]:
    try:
        parse_token(token, JOIN)
    except Invalid as error:
        yield Fault(path="join", text=str(error))


def _is_http(url: str) -> bool:
    """Whether it is an address that paths may be added to."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    return right and not parts.query and not parts.fragment
