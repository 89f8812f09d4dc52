"""Which nodes could take a task, and on what grounds the others cannot. Never ranks nodes.

Each filter answers twice: `passes` as one vector for the hot path, `refusals` with numbers for people. Both say the
same: a node passes exactly when no refusal names it (held by a property test).
(Filters that explain themselves are swarmkit's, manager/scheduler/pipeline.go.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from common.model.device import WHOLE_MILLIS, DeviceRequest
from common.model.job import Affinity, Constraint, Mount
from common.model.node import Availability, NodeStatus
from common.model.verdict import Reason
from common.policy import Ask, allows, asks, lines_of, refused, words_of
from controller.scheduler.attributes import attribute_value
from controller.scheduler.host_ports import HostPort, host_ports
from controller.scheduler.neighbours import allowed
from controller.scheduler.node_table import (
    AVAILABILITIES,
    IMAGE_RUNTIMES,
    NODE_STATUSES,
    PROCESS_RUNTIMES,
    RESOURCES,
    Bools,
    Ints,
    NodeTable,
    runtimes_of,
)
from controller.scheduler.values import Request
from controller.scheduler.volumes import volumes_of

UNLIMITED = 2**40
"""Room on a node that nothing limits: more tasks than there will be, and a sum over all nodes still fits 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Nodes that are refused on the same ground."""

    nodes: Bools
    on: Callable[[int], Reason]
    """The ground as it is on one of these nodes, by row; without text, which `verdicts` gives it."""
    missing: Ints | None = None
    """How much is short by row, where that can be said: the node with the least is the one to tell about."""


class Filter(Protocol):
    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        """Rows that pass; None when all do. True for a row without a node does no harm: its status is refused."""

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        """The same with grounds; a ground may hold on no node at all."""


class StatusFilter:
    """Only nodes whose agent is connected and was heard of in time."""

    _READY = NODE_STATUSES.index(NodeStatus.READY)

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        passing: Bools = (table.status == self._READY) & table.known
        return passing

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        for code, status in enumerate(NODE_STATUSES):
            if code != self._READY:
                on = partial(_state, table, "status", need=NodeStatus.READY.value, have=status.value)
                yield Refusal(nodes=(table.status == code) & table.known, on=on)


class AvailabilityFilter:
    """Only nodes on which the operator wants new tasks. A cordon does not concern tasks that belong to the node."""

    _ACTIVE = AVAILABILITIES.index(Availability.ACTIVE)
    _DRAINING = AVAILABILITIES.index(Availability.DRAINING)

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        per_node = request.spec.mode.per_node
        passing: Bools = table.availability != self._DRAINING if per_node else table.availability == self._ACTIVE
        return passing

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        for code, availability in enumerate(AVAILABILITIES):
            if code == self._DRAINING or (code != self._ACTIVE and not request.spec.mode.per_node):
                on = partial(_state, table, "availability", need=Availability.ACTIVE.value, have=availability.value)
                yield Refusal(nodes=(table.availability == code) & table.known, on=on)


class TargetFilter:
    """Only the node that the task is to move to, where there is one."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        if not request.only:
            return None
        mask = np.zeros(table.rows, np.bool_)
        row = table.row_of(request.only)
        if row is not None:
            mask[row] = True
        return mask

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        mask = self.passes(table, request)
        if mask is not None:
            yield Refusal(nodes=~mask & table.known, on=partial(_target, table, request))


class RuntimeFilter:
    """Only nodes with a runtime that answers: for containers when the job has an image, for processes otherwise."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        return table.runs_image if request.spec.task.container.image else table.runs_process

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        able = IMAGE_RUNTIMES if request.spec.task.container.image else PROCESS_RUNTIMES
        mask = self.passes(table, request)
        assert mask is not None
        yield Refusal(nodes=~mask & table.known, on=partial(_runtime, table, able))


class ConstraintFilter:
    """Only nodes on which every constraint holds; on an attribute the node lacks only `!=` and `not in` do."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        result: Bools | None = None
        for constraint in request.spec.task.placement.constraints:
            holds = table.holds(constraint)
            result = holds if result is None else result & holds
        return result

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        for constraint in request.spec.task.placement.constraints:
            nodes = ~table.holds(constraint) & table.known
            yield Refusal(nodes=nodes, on=partial(_constraint, table, constraint))


class ResourceFilter:
    """Only nodes with enough unreserved. A task that reserves nothing of a resource fits whatever is left of it."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        need = request.spec.task.reservations
        result: Bools | None = table.free[0] >= need.cpu_millis if need.cpu_millis else None
        if need.memory_bytes:
            memory: Bools = table.free[1] >= need.memory_bytes
            result = memory if result is None else result & memory
        return result

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        for resource, name in enumerate(RESOURCES):
            need: int = getattr(request.spec.task.reservations, name)
            if need:
                missing = need - table.free[resource]
                on = partial(_resource, table, resource, need)
                yield Refusal(nodes=(missing > 0) & table.known, on=on, missing=missing)


class DeviceFilter:
    """Only nodes with enough free units, or a free share of one, of an accepted model."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        result: Bools | None = None
        for part in request.spec.task.devices:
            fits = table.devices.fits(part)
            result = fits if result is None else result & fits
        return result

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        for part in request.spec.task.devices:
            nodes = ~table.devices.fits(part) & table.known
            yield Refusal(nodes=nodes, on=partial(_device, table, part), missing=table.devices.missing(part))


class HostPortFilter:
    """Only nodes on which nobody has a port that the task binds there."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        result: Bools | None = None
        for port in host_ports(request.spec.task) if request.spec.task.ports else ():
            free = table.host_ports.free(port, table.rows)
            if free is not None:
                result = free if result is None else result & free
        return result

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        for port in host_ports(request.spec.task):
            for job_ids, rows in table.host_ports.holders(port):
                mask = np.zeros(table.rows, np.bool_)
                mask[rows] = True
                yield Refusal(nodes=mask & table.known, on=partial(_host_port, table, port, job_ids))


class AffinityFilter:
    """Only nodes beside the jobs that a task must be beside, and apart from those where either must be apart."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        result: Bools | None = None
        for affinity in request.spec.task.placement.affinities:
            rows = allowed(table, affinity, request.spec.full_name) if affinity.required else None
            if rows is not None:
                result = rows if result is None else result & rows
        for _, off in table.neighbours.kept_off(table, request.spec.full_name, request.job_id):
            result = ~off if result is None else result & ~off
        return result

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        for affinity in request.spec.task.placement.affinities:
            rows = allowed(table, affinity, request.spec.full_name) if affinity.required else None
            if rows is not None:
                yield Refusal(nodes=~rows & table.known, on=partial(_affinity, table, affinity))
        for other, off in table.neighbours.kept_off(table, request.spec.full_name, request.job_id):
            yield Refusal(nodes=off & table.known, on=partial(_kept_off, table, other))


class VolumeFilter:
    """Only nodes where a task's volumes are, and where nobody else writes those it must write alone."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        result: Bools | None = None
        for mount in volumes_of(request.spec.task):
            fits = table.volumes.fits(mount, table.rows, _wanted(table, request))
            result = fits if result is None else result & fits
        return result

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        for mount in volumes_of(request.spec.task):
            refused = ~table.volumes.fits(mount, table.rows, _wanted(table, request)) & table.known
            written = np.zeros(table.rows, np.bool_)
            written[list(table.volumes.written_at(mount))] = True
            yield Refusal(nodes=refused & written, on=partial(_volume_writer, table, mount))
            yield Refusal(nodes=refused & ~written, on=partial(_volume, table, mount))


class PolicyFilter:
    """Only nodes whose policy allows what a task wants of them beyond its container."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        result: Bools | None = None
        for ask in asks(request.spec.task.container):
            allowing = _allowing(table, ask)
            result = allowing if result is None else result & allowing
        return result

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        """Nodes that do not allow the same things are refused on one ground."""
        container = request.spec.task.container
        if not asks(container):
            return
        lacking: dict[tuple[Ask, ...], Bools] = {}
        for row in np.flatnonzero(table.known).tolist():
            if lack := refused(table.node(row).description.policy, container):
                lacking.setdefault(lack, np.zeros(table.rows, np.bool_))[row] = True
        for lack, nodes in lacking.items():
            yield Refusal(nodes=nodes, on=partial(_policy, table, lack))


class MaxPerNodeFilter:
    """Only nodes with fewer tasks of the job than `max_replicas_per_node`."""

    def passes(self, table: NodeTable, request: Request) -> Bools | None:
        limit = request.spec.task.placement.max_replicas_per_node
        counts = table.job_counts(request.job_id) if limit else None
        return None if counts is None else counts < limit

    def refusals(self, table: NodeTable, request: Request) -> Iterator[Refusal]:
        mask = self.passes(table, request)
        if mask is not None:
            yield Refusal(nodes=~mask & table.known, on=partial(_max_per_node, table, request))


FILTERS: tuple[Filter, ...] = (
    StatusFilter(),
    AvailabilityFilter(),
    TargetFilter(),
    RuntimeFilter(),
    ConstraintFilter(),
    ResourceFilter(),
    DeviceFilter(),
    HostPortFilter(),
    VolumeFilter(),
    PolicyFilter(),
    AffinityFilter(),
    MaxPerNodeFilter(),
)


_STANDING = tuple(
    each
    for each in FILTERS
    if isinstance(each, (StatusFilter, AvailabilityFilter, RuntimeFilter, ConstraintFilter, PolicyFilter))
)
"""Those that look at nodes alone, and not at what runs there: see `asked_of_nodes`."""
_CHANGING = tuple(each for each in FILTERS if each not in _STANDING)


def feasible(table: NodeTable, request: Request) -> Bools:
    """Rows that could take one task of the request now; not to be written to."""
    return _passing(table, request, _CHANGING, standing(table, request))


def standing(table: NodeTable, request: Request) -> Bools:
    """Rows that pass what nodes alone decide, whatever runs there; not to be written to."""
    return table.standing(asked_of_nodes(request), lambda: _passing(table, request, _STANDING, table.known))


def asked_of_nodes(request: Request) -> Hashable:
    """Everything of a request that `standing` depends on."""
    task = request.spec.task
    return bool(task.container.image), request.spec.mode.per_node, task.placement.constraints, asks(task.container)


def _passing(table: NodeTable, request: Request, filters: Iterable[Filter], among: Bools) -> Bools:
    for each in filters:
        passing = each.passes(table, request)
        if passing is not None:
            among = among & passing
    return among


def refusals(table: NodeTable, request: Request) -> list[Refusal]:
    """Every ground on which at least one node is refused, in the order of `FILTERS`."""
    return [refusal for each in FILTERS for refusal in each.refusals(table, request) if refusal.nodes.any()]


def room(table: NodeTable, request: Request, rows: Ints) -> Ints:
    """How many tasks of the request each of these feasible rows could take, at most `UNLIMITED`."""
    result: Ints = np.full(len(rows), UNLIMITED, np.int64)
    for resource, name in enumerate(RESOURCES):
        need: int = getattr(request.spec.task.reservations, name)
        if need:
            np.minimum(result, table.free[resource, rows] // need, out=result)
    for part in request.spec.task.devices:
        np.minimum(result, table.devices.room(part, rows), out=result)
    alone = any(mount.sole_writer for mount in volumes_of(request.spec.task))
    if alone or (request.spec.task.ports and host_ports(request.spec.task)):
        np.minimum(result, 1, out=result)
    placement = request.spec.task.placement
    if placement.affinities and _apart_from_itself(request):
        np.minimum(result, 1, out=result)
    limit = placement.max_replicas_per_node
    if limit:
        counts = table.job_counts(request.job_id)
        np.minimum(result, limit if counts is None else limit - counts[rows], out=result)
    return result


def room_at_most(table: NodeTable, request: Request) -> int:
    """How many tasks of the request there would be room for if nothing ran anywhere; sometimes not even that many."""
    rows = np.flatnonzero(standing(table, request))
    result: Ints = np.full(len(rows), UNLIMITED, np.int64)
    for resource, name in enumerate(RESOURCES):
        need: int = getattr(request.spec.task.reservations, name)
        if need:
            np.minimum(result, table.capacity[resource, rows] // need, out=result)
    for part in request.spec.task.devices:
        np.minimum(result, table.devices.room_at_most(part, rows), out=result)
    limit = request.spec.task.placement.max_replicas_per_node
    return int(np.minimum(result, limit or UNLIMITED).sum())


def _apart_from_itself(request: Request) -> bool:
    name = request.spec.full_name
    return any(one.required and one.apart and one.job == name for one in request.spec.task.placement.affinities)


def _state(table: NodeTable, reason: str, row: int, *, need: str, have: str) -> Reason:
    return Reason(reason=reason, node=table.node(row).name, need=need, have=have)


def _target(table: NodeTable, request: Request, row: int) -> Reason:
    wanted = table.row_of(request.only)
    name = request.only if wanted is None else table.node(wanted).name
    return Reason(reason="target", node=table.node(row).name, need=name, have=table.node(row).name)


def _runtime(table: NodeTable, able: tuple[str, ...], row: int) -> Reason:
    node = table.node(row)
    there = [runtime for runtime in runtimes_of(node, table.condition(row)) if runtime.name in able]
    have = ", ".join(f"{runtime.name}, which {runtime.problem}" for runtime in there)
    return Reason(reason="runtime", node=node.name, resource=able[0], need=able[0], have=have, short=able[0])


def _constraint(table: NodeTable, constraint: Constraint, row: int) -> Reason:
    node = table.node(row)
    return Reason(
        reason="constraint",
        node=node.name,
        resource=constraint.attribute,
        need=constraint.wanted,
        have=attribute_value(node, constraint.attribute) or "",
    )


def _resource(table: NodeTable, resource: int, need: int, row: int) -> Reason:
    have = int(table.free[resource, row])
    return Reason(
        reason="resource",
        node=table.node(row).name,
        resource=RESOURCES[resource],
        need=str(need),
        have=str(have),
        short=str(need - have),
    )


def _device(table: NodeTable, part: DeviceRequest, row: int) -> Reason:
    have = table.devices.most_free(part, row)
    need = part.count if part.share_millis == WHOLE_MILLIS else part.share_millis / WHOLE_MILLIS
    return Reason(
        reason="device",
        node=table.node(row).name,
        resource=f"{part.kind} {' or '.join(part.models)}".rstrip(),
        need=f"{need:g}",
        have=f"{have:g}",
        short=f"{need - have:g}",
    )


def _wanted(table: NodeTable, request: Request) -> int:
    """How many tasks the job is to have once these are placed, those apart that are on nodes which are gone.

    Of a job with a task on each node every node has a volume of its own: as many as there are nodes.
    """
    if request.spec.mode.per_node:
        return table.rows + 1
    counts = table.job_counts(request.job_id)
    return len(request.task_ids) + (0 if counts is None else int(counts[table.staying & table.known].sum()))


def _allowing(table: NodeTable, ask: Ask) -> Bools:
    mask = np.zeros(table.rows, np.bool_)
    for row in np.flatnonzero(table.known).tolist():
        mask[row] = allows(table.node(row).description.policy, ask)
    return mask


def _volume(table: NodeTable, mount: Mount, row: int) -> Reason:
    there = sorted(table.node(at).name for at in table.volumes.places(mount) if table.known[at])
    nowhere = "no node, and external: Podium makes none" if mount.external else "a node that is not there any more"
    have = ", ".join(there) or nowhere
    return Reason(reason="volume", node=table.node(row).name, resource=mount.source, need=mount.source, have=have)


def _volume_writer(table: NodeTable, mount: Mount, row: int) -> Reason:
    return Reason(
        reason="volume-writer", node=table.node(row).name, resource=mount.source, need="alone", have="another task"
    )


def _policy(table: NodeTable, lack: tuple[Ask, ...], row: int) -> Reason:
    keys = ", ".join(dict.fromkeys(ask.key for ask in lack))
    return Reason(reason="policy", node=table.node(row).name, resource=keys, need=words_of(lack), have=lines_of(lack))


def _host_port(table: NodeTable, port: HostPort, job_ids: tuple[str, ...], row: int) -> Reason:
    number, protocol = port
    have = ", ".join(sorted(map(table.name_of, job_ids)))
    return Reason(
        reason="host-port",
        node=table.node(row).name,
        resource=f"{number}/{protocol.value}",
        need="free",
        have=have,
        short="1",
    )


def _affinity(table: NodeTable, affinity: Affinity, row: int) -> Reason:
    return Reason(
        reason="anti-affinity" if affinity.apart else "affinity",
        node=table.node(row).name,
        resource=affinity.job,
        need=str(affinity),
        have="there" if affinity.apart else "not there",
    )


def _kept_off(table: NodeTable, other: str, row: int) -> Reason:
    return Reason(
        reason="anti-affinity",
        node=table.node(row).name,
        resource=table.name_of(other),
        need=f"apart from {table.name_of(other)}, which must be apart from this job",
        have="there",
    )


def _max_per_node(table: NodeTable, request: Request, row: int) -> Reason:
    node, limit = table.node(row), request.spec.task.placement.max_replicas_per_node
    have = table.tasks_of_job(request.job_id, node.id)
    return Reason(
        reason="max-per-node", node=node.name, need=f"fewer than {limit}", have=str(have), short=str(have - limit + 1)
    )
