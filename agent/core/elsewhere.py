"""Which endpoints a node's proxy connects to: those of other nodes only where such nodes can be. Pure.

The address of an endpoint comes from another node's agent. One that was taken over could name this machine's own
loopback, or the address at which clouds hand out credentials to whoever asks from within a machine, and every node's
proxy would carry the world there.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from common.model.endpoint import Service
from common.names import ip_of


def connectable(services: Iterable[Service], node_id: str, address: str) -> tuple[Service, ...]:
    """The services as the proxy of the node `node_id` at `address` may be told of them."""
    if not _is_local(address):
        services = (_without(service, node_id) for service in services)
    return tuple(services)


def _without(service: Service, node_id: str) -> Service:
    kept = tuple(one for one in service.endpoints if one.node_id == node_id or not _is_local(one.address))
    return service if len(kept) == len(service.endpoints) else msgspec.structs.replace(service, endpoints=kept)


def _is_local(address: str) -> bool:
    """Means another machine on each machine, or nobody: nodes that are all on one machine are at such addresses."""
    ip = ip_of(address)
    if ip is None:
        return address.rstrip(".").lower() == "localhost"
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    return mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast
