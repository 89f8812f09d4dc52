"""What one HAProxy is to serve, as values, and the names its parts have. PURE.

Everything but the servers and what is in certificates is structure: a change of it needs a reload. Servers come, go and
change their weight at run time, and certificates are renewed.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from agent.network.interface import Listener
from common.model.endpoint import DEFAULT_WEIGHT, LARGEST_WEIGHT, Endpoint, Service

FILES, MEMORY = "certificates", "memory"
"""Where certificates lie: copies of the node's own, and, on a link into memory, those that are secrets."""

_FOREIGN = re.compile(r"[^A-Za-z0-9._:-]")


class Web(msgspec.Struct, frozen=True, kw_only=True):
    """Where HTTP is served that is routed by host name."""

    address: str
    http_port: int = 80
    https_port: int = 443


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """One that can be served: it is whole, its key fits, and it is good for the hosts."""

    name: str
    fingerprint: str
    """Of its content: a renewed one is another."""
    hosts: tuple[str, ...]
    folder: str = FILES

    @property
    def path(self) -> str:
        """As HAProxy calls it."""
        return f"{self.folder}/{self.name}.pem"


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one HAProxy serves."""

    revision: int = -1
    services: tuple[Service, ...] = ()
    """Endpoints have IP addresses."""
    listeners: tuple[Listener, ...] = ()
    """Of the services without a route, and only those whose port can be had."""
    web: Web | None = None
    """None: nothing is routed, or its ports cannot be had."""
    certificates: tuple[Certificate, ...] = ()

    @property
    def structure(self) -> Site:
        """The same for all sites that need no reload in between."""
        bare = tuple(msgspec.structs.replace(service, endpoints=(), certificate="") for service in self.services)
        shown = tuple(msgspec.structs.replace(one, fingerprint="") for one in self.certificates)
        return msgspec.structs.replace(self, revision=0, services=bare, certificates=shown)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of a service as HAProxy has it."""

    proxy: str
    name: str
    address: str
    port: int
    weight: int
    options: str = ""
    """What else stands behind it, both in the file and when it is added."""

    @property
    def key(self) -> tuple[str, str]:
        """Unique within the site."""
        return self.proxy, self.name


LEAD = "podium.lead"
"""The server by which a worker that a reload has replaced passes on those who wait in it; of no task."""


def proxy_name(service: Service) -> str:
    """Of the service's frontend and backend: readable, and another one for every key."""
    plain = _FOREIGN.sub("_", service.key)
    if plain == service.key:
        return plain
    return f"{plain}_{hashlib.sha256(service.key.encode()).hexdigest()[:8]}"


def servers_of(service: Service) -> tuple[Server, ...]:
    """A task that listens elsewhere after a restart is another server: the old one may still have connections."""
    options = introduction(service)
    if service.slow_start_s:
        options += f" slowstart {max(1, round(service.slow_start_s * 1000))}ms"
    return tuple(
        Server(
            proxy=proxy_name(service),
            name=f"{endpoint.task_id}-{endpoint.address}-{endpoint.port}",
            address=endpoint.address,
            port=endpoint.port,
            weight=min(LARGEST_WEIGHT, endpoint.weight or DEFAULT_WEIGHT),
            options=options,
        )
        for endpoint in service.endpoints
    )


def introduction(service: Service) -> str:
    """The option by which its servers learn of their clients."""
    return {"v1": " send-proxy", "v2": " send-proxy-v2"}.get(service.proxy_protocol.value, "")


def task_of(server_name: str) -> str:
    """Whose server it is."""
    return server_name.rsplit("-", 2)[0]


def named_safely(endpoint: Endpoint) -> bool:
    """Whether its id can stand in a configuration: it came over the network."""
    return bool(endpoint.task_id) and not _FOREIGN.search(endpoint.task_id)
