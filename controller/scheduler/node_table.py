"""What the scheduler knows of every node, one numpy column per fact, kept true by what changed.

Owns the accounting: capacity, reservations, devices, tasks per node and per (job, node). A task holds its reservation
from its placement until it has ended, so one that is asked to stop still counts. Never chooses a node.

The order of rows depends on history, so nothing may be decided by it: ties are broken by `tie_breaks`, which depend on
node ids alone. Two tables with the same content give the same plan, whatever way they came about.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from common.model.device import DeviceGrant
from common.model.job import Constraint, DesiredState, Placement, Strategy, TaskSpec
from common.model.node import Availability, Node, NodeCondition, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from common.model.task import Task
from controller.scheduler.attributes import AttributeColumns
from controller.scheduler.demand import Demand
from controller.scheduler.devices import DeviceTable
from controller.scheduler.host_ports import HostPorts
from controller.scheduler.neighbours import Neighbours
from controller.scheduler.volumes import VolumeTable

Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

RESOURCES = ("cpu_millis", "memory_bytes")
"""First axis of the resource columns: the fields of `Resources`, in order."""
IMAGE_RUNTIMES = ("docker", "fake")
PROCESS_RUNTIMES = ("process", "fake")
"""Which runtimes can run a task with an image, and one without."""
NODE_STATUSES = tuple(NodeStatus)
AVAILABILITIES = tuple(Availability)
_STANDING_KEPT = 64
"""Masks of a byte per node: more different wishes than a pass usually has."""
_NAMES_KEPT = 1_024
"""Names of jobs without tasks, before they are looked through."""


class NodeLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What is set aside on one node."""

    capacity: Resources = Resources()
    reserved: Resources = Resources()
    tasks: int = 0


class NodeTable:
    """See the module. Columns are public to the scheduler and must not be written from outside.

    Every column has one entry per row; rows without a node (`known` false) hold what is still reserved on a node that
    was removed, or nothing.
    """

    def __init__(self, rows: int = 16, strategy: Strategy = Strategy.SPREAD) -> None:
        self.known = np.zeros(rows, np.bool_)
        self.status = np.zeros(rows, np.int8)
        """Place in `NODE_STATUSES`."""
        self.availability = np.zeros(rows, np.int8)
        """Place in `AVAILABILITIES`."""
        self.staying = np.zeros(rows, np.bool_)
        """Its tasks are expected to stay: neither draining nor down."""
        self.runs_image = np.zeros(rows, np.bool_)
        self.runs_process = np.zeros(rows, np.bool_)
        self.capacity = np.zeros((len(RESOURCES), rows), np.int64)
        self.reserved = np.zeros((len(RESOURCES), rows), np.int64)
        self.free = np.zeros((len(RESOURCES), rows), np.int64)
        """Capacity less reservations; negative when a node shrank under its tasks."""
        self.share = np.zeros((len(RESOURCES), rows), np.float64)
        """Reserved of capacity; 1 where there is no capacity."""
        self.per_unit = np.zeros((len(RESOURCES), rows), np.float64)
        """What one unit adds to `share`."""
        self.tasks = np.zeros(rows, np.int64)
        self.devices = DeviceTable(rows)
        self.host_ports = HostPorts()
        self.volumes = VolumeTable()
        self.neighbours = Neighbours()
        self.strategy = strategy
        """Of jobs that do not say theirs."""
        self.demand = Demand()
        """Of the tasks that are placed or wait for it, as `follow_task` saw them."""
        self._ties = np.zeros(rows, np.uint64)
        self._nodes: list[Node | None] = [None] * rows
        self._conditions: list[NodeCondition | None] = [None] * rows
        self._row_of: dict[str, int] = {}
        self._ids: list[str] = [""] * rows
        self._unused = list(range(rows - 1, -1, -1))
        self._tasks_of_job: dict[str, dict[int, int]] = {}
        self._own_jobs: set[str] = set()
        """Jobs whose inner mapping no copy shares."""
        self._names: dict[str, str] = {}
        """Full names of jobs by id."""
        self._ids_named: dict[str, tuple[str, ...]] = {}
        """The other way round: a job that was removed may still have tasks when its successor has some."""
        self._attributes = AttributeColumns(rows)
        self._standing: dict[Hashable, Bools] = {}
        """What nodes alone decide, by what asks for it; until a node changes."""

    def copy(self) -> NodeTable:
        """An independent table: columns are copied, counts per job are shared until one side changes them."""
        self._own_jobs = set()
        twin = copy.copy(self)
        parts = {name: part.copy() for name, part in vars(self).items() if not isinstance(part, Strategy)}
        vars(twin).update(parts)
        return twin

    # --- nodes

    def set_node(self, node: Node, condition: NodeCondition) -> None:
        """Take a node up, or take over what changed about it. Its reservations stay as they are."""
        row = self._row(node.id)
        self._standing.clear()
        self._nodes[row], self._conditions[row] = node, condition
        self.known[row] = True
        self.status[row] = NODE_STATUSES.index(condition.status)
        self.availability[row] = AVAILABILITIES.index(node.availability)
        self.staying[row] = node.availability is not Availability.DRAINING and condition.status is not NodeStatus.DOWN
        able = {runtime.name for runtime in runtimes_of(node, condition) if runtime.ready}
        self.runs_image[row] = not able.isdisjoint(IMAGE_RUNTIMES)
        self.runs_process[row] = not able.isdisjoint(PROCESS_RUNTIMES)
        self._set_capacity(row, node.description.capacity)
        self.devices.set_node(row, node.description.devices)
        self.volumes.set_node(row, node.volumes)
        self._attributes.set(row, node)

    def remove_node(self, node_id: str) -> None:
        """Forget a node. What its tasks hold is remembered until they are removed, should it come back."""
        row = self._row_of.get(node_id)
        if row is None or not self.known[row]:
            return
        self._standing.clear()
        self._nodes[row] = self._conditions[row] = None
        for column in (self.known, self.staying, self.runs_image, self.runs_process):
            column[row] = False
        self._set_capacity(row, Resources())
        self.devices.set_node(row, ())
        self.volumes.set_node(row, ())
        self._release(row)

    # --- tasks

    def add_task(self, node_id: str, spec: TaskSpec, job_id: str, devices: Sequence[DeviceGrant] = ()) -> None:
        """Set aside what one task needs, and the units it was given. Its node need not be known (yet)."""
        self.add_task_at(self._row(node_id), spec, job_id, devices)

    def add_task_at(self, row: int, spec: TaskSpec, job_id: str, devices: Sequence[DeviceGrant] = ()) -> None:
        """`add_task`, for who knows the row already."""
        self.devices.account(row, devices, 1)
        self._occupy(row, spec, job_id, 1)
        self._account(row, _amounts(spec), 1)
        self._count(job_id, row, 1)

    def remove_task(self, node_id: str, spec: TaskSpec, job_id: str, devices: Sequence[DeviceGrant] = ()) -> None:
        """Give back what `add_task` with the same arguments set aside."""
        row = self._row_of[node_id]
        assert self.tasks[row] > 0, f"node {node_id} has no task to remove"
        self.devices.account(row, devices, -1)
        self._occupy(row, spec, job_id, -1)
        self._account(row, _amounts(spec), -1)
        self._count(job_id, row, -1)
        self._release(row)

    def follow_task(self, before: Task | None, after: Task | None, spec: TaskSpec) -> None:
        """Take over one changed record of a task (None where it does not exist); `spec` is of its version."""
        if after is not None:
            self.name_job(after.job_id, after.job_name)
        held, holds = holds_reservation(before), holds_reservation(after)
        if held and not holds and before is not None:
            self.remove_task(before.node_id, spec, before.job_id, before.devices)
        elif holds and not held and after is not None:
            self.add_task(after.node_id, spec, after.job_id, after.devices)
        self.demand.add(spec, int(counts_as_demand(after)) - int(counts_as_demand(before)))

    def add_tasks(self, rows: Ints, times: Ints, spec: TaskSpec, job_id: str) -> None:
        """Set aside what `times[i]` tasks, which need no devices, need on each of the distinct `rows[i]`."""
        for resource, amount in enumerate(_amounts(spec)):
            self.reserved[resource, rows] += amount * times
        self.tasks[rows] += times
        self.free[:, rows] = self.capacity[:, rows] - self.reserved[:, rows]
        self.share[:, rows] = _share(self.reserved[:, rows], self.per_unit[:, rows])
        counts = self._writable_counts(job_id)
        for row, count in zip(rows.tolist(), times.tolist(), strict=True):
            counts[row] = counts.get(row, 0) + count
        if spec.ports or spec.placement.affinities or spec.container.mounts:
            for row in np.repeat(rows, times).tolist():
                self._occupy(row, spec, job_id, 1)

    def name_job(self, job_id: str, full_name: str) -> None:
        """What people call a job; forgotten some time after its last task."""
        if job_id not in self._names:
            if len(self._names) > 2 * len(self._tasks_of_job) + _NAMES_KEPT:
                self._forget_names()
            self._names[job_id] = full_name
            self._ids_named[full_name] = (*self._ids_named.get(full_name, ()), job_id)

    # --- lookups

    def name_of(self, job_id: str) -> str:
        return self._names.get(job_id, job_id)

    def counts_named(self, full_name: str) -> Ints | None:
        """Tasks by row of the job, or of the jobs, of a name; None when there are none anywhere."""
        columns = [self.job_counts(job_id) for job_id in self._ids_named.get(full_name, ())]
        there = [column for column in columns if column is not None]
        return np.asarray(np.sum(there, axis=0)) if there else None

    def strategy_of(self, placement: Placement) -> Strategy:
        return self.strategy if placement.strategy is Strategy.CLUSTER else placement.strategy

    @property
    def rows(self) -> int:
        """Length of every column."""
        return len(self.known)

    def row_of(self, node_id: str) -> int | None:
        """Row of a known node."""
        row = self._row_of.get(node_id)
        return row if row is not None and self.known[row] else None

    def node_id(self, row: int) -> str:
        return self._ids[row]

    def node_ids(self, rows: Ints) -> list[str]:
        return list(map(self._ids.__getitem__, rows.tolist()))

    def node(self, row: int) -> Node:
        node = self._nodes[row]
        assert node is not None, f"row {row} has no node"
        return node

    def condition(self, row: int) -> NodeCondition:
        condition = self._conditions[row]
        assert condition is not None, f"row {row} has no node"
        return condition

    def nodes(self) -> Iterator[tuple[Node, NodeCondition]]:
        """Every known node, by id."""
        for node_id in sorted(self._row_of):
            row = self._row_of[node_id]
            if self.known[row]:
                yield self.node(row), self.condition(row)

    def load_of(self, node_id: str) -> NodeLoad:
        """What is set aside on a node; nothing on one the table has never heard of."""
        row = self._row_of.get(node_id)
        if row is None:
            return NodeLoad()
        return NodeLoad(
            capacity=_resources(self.capacity[:, row].tolist()),
            reserved=_resources(self.reserved[:, row].tolist()),
            tasks=int(self.tasks[row]),
        )

    def tasks_of_job(self, job_id: str, node_id: str) -> int:
        row = self._row_of.get(node_id)
        return 0 if row is None else self._tasks_of_job.get(job_id, {}).get(row, 0)

    def rows_of_job(self, job_id: str) -> Mapping[int, int]:
        """Tasks of one job by row, where it has any."""
        return self._tasks_of_job.get(job_id, {})

    def job_counts(self, job_id: str) -> Ints | None:
        """Tasks of one job by row; None when it has none anywhere."""
        counts = self._tasks_of_job.get(job_id)
        if counts is None:
            return None
        column = np.zeros(self.rows, np.int64)
        column[np.fromiter(counts.keys(), np.int64, len(counts))] = np.fromiter(counts.values(), np.int64, len(counts))
        return column

    def column_of(self, counts: Iterable[tuple[str, int]]) -> Ints:
        """Numbers by node id as a column; of unknown nodes they are left out."""
        column = np.zeros(self.rows, np.int64)
        for node_id, count in counts:
            row = self._row_of.get(node_id)
            if row is not None:
                column[row] = count
        return column

    def codes(self, attribute: str) -> Ints:
        """An attribute's value by row, as a number that means nothing but "the same value"; 0 where it is missing."""
        return self._attributes.column(attribute, self._nodes).codes

    def holds(self, constraint: Constraint) -> Bools:
        """Rows on which a constraint holds; without the attribute only those that say what must not be do."""
        return self._attributes.column(constraint.attribute, self._nodes).holds(constraint)

    def standing(self, key: Hashable, make: Callable[[], Bools]) -> Bools:
        """What only the nodes themselves decide, made once for each key for as long as no node changes.

        `make` gives a fresh mask. Jobs ask for few different things of nodes, and most of the cost of a placement was
        to find out for each task anew which nodes are ready.
        """
        mask = self._standing.get(key)
        if mask is None:
            if len(self._standing) >= _STANDING_KEPT:
                self._standing.clear()
            mask = self._standing[key] = make()
            mask.flags.writeable = False
        return mask

    def load_after(self, need: Resources, rows: Ints | slice, times: Ints | int = 1) -> Floats:
        """The larger share of CPU and memory that is reserved once `times` more such tasks are."""
        cpu = self.share[0, rows] + self.per_unit[0, rows] * (need.cpu_millis * times)
        memory = self.share[1, rows] + self.per_unit[1, rows] * (need.memory_bytes * times)
        loads: Floats = np.maximum(cpu, memory, out=cpu)
        return loads

    def tie_breaks(self, rows: Ints, salt: int) -> npt.NDArray[np.uint64]:
        """An order of rows that depends on `salt` and the nodes' ids only: how far each is from `salt` on around a ring
        on which ids put them. Of any set of rows the first one can so be found without looking at all."""
        return self._ties[rows] - np.uint64(salt)

    # --- rows

    def _row(self, node_id: str) -> int:
        row = self._row_of.get(node_id)
        if row is None:
            if not self._unused:
                self._grow()
            row = self._unused.pop()
            self._row_of[node_id], self._ids[row] = row, node_id
            self._ties[row] = int.from_bytes(hashlib.blake2b(node_id.encode(), digest_size=8).digest(), "big")
        return row

    def _release(self, row: int) -> None:
        if not self.known[row] and not self.tasks[row]:
            del self._row_of[self._ids[row]]
            self._ids[row] = ""
            self.devices.release(row)
            self._unused.append(row)

    def _grow(self) -> None:
        before, more = self.rows, self.rows // 4 + 16
        self._standing.clear()
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                extra = np.full((*column.shape[:-1], more), 0, column.dtype)
                setattr(self, name, np.concatenate((column, extra), axis=-1))
        self._nodes += [None] * more
        self._conditions += [None] * more
        self._ids += [""] * more
        self._unused += range(before + more - 1, before - 1, -1)
        self._attributes.grow(self.rows)
        self.devices.grow(self.rows)

    # --- accounting

    def _set_capacity(self, row: int, capacity: Resources) -> None:
        for resource, amount in enumerate((capacity.cpu_millis, capacity.memory_bytes)):
            self.capacity[resource, row] = amount
            self.per_unit[resource, row] = 1.0 / amount if amount > 0 else 0.0
        self._derive(row)

    def _occupy(self, row: int, spec: TaskSpec, job_id: str, change: int) -> None:
        """What most tasks have none of."""
        if spec.ports:
            self.host_ports.account(row, spec, job_id, change)
        if spec.placement.affinities:
            self.neighbours.account(row, spec, job_id, change)
        if spec.container.mounts:
            self.volumes.account(row, spec, change)

    def _forget_names(self) -> None:
        self._names = {job_id: name for job_id, name in self._names.items() if job_id in self._tasks_of_job}
        self._ids_named = {}
        for job_id, name in self._names.items():
            self._ids_named[name] = (*self._ids_named.get(name, ()), job_id)

    def _account(self, row: int, amounts: tuple[int, ...], sign: int) -> None:
        for resource, amount in enumerate(amounts):
            if amount:
                self.reserved[resource, row] += sign * amount
        self.tasks[row] += sign
        self._derive(row)

    def _derive(self, row: int) -> None:
        """Bring the columns that follow from others up to date, always from the integers: no error adds up."""
        for resource in range(len(RESOURCES)):
            reserved, per_unit = self.reserved.item(resource, row), self.per_unit.item(resource, row)
            self.free[resource, row] = self.capacity.item(resource, row) - reserved
            self.share[resource, row] = reserved * per_unit if per_unit else 1.0

    def _count(self, job_id: str, row: int, change: int) -> None:
        counts = self._writable_counts(job_id)
        count = counts.get(row, 0) + change
        assert count >= 0, f"node {self._ids[row]} has no task of job {job_id} to remove"
        if count:
            counts[row] = count
            return
        del counts[row]
        if not counts:
            del self._tasks_of_job[job_id]
            self._own_jobs.discard(job_id)

    def _writable_counts(self, job_id: str) -> dict[int, int]:
        if job_id not in self._own_jobs:
            self._tasks_of_job[job_id] = dict(self._tasks_of_job.get(job_id, {}))
            self._own_jobs.add(job_id)
        return self._tasks_of_job[job_id]


def holds_reservation(task: Task | None) -> bool:
    """Whether a task counts on its node: placed and not known to have ended. A lost one may still run."""
    return task is not None and bool(task.node_id) and not task.ended


def counts_as_demand(task: Task | None) -> bool:
    """Whether a task says something about what this cluster runs: it is placed, or waits for a node."""
    waits = task is not None and not task.node_id and task.desired is DesiredState.RUN and not task.ended
    return waits or holds_reservation(task)


def runtimes_of(node: Node, condition: NodeCondition) -> Sequence[RuntimeStatus]:
    """What the node's agent said last of its runtimes; what it registered with, until the first heartbeat."""
    return condition.runtimes or node.description.runtimes


def build_table(nodes: Iterable[tuple[Node, NodeCondition]], tasks: Iterable[tuple[Task, TaskSpec]] = ()) -> NodeTable:
    """A table from scratch: nodes with their conditions, and all tasks with the specs of their versions."""
    table = NodeTable()
    for node, condition in nodes:
        table.set_node(node, condition)
    for task, spec in tasks:
        table.follow_task(None, task, spec)
    return table


def _amounts(spec: TaskSpec) -> tuple[int, ...]:
    return spec.reservations.cpu_millis, spec.reservations.memory_bytes


def _resources(amounts: Sequence[int]) -> Resources:
    return Resources(cpu_millis=amounts[0], memory_bytes=amounts[1])


def _share(reserved: Ints, per_unit: Floats) -> Floats:
    return np.where(per_unit > 0, reserved * per_unit, 1.0)
