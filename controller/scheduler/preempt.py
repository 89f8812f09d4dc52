"""Whom a task that fits nowhere may displace: on which node, and which tasks of lower priority. Moves nobody.

Only strictly lower priorities, never an exclusive task, and no more tasks than it takes: putting any one of the victims
back would take the room away again. Among the nodes the one wins whose highest victim is lowest, then the one with
fewest victims, then the least sum of their priorities, then the least disturbance. (The order is that of Kubernetes'
default preemption, and so is giving tasks back one by one, the most important first; that one or two victims are looked
for by trying, since giving back alone does not find the fewest, is ours.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

import msgspec
import numpy as np

from common.model.device import DeviceGrant
from common.model.job import TaskSpec
from common.model.resources import Resources
from controller.scheduler.filters import (
    FILTERS,
    AvailabilityFilter,
    ConstraintFilter,
    RuntimeFilter,
    StatusFilter,
    feasible,
)
from controller.scheduler.gradient import Gradient
from controller.scheduler.node_table import RESOURCES, Bools, Ints, NodeTable
from controller.scheduler.values import Request
from controller.scheduler.verdicts import node_reasons

NODES_COMPARED = 32
"""Nodes on which victims are looked for before the best set is taken: each costs a millisecond."""
VICTIMS_LIMIT = 32
"""Of one task: a preemption is one commit of the store, and one that stops half a node is nobody's intention."""
PAIRS_AMONG = 24
"""With more tasks than this pairs (276 of 24) are not tried: giving back finds a small set, if not always the least."""

_UNMOVED = (StatusFilter, AvailabilityFilter, RuntimeFilter, ConstraintFilter)
"""Filters that no other task's going changes."""


class Occupant(msgspec.Struct, frozen=True, kw_only=True):
    """A task that holds something on a node."""

    task_id: str
    job_id: str
    spec: TaskSpec
    devices: tuple[DeviceGrant, ...] = ()
    priority: int = 0
    disturbance: int = 0
    """What its going costs: 0 nothing (it is relieved first), 1 a replica for a while, 2 the work it has done."""
    leaving: bool = False
    """It goes anyway: its room counts as free."""
    stays: bool = False
    """It cannot be displaced, or does not go although it was told to."""

    @property
    def displaceable(self) -> bool:
        return not self.leaving and not self.stays and not self.spec.exclusive


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """A job of lower priority."""

    job_id: str
    most: Resources
    """What any one of its tasks reserves at most."""


class Preemption(msgspec.Struct, frozen=True, kw_only=True):
    """Room for one task, once the victims are gone. Without victims: what leaves by itself is enough."""

    task_id: str
    node_id: str
    victims: tuple[str, ...] = ()
    devices: tuple[DeviceGrant, ...] = ()
    """The units it is to get."""


Occupants = Callable[[str], Sequence[Occupant]]
"""Every task that holds something on a node, by the node's id."""


def preempt(table: NodeTable, request: Request, rivals: Iterable[Rival], occupants: Occupants) -> Preemption | None:
    """Whom the first task of a request may displace where; None when that helps nowhere.

    `rivals` are all jobs of a lower priority. The table says what all occupants hold, and is left as it was. Nodes that
    the request avoids are taken only when no other would do.
    """
    found: list[tuple[tuple[object, ...], int, tuple[Occupant, ...]]] = []
    rows = candidates(table, request, rivals)
    ties = table.tie_breaks(rows, 0)
    for place in np.lexsort((ties, _avoided(table, request, rows))).tolist():
        row = int(rows[place])
        attempt = _Attempt(table, request, row, occupants(table.node(row).id))
        victims = attempt.victims()
        if victims is not None:
            avoided = table.node(row).id in request.avoid
            found.append(((avoided, *_price(victims), int(ties[place])), row, victims))
            if len(found) == NODES_COMPARED:
                break
    if not found:
        return None
    _, row, victims = min(found, key=lambda entry: entry[0])
    return Preemption(
        task_id=request.task_ids[0],
        node_id=table.node(row).id,
        victims=tuple(sorted(victim.task_id for victim in victims)),
        devices=_Attempt(table, request, row, occupants(table.node(row).id)).grants(victims),
    )


def comes_free(table: NodeTable, request: Request, node_id: str, occupants: Occupants) -> bool:
    """Whether a node will have the room as soon as what leaves it has left. The table is left as it was."""
    row = table.row_of(node_id)
    return row is not None and _Attempt(table, request, row, occupants(node_id)).victims_needed() == 0


def candidates(table: NodeTable, request: Request, rivals: Iterable[Rival]) -> Ints:
    """Rows that suit the request, hold tasks of rivals, and might have the room without them."""
    here, most = np.zeros(table.rows, np.bool_), table.free.copy()
    for rival in rivals:
        counts = table.job_counts(rival.job_id)
        if counts is not None:
            here |= counts > 0
            for resource, name in enumerate(RESOURCES):
                most[resource] += counts * getattr(rival.most, name)
    for resource, name in enumerate(RESOURCES):
        need: int = getattr(request.spec.task.reservations, name)
        if need:
            here &= most[resource] >= need
    return np.flatnonzero(here & suitable(table, request))


def suitable(table: NodeTable, request: Request) -> Bools:
    """Rows that would take the request if they were empty, as far as anything but room is concerned."""
    result = table.known
    for each in FILTERS:
        passing = each.passes(table, request) if isinstance(each, _UNMOVED) else None
        if passing is not None:
            result = result & passing
    return result


def hindrance(table: NodeTable, request: Request, rivals: Sequence[Rival], occupants: Occupants) -> str:
    """Why displacing others does not help a request for which `preempt` finds nothing, for people."""
    name = f"priority {request.priority}"
    fitting = suitable(table, request)
    holding = [row for row in np.flatnonzero(fitting).tolist() if _lower(request, occupants(table.node(row).id))]
    if not holding:
        return f"no node that suits it runs anything that its {name} may displace"
    best = max(holding, key=lambda row: (_gain(request, occupants(table.node(row).id)), table.node(row).name))
    node = table.node(best)
    lower = _lower(request, occupants(node.id))
    what = "1 task" if len(lower) == 1 else f"{len(lower)} tasks"
    grounds = _Attempt(table, request, best, occupants(node.id)).grounds()
    if not grounds:
        return f"more than {VICTIMS_LIMIT} tasks of lower priority would have to go from node {node.name}"
    return f"even without the {what} of lower priority on it, node {node.name} would not do: {grounds}"


class _Attempt:
    """One node with its occupants, some of which are taken off the books for a while."""

    def __init__(self, table: NodeTable, request: Request, row: int, occupants: Sequence[Occupant]) -> None:
        self._table, self._request, self._row = table, request, row
        self._node_id = table.node(row).id
        self._leaving = [occupant for occupant in occupants if occupant.leaving]
        self._lower = _lower(request, occupants)
        self._capacity = table.capacity[:, row]

    def victims(self) -> tuple[Occupant, ...] | None:
        """The tasks that have to go, cheapest set first; None when even all of them would not be enough."""
        self._take(self._leaving)
        try:
            return self._victims()
        finally:
            self._give_back(self._leaving)

    def victims_needed(self) -> int | None:
        victims = self.victims()
        return None if victims is None else len(victims)

    def grants(self, victims: Sequence[Occupant]) -> tuple[DeviceGrant, ...]:
        """The units that the task gets when the victims are gone."""
        if not self._request.spec.task.devices:
            return ()
        gone = (*self._leaving, *victims)
        self._take(gone)
        try:
            return Gradient(self._table).grants(self._request, self._row)
        finally:
            self._give_back(gone)

    def grounds(self) -> str:
        """What would still be in the way if all tasks of lower priority were gone; empty when nothing would be."""
        gone = (*self._leaving, *self._lower)
        only = np.zeros(self._table.rows, np.bool_)
        only[self._row] = True
        self._take(gone)
        try:
            return "; ".join(reason.text for reason in node_reasons(self._table, self._request, only))
        finally:
            self._give_back(gone)

    def _victims(self) -> tuple[Occupant, ...] | None:
        if self._fits():
            return ()
        pool = self._pool()
        if pool is None:
            return None
        few = next((few for few in self._few(pool) if self._fits_without(few)), None)
        if few is not None:
            return few
        found = [self._given_back(pool, large_first=large_first) for large_first in (False, True)]
        victims = min(found, key=lambda victims: (_price(victims), [victim.task_id for victim in victims]))
        return victims if len(victims) <= VICTIMS_LIMIT else None

    def _pool(self) -> list[Occupant] | None:
        """The tasks of the lowest priorities that are enough together; None when not even all are."""
        for highest in sorted({occupant.priority for occupant in self._lower}):
            pool = [occupant for occupant in self._lower if occupant.priority <= highest]
            if self._fits_without(pool):
                return pool
        return None

    def _few(self, pool: Sequence[Occupant]) -> Iterator[tuple[Occupant, ...]]:
        """Single tasks, then pairs, that free enough CPU and memory; the cheapest first."""
        for count in (1, 2) if len(pool) <= PAIRS_AMONG else (1,):
            sets = [few for few in combinations(pool, count) if self._might_do(few)]
            yield from sorted(
                sets, key=lambda few: (_price(few), sum(map(self._size, few)), [one.task_id for one in few])
            )

    def _given_back(self, pool: Sequence[Occupant], *, large_first: bool) -> tuple[Occupant, ...]:
        """What is left of the pool when everything without which it still fits was given back, the best first."""
        sign = -1 if large_first else 1

        def rank(occupant: Occupant) -> tuple[object, ...]:
            return -occupant.priority, -occupant.disturbance, sign * self._size(occupant), occupant.task_id

        self._take(pool)
        victims = []
        for occupant in sorted(pool, key=rank):
            self._give_back((occupant,))
            if not self._fits():
                self._take((occupant,))
                victims.append(occupant)
        self._give_back(victims)
        return tuple(victims)

    def _fits_without(self, gone: Sequence[Occupant]) -> bool:
        self._take(gone)
        fits = self._fits()
        self._give_back(gone)
        return fits

    def _fits(self) -> bool:
        return bool(feasible(self._table, self._request)[self._row])

    def _might_do(self, gone: Sequence[Occupant]) -> bool:
        need = self._request.spec.task.reservations
        freed = Resources()
        for occupant in gone:
            freed = freed + occupant.spec.reservations
        free_cpu, free_memory = self._table.free[:, self._row].tolist()
        return (not need.cpu_millis or need.cpu_millis <= free_cpu + freed.cpu_millis) and (
            not need.memory_bytes or need.memory_bytes <= free_memory + freed.memory_bytes
        )

    def _size(self, occupant: Occupant) -> float:
        """The larger share of the node that it holds."""
        held = occupant.spec.reservations
        shares = zip((held.cpu_millis, held.memory_bytes), self._capacity.tolist(), strict=True)
        return max(amount / capacity if capacity else 0.0 for amount, capacity in shares)

    def _take(self, gone: Iterable[Occupant]) -> None:
        for occupant in gone:
            self._table.remove_task(self._node_id, occupant.spec, occupant.job_id, occupant.devices)

    def _give_back(self, gone: Iterable[Occupant]) -> None:
        for occupant in gone:
            self._table.add_task_at(self._row, occupant.spec, occupant.job_id, occupant.devices)


def _lower(request: Request, occupants: Iterable[Occupant]) -> list[Occupant]:
    return [each for each in occupants if each.displaceable and each.priority < request.priority]


def _price(victims: Sequence[Occupant]) -> tuple[int, int, int, int]:
    """What a set of victims costs: the highest priority, their number, the sum of priorities, the disturbance."""
    return (
        max((victim.priority for victim in victims), default=-1),
        len(victims),
        sum(victim.priority for victim in victims),
        sum(victim.disturbance for victim in victims),
    )


def _gain(request: Request, occupants: Sequence[Occupant]) -> tuple[int, int]:
    lower = _lower(request, occupants)
    cpu = sum(occupant.spec.reservations.cpu_millis for occupant in lower)
    return cpu, sum(occupant.spec.reservations.memory_bytes for occupant in lower)


def _avoided(table: NodeTable, request: Request, rows: Ints) -> Bools:
    return np.isin(table.node_ids(rows), request.avoid)
