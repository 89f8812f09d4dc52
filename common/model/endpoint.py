"""Where a published port's traffic goes. The controller computes it, the nodes' relays carry it out."""

from __future__ import annotations

import msgspec

from common.model.job import Protocol

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
    """One published port of one job with everything that can answer for it, ordered by slot and task."""

    namespace: str
    job: str
    container_port: int
    published_port: int
    protocol: Protocol = Protocol.TCP
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def key(self) -> str:
        """Unique in the cluster: a published port belongs to one job."""
        return f"{self.published_port}/{self.protocol.value}"

    @property
    def job_name(self) -> str:
        return f"{self.namespace}/{self.job}"
