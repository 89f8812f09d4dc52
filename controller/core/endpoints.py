"""Decides where traffic to jobs goes, and when a task that was taken out of it may be stopped.

A service is one published ingress port, one HTTP route or one inner port of one job; its endpoints are the tasks that
can answer for it. Other jobs reach a published port's service too, so only ports that are not published have an inner
one. Silence alone never empties a service: when every endpoint would be gone only because nodes are silent or tasks
given up, the last known ones stay. Never decides what should run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from common.model.endpoint import LARGEST_WEIGHT, Endpoint, Service
from common.model.epoch import Epoch
from common.model.job import DesiredState, HttpRoute, Job, JobSpec, Port, ProxyProtocol, PublishMode
from common.model.node import NodeCondition, NodeStatus
from common.model.task import Health, PortBinding, Task, TaskState
from controller.core import rollout_machine as machine
from controller.core.certificates import digest_of
from controller.core.confine import ANY_ADDRESS
from controller.core.image_ports import has_image_ports, image_ports
from controller.state import State
from controller.store.keys import Record

_REVISIONS_PER_TERM = 1 << 24
_TERMS_PER_GENERATION = 1 << 32

_SILENT = frozenset({NodeStatus.UNREACHABLE, NodeStatus.DOWN})


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What one job would publish under one port or route. Where two jobs claim the same, `winner` decides."""

    service: Service
    job_id: str
    wanted: bool
    """The job should run and its current spec publishes the port; otherwise its old tasks still drain."""
    created_at_s: float


class Opening(NamedTuple):
    """One way in: a published port, a route to the port, or the port as other jobs of the cluster reach it."""

    port: Port
    route: HttpRoute | None = None
    inner: bool = False

    @property
    def key(self) -> str:
        """Tells the openings of one job apart."""
        if self.route is not None:
            return str(self.route)
        number = self.port.container_port if self.inner else self.port.published_port
        return f"{':' if self.inner else ''}{number}/{self.port.protocol.value}"


class Relay(msgspec.Struct, frozen=True, kw_only=True):
    """How far one connected node's data plane has come."""

    revision: int = 0
    """The last revision it carries out; 0: it has not said."""
    draining: frozenset[str] = frozenset()
    """Withdrawn tasks that still have connections through it."""


def first_revision(epoch: Epoch) -> int:
    """Where a term's revisions begin: above all of earlier terms, so that a relay's old word is never taken as new."""
    return (epoch.generation * _TERMS_PER_GENERATION + epoch.term) * _REVISIONS_PER_TERM


def services_of(state: State, conditions: Mapping[str, NodeCondition]) -> tuple[Service, ...]:
    """Everything the cluster's jobs offer, routes and inner ports first, then by published port."""
    claims: dict[str, list[Claim]] = {}
    for job in state.jobs.values():
        for claim in claims_of(state, job, conditions):
            claims.setdefault(claim.service.key, []).append(claim)
    services = [winner(rivals).service for rivals in claims.values()]
    return tuple(sorted(services, key=lambda service: (service.published_port, service.key)))


def claims_of(state: State, job: Job, conditions: Mapping[str, NodeCondition]) -> tuple[Claim, ...]:
    """What `job` would offer, one claim per port and route.

    Besides the ports of its current spec these are the ports of tasks that still run: while a rollout takes a port
    away, or a stopped job drains, its relays keep the port open for the connections they have.
    """
    running = [task for task in state.tasks_of_job(job.id).values() if task.status.state is TaskState.RUNNING]
    found: dict[str, tuple[Opening, bool]] = {}
    if job.desired is DesiredState.RUN and not job.removed:
        spec = state.spec_of(job)
        more = job.image_ports if has_image_ports(spec) else ()
        found.update((opening.key, (opening, True)) for opening in openings(spec, more))
    kinds = dict.fromkeys((task.version, image_ports(task, state.spec_of_task(task))) for task in running)
    for version, more in sorted(kinds, key=lambda kind: kind[0], reverse=True):
        for opening in openings(state.versions_of(job.id)[version].spec, more):
            found.setdefault(opening.key, (opening, False))
    return tuple(
        Claim(
            service=_service(state, job, opening, running, conditions),
            job_id=job.id,
            wanted=wanted,
            created_at_s=job.created_at_s,
        )
        for opening, wanted in found.values()
    )


def winner(claims: Iterable[Claim]) -> Claim:
    """The claim that gets the port: a running job before one that drains, then the older job."""
    return min(claims, key=lambda claim: (not claim.wanted, claim.created_at_s, claim.job_id))


def openings(spec: JobSpec, more: Iterable[Port] = ()) -> tuple[Opening, ...]:
    """Every way in to the tasks of a spec; `more`: ports that only its image declares."""
    published = [port for port in spec.task.ports if port.published_port and port.mode is PublishMode.INGRESS]
    routed = (Opening(port, route) for port in spec.task.ports for route in port.http)
    return (*map(Opening, published), *routed, *_inner_openings((*spec.task.ports, *more), published))


def _inner_openings(ports: Iterable[Port], published: Iterable[Port]) -> Iterator[Opening]:
    """One for each port of the container that no published one leads to."""
    reached = {(port.container_port, port.protocol) for port in published}
    for port in ports:
        if (port.container_port, port.protocol) not in reached:
            reached.add((port.container_port, port.protocol))
            yield Opening(port, inner=True)


def reach(state: State, record: Record | None) -> tuple[object, ...] | None:
    """What of a task the endpoints depend on; None while it does not run, or when it has no port to be reached at.

    Most tasks of a large cluster have none: their jobs need no look when one of them begins.
    """
    if not isinstance(record, Task) or record.status.state is not TaskState.RUNNING:
        return None
    version = state.versions_of(record.job_id).get(record.version)
    if version is not None and not version.spec.task.ports and not record.status.ports:
        return None
    return record.desired, bool(record.lost_at_s), record.status.health, record.status.ports


def silent(condition: NodeCondition | None) -> bool:
    """Whether a node has been silent too long for new traffic. One never judged is not: ignorance is no silence."""
    return condition is not None and condition.status in _SILENT


# --- when a withdrawn task may be stopped


def gated(task: Task, spec: JobSpec) -> bool:
    """Whether stopping `task` at once could cut connections off: it runs and is reached through the nodes."""
    return task.status.state is TaskState.RUNNING and bool(openings(spec, image_ports(task, spec)))


def drain_s(task: Task, spec: JobSpec, now_s: float) -> float:
    """Seconds that the stop of `task` may still wait for its connections to end: at most its grace.

    The stop may have been dated by another controller's clock: never more than any stop waits.
    """
    limit_s = spec.task.container.stop_grace_s
    return min(max(task.stop_requested_at_s + limit_s - now_s, 0.0), limit_s)


def has_let_go(relay: Relay, task_id: str, withdrawn_revision: int) -> bool:
    """Whether a node sends `task_id` connections no more. `withdrawn_revision` is one without the task.

    A task may be stopped when every connected node has let go: nodes that are not connected cannot be asked.
    """
    return relay.revision >= withdrawn_revision and task_id not in relay.draining


# --- endpoints of one service


def _service(
    state: State, job: Job, opening: Opening, running: Iterable[Task], conditions: Mapping[str, NodeCondition]
) -> Service:
    port, route, inner = opening
    spec = state.spec_of(job)
    known = sorted(_endpoints(state, opening, running), key=lambda pair: (pair[1].slot, pair[1].task_id))
    fresh = [pair for pair in known if not pair[0].lost_at_s and not silent(conditions.get(pair[0].node_id))]
    return Service(
        namespace=job.namespace,
        job=job.name,
        container_port=port.container_port,
        published_port=0 if inner or route is not None else port.published_port,
        protocol=port.protocol,
        endpoints=_weighted(state, job, fresh or known),
        http=route,
        proxy_protocol=port.proxy_protocol if route is None else ProxyProtocol.NONE,
        loopback=port.loopback and route is None,
        slow_start_s=spec.task.slow_start_s,
        wake_wait_s=job.autoscale.wake_wait_s if job.autoscale is not None and job.autoscale.wakes else 0.0,
        aliases=spec.aliases,
        certificate=digest_of(state, job.namespace, route),
    )


def _weighted(state: State, job: Job, pairs: list[tuple[Task, Endpoint]]) -> tuple[Endpoint, ...]:
    """The endpoints with the shares that the job's rollout gives its two versions.

    A version that should get nothing is left out, but not when that would leave nobody who answers.
    """
    share_pct = _share_pct(state, job)
    new = [endpoint for task, endpoint in pairs if task.version == job.version]
    old = [endpoint for task, endpoint in pairs if task.version != job.version]
    if share_pct is None or not new or not old:
        return tuple(endpoint for _, endpoint in pairs)
    if share_pct in (0, 100):
        return tuple(new if share_pct else old)
    each = {True: share_pct / len(new), False: (100 - share_pct) / len(old)}
    scale = LARGEST_WEIGHT / max(each.values())
    return tuple(
        msgspec.structs.replace(endpoint, weight=max(1, round(each[task.version == job.version] * scale)))
        for task, endpoint in pairs
    )


def _share_pct(state: State, job: Job) -> int | None:
    """Of the traffic, for the wanted version; None while its rollout leaves that to the number of its tasks."""
    rollout = job.rollout
    if rollout is None or rollout.version != job.version or machine.over(rollout):
        return None
    return machine.stage_of(rollout, state.spec_of(job), job.replicas).share_pct


def _endpoints(state: State, opening: Opening, running: Iterable[Task]) -> Iterator[tuple[Task, Endpoint]]:
    """The tasks that answered for `opening` when they were last heard of and should go on doing so."""
    for task in running:
        spec = state.spec_of_task(task)
        if task.desired is DesiredState.RUN and answers(task, spec):
            binding = _binding(task, spec, opening.key)
            if binding is not None:
                yield task, _endpoint(state, task, binding)


def answers(task: Task, spec: JobSpec) -> bool:
    """Whether a running task takes connections."""
    if spec.task.health_check is not None:
        return task.status.health is Health.HEALTHY
    return task.status.health in (Health.NONE, Health.HEALTHY)


def _binding(task: Task, spec: JobSpec, key: str) -> PortBinding | None:
    """Where `task` listens for what its own version of the spec publishes under `key`."""
    for own in openings(spec, image_ports(task, spec)):
        if own.key == key:
            for binding in task.status.ports:
                if (binding.container_port, binding.protocol) == (own.port.container_port, own.port.protocol):
                    return binding if binding.host_port else None
    return None


def _endpoint(state: State, task: Task, binding: PortBinding) -> Endpoint:
    node = state.nodes.get(task.node_id)
    everywhere = binding.host_address in ANY_ADDRESS and node is not None
    return Endpoint(
        task_id=task.id,
        slot=task.slot,
        node_id=task.node_id,
        address=node.description.address if everywhere and node is not None else binding.host_address,
        port=binding.host_port,
    )
