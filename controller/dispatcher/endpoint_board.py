"""All services of the cluster as nodes should know them, kept up to date job by job, with a revision for each change.

Revisions rise by one with every change, and from term to term. What a service's endpoints are is decided in
`controller.core.endpoints`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from common.model.endpoint import Service
from common.model.epoch import Epoch
from common.model.node import NodeCondition
from controller.core.endpoints import Claim, claims_of, first_revision, winner
from controller.state import State

_PUBLIC = ""


class Change(NamedTuple):
    """What one publication changed."""

    revision: int
    changed: tuple[Service, ...]
    removed: tuple[Service, ...]
    """As they were."""
    public: bool
    """Whether some of it is published, which concerns every node."""
    inner: frozenset[str]
    """Namespaces and jobs (`namespace/name`) of the inner services among it."""


class EndpointBoard:
    """See the module. `conditions` is the leader's live judgement of nodes by id."""

    def __init__(self, state: State, conditions: Mapping[str, NodeCondition], epoch: Epoch) -> None:
        self.revision = first_revision(epoch)
        self._state = state
        self._conditions = conditions
        self._claims: dict[str, dict[str, Claim]] = {}
        self._keys_of_job: dict[str, tuple[str, ...]] = {}
        self._services: dict[str, Service] = {}
        self._by_namespace: dict[str, dict[str, None]] = {}
        """Keys of inner services by namespace; of all others under the empty one."""
        self._dirty: dict[str, None] = dict.fromkeys(state.jobs)
        self.publish()

    def touch(self, job_id: str) -> None:
        """Look at this job again with the next publication."""
        self._dirty[job_id] = None

    @property
    def touched(self) -> bool:
        return bool(self._dirty)

    def service(self, key: str) -> Service | None:
        """As of the last publication."""
        return self._services.get(key)

    def public_services(self) -> Iterator[Service]:
        """What concerns every node, as of the last publication."""
        return (self._services[key] for key in self._by_namespace.get(_PUBLIC, ()))

    def inner_services(self, whose: Iterable[str]) -> Iterator[Service]:
        """Inner ones of the namespaces of these, which may be jobs (`namespace/name`), as of the last publication."""
        for namespace in sorted({one.partition("/")[0] for one in whose}):
            yield from (self._services[key] for key in self._by_namespace.get(namespace, ()))

    def services_of(self, namespace: str, name: str) -> Iterator[Service]:
        """What the job offers, as of the last publication."""
        job = self._state.job_named(namespace, name)
        for key in self._keys_of_job.get(job.id, ()) if job is not None else ():
            service = self._services.get(key)
            if service is not None and (service.namespace, service.job) == (namespace, name):
                yield service

    def publish(self) -> Change | None:
        """The services that the touched jobs changed, as the next revision; None when nothing changed."""
        keys: dict[str, None] = {}
        for job_id in self._dirty:
            keys.update(dict.fromkeys(self._keys_of_job.get(job_id, ())))
            keys.update(dict.fromkeys(self._claim(job_id)))
        self._dirty = {}
        changed, removed = self._settle(keys)
        if not changed and not removed:
            return None
        self.revision += 1
        inner = [service for service in (*changed, *removed) if service.inner]
        return Change(
            revision=self.revision,
            changed=tuple(changed),
            removed=tuple(removed),
            public=len(inner) < len(changed) + len(removed),
            inner=frozenset(name for service in inner for name in (service.namespace, service.job_name)),
        )

    def _claim(self, job_id: str) -> tuple[str, ...]:
        """Enter anew what the job claims; the keys."""
        for key in self._keys_of_job.pop(job_id, ()):
            del self._claims[key][job_id]
        job = self._state.jobs.get(job_id)
        claims = () if job is None else claims_of(self._state, job, self._conditions)
        for claim in claims:
            self._claims.setdefault(claim.service.key, {})[job_id] = claim
        keys = tuple(claim.service.key for claim in claims)
        if keys:
            self._keys_of_job[job_id] = keys
        return keys

    def _settle(self, keys: dict[str, None]) -> tuple[list[Service], list[Service]]:
        changed: list[Service] = []
        removed: list[Service] = []
        for key in keys:
            rivals = self._claims.get(key)
            service = winner(rivals.values()).service if rivals else None
            if service is None:
                self._claims.pop(key, None)
                gone = self._services.pop(key, None)
                if gone is not None:
                    self._by_namespace[_place(gone)].pop(key)
                    removed.append(gone)
            elif self._services.get(key) != service:
                self._services[key] = service
                self._by_namespace.setdefault(_place(service), {})[key] = None
                changed.append(service)
        return changed, removed


def _place(service: Service) -> str:
    return service.namespace if service.inner else _PUBLIC
