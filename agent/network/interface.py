"""What the agent asks of a data plane, whichever program carries the traffic."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol, TypeAlias

import msgspec

from agent.core.names import Names, entrances
from common.model.endpoint import Service, TrafficProblem
from common.model.job import Protocol as Transport

LOOPBACK = "127.0.0.1"

Certificates: TypeAlias = Mapping[str, bytes]
"""Of routes whose certificate is a secret, as far as they have come: chain and key, by `Service.certificate`."""
NO_CERTIFICATES: Certificates = MappingProxyType({})


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """Where a service is offered on this node. One service may be offered at several places."""

    address: str
    port: int
    protocol: Transport
    service: str
    """Its key."""

    def __str__(self) -> str:
        return f"port {self.port}/{self.protocol.value} on {self.address}"


def listeners_of(address: str, services: tuple[Service, ...], names: Names | None = None) -> tuple[Listener, ...]:
    """The published ports on the node's own address or its loopback, and what jobs on the node reach each other by.

    Services with a route share the ports of the web instead.
    """
    own = address if _is_loopback(address) else LOOPBACK
    published = (
        (own if service.loopback else address, service.published_port, service)
        for service in services
        if service.published_port
    )
    return tuple(
        Listener(address=place, port=port, protocol=service.protocol, service=service.key)
        for place, port, service in (*published, *entrances(services, names))
    )


def _is_loopback(address: str) -> bool:
    """Agents that share a machine have addresses of its loopback of their own, and share no other."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class DataPlaneState(msgspec.Struct, frozen=True, kw_only=True):
    """What the data plane carries out at the moment."""

    revision: int
    """Of the endpoints it was last given."""
    draining: tuple[str, ...] = ()
    """Withdrawn tasks whose connections have not ended yet."""
    problems: tuple[TrafficProblem, ...] = ()
    """E.g. `port 8080/tcp on 10.0.0.5 cannot be published: address already in use`."""
    connections: dict[str, int] = {}
    """Accepted so far, by job name `namespace/job`. Requests that were routed by their host count as one each."""
    requests: dict[str, int] = {}
    """HTTP requests passed on so far, by job name; of jobs whose requests the program can tell apart."""
    open: dict[str, int] = {}
    """Connections at this moment, by job name, those that wait for an endpoint included."""
    parked: dict[str, int] = {}
    """Of those that wait for an endpoint."""
    refused: dict[str, int] = {}
    """Turned away so far, by job name: they waited as long as they may, or too many did."""
    wanted: tuple[str, ...] = ()
    """Jobs that wake, have no endpoint, and are waited for."""


PARK_S = 5.0
"""How long a connection waits while no endpoint answers: a crashed single replica is back by then."""

PARKED_LIMIT = 1_000
"""Connections of one service that may wait at a time; more are closed at once, so that memory stays bounded."""


def wait_s(service: Service) -> float:
    """How long its connections wait for an endpoint."""
    return max(PARK_S, service.wake_wait_s)


class DataPlane(Protocol):
    @property
    def name(self) -> str:
        """What the node says its traffic is carried by; see `NodeDescription.proxy`."""

    @property
    def pid(self) -> int:
        """Of its process; 0 while there is none."""

    async def start(self) -> None:
        """Start the program, or find the one that runs already and serves its last knowledge."""

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        """Serve exactly these services from now on, showing these certificates. Returns when it is carried out.
        `Unavailable` when it is away."""

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        """Call back with the state at every change: applied revisions, drained endpoints, problems."""

    async def metrics(self) -> bytes:
        """What the program itself tells monitoring, in Prometheus' format; empty when it tells nothing."""

    async def close(self, *, stop: bool) -> None:
        """Let go of it; with `stop`, end it and free its ports and files."""
