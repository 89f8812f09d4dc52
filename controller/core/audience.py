"""Decides which nodes are told of a service: those whose proxies serve it, and nobody else.

What is published, every node serves. An inner service is for the tasks that may call it: those of its own namespace,
and those of jobs that name it in `depends_on`. A node that runs none of them learns nothing of it.
"""

from __future__ import annotations

from typing import TypeAlias

from common.model.endpoint import Service
from common.model.job import JobSpec

Interests: TypeAlias = frozenset[str]
"""Namespaces, and single jobs of others as `namespace/name`, whose inner services somebody may call."""


def interests(spec: JobSpec) -> Interests:
    """Whom the tasks of a job may call."""
    elsewhere = (need.full_name_seen_from(spec.namespace) for need in spec.depends_on if need.namespace)
    return frozenset((spec.namespace, *elsewhere))


def concerns(service: Service, whom: Interests) -> bool:
    """Whether a node with these interests serves it."""
    return not service.inner or service.namespace in whom or service.job_name in whom
