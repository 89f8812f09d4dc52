"""Decides which nodes are told of a service: those whose proxies serve it, and nobody else.

What is published, every node serves; routes are served where the proxy routes HTTP, so only those nodes get their
certificates. An inner service is for the tasks that may call it: those of its own namespace, and those of jobs that
name it in `depends_on`. A node that runs none of them learns nothing of it.
"""

from __future__ import annotations

from typing import TypeAlias

from common.model.asset import AssetKind
from common.model.endpoint import Service
from common.model.job import JobSpec
from common.model.node import ROUTES_HTTP, Node
from common.model.session import AssetRequest

Interests: TypeAlias = frozenset[str]
"""Namespaces, and single jobs of others as `namespace/name`, whose inner services somebody may call."""


def interests(spec: JobSpec) -> Interests:
    """Whom the tasks of a job may call."""
    elsewhere = (need.full_name_seen_from(spec.namespace) for need in spec.depends_on if need.namespace)
    return frozenset((spec.namespace, *elsewhere))


def concerns(service: Service, whom: Interests) -> bool:
    """Whether a node with these interests serves it."""
    return not service.inner or service.namespace in whom or service.job_name in whom


def shows(node: Node, service: Service | None, request: AssetRequest) -> bool:
    """Whether what is asked for is the certificate that a route shows now, and the node is one of those that show it.
    `service` is what is published under the key that the request names."""
    if service is None or service.http is None or node.description.proxy not in ROUTES_HTTP:
        return False
    asked = request.kind, request.name, request.digest
    return bool(service.certificate) and asked == (AssetKind.SECRET, service.http.tls, service.certificate)
