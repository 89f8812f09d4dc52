"""Where traffic to jobs goes, from outside and among them: the controller computes it, the nodes' proxies obey."""

from __future__ import annotations

import msgspec

from common.model.job import HttpRoute, Protocol, ProxyProtocol

DEFAULT_WEIGHT = 100
LARGEST_WEIGHT = 256
"""What HAProxy takes as well."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One healthy task that can take connections."""

    task_id: str
    slot: int
    node_id: str
    address: str
    port: int
    weight: int = DEFAULT_WEIGHT
    """How many of the service's new connections it gets beside the others: twice the weight, twice as many. 1 to 256;
    0, from a controller that knows no weights, is the default."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One port or route of one job with everything that can answer for it, ordered by slot and task."""

    namespace: str
    job: str
    container_port: int
    published_port: int = 0
    """0: it has a route instead, or is for other jobs only."""
    protocol: Protocol = Protocol.TCP
    endpoints: tuple[Endpoint, ...] = ()
    http: HttpRoute | None = None
    proxy_protocol: ProxyProtocol = ProxyProtocol.NONE
    slow_start_s: float = 0.0
    loopback: bool = False
    """It is offered to programs of each node only."""
    wake_wait_s: float = 0.0
    """Connections that find no endpoint start the job, and wait so long for it; 0: they start nothing."""
    aliases: tuple[str, ...] = ()
    """More names of the job within its namespace."""
    certificate: str = ""
    """Of a route whose certificate is a secret: the digest of what it is now. Empty: the node has a file, or none is
    needed."""

    @property
    def key(self) -> str:
        """Unique in the cluster: a published port, and a route, belong to one job. No route begins with a slash."""
        if self.http is not None:
            return str(self.http)
        if self.inner:
            return f"/{self.job_name}:{self.container_port}/{self.protocol.value}"
        return f"{self.published_port}/{self.protocol.value}"

    @property
    def inner(self) -> bool:
        """Whether it is for other jobs only: nothing outside the cluster reaches it."""
        return not self.published_port and self.http is None

    @property
    def listens(self) -> str:
        """For people: `port 8080/tcp`, the route, or `port 80/tcp of shop/web`."""
        if self.inner:
            return f"port {self.container_port}/{self.protocol.value} of {self.job_name}"
        return self.key if self.http is not None else f"port {self.key}"

    @property
    def job_name(self) -> str:
        return f"{self.namespace}/{self.job}"


class TrafficProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why one node cannot carry the traffic of one service; the others are not disturbed."""

    service: str
    """Its key."""
    text: str
