"""Addresses of jobs that are this node's own, as a value, and where the node listens for them. PURE.

An address leads to a job on one node only: what listens there is that node's data plane, which passes connections on to
the job's tasks wherever they run. So no two nodes have to agree about addresses, and none has to be reached by others.
"""

from __future__ import annotations

import ipaddress

import msgspec

from common.model.endpoint import Service

DOMAIN = "podium"
"""The last part of every full name: `web.shop.podium`."""

UNPRIVILEGED_SHIFT = 10_000
"""Added to ports that only root may listen on, where the node is not root: 80 becomes 10080."""

SLOT_SHARE = 4
"""One part in so many of the node's addresses is for single slots."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows jobs by."""

    network: str
    """All its addresses for jobs, e.g. `198.18.16.0/20`. The first one is the resolver's."""
    addresses: dict[str, str] = {}
    """Of jobs, by `namespace/name`."""
    least_port: int = 0
    """Below it the node may not listen."""
    forwarders: tuple[str, ...] = ()
    """`address` or `address:port` of servers that know the other names; empty: those of the machine."""

    @property
    def resolver(self) -> str:
        """Where names are answered."""
        return str(ipaddress.IPv4Network(self.network)[1])

    @property
    def resolver_port(self) -> int:
        return self.port(53)

    @property
    def reached_by_containers(self) -> bool:
        """Whether containers on the node have a way to these addresses: a loopback address is each one's own."""
        return not ipaddress.IPv4Network(self.network).is_loopback

    def port(self, container_port: int) -> int:
        """Where a job's port is reached at its address."""
        return container_port if container_port >= self.least_port else container_port + UNPRIVILEGED_SHIFT

    def slot_addresses(self) -> tuple[int, int]:
        """First and last (exclusive) of the addresses for single slots, as places in the network."""
        size = ipaddress.IPv4Network(self.network).num_addresses
        return size - size // SLOT_SHARE, size - 1

    def at(self, place: int) -> str:
        return str(ipaddress.IPv4Network(self.network)[place])


def entrances(services: tuple[Service, ...], names: Names | None) -> tuple[tuple[str, int, Service], ...]:
    """Address and port by which jobs on the node reach each service; one for each port of a job's containers.

    A route has none of its own: its port has another service.
    """
    if names is None:
        return ()
    found: dict[tuple[str, int, str], tuple[str, int, Service]] = {}
    for service in services:
        address = names.addresses.get(service.job_name)
        if service.http is None and address is not None:
            port = names.port(service.container_port)
            found.setdefault((address, port, service.protocol.value), (address, port, service))
    return tuple(found.values())
