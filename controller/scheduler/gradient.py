"""How much less useful each possible placement would leave the free devices of a node. Ranks nothing by itself.

A free device is of use to a need when the rest of its node (CPU, memory, other units) lets such a task run there. The
use of a node is the mean over the needs of this cluster, weighted by how frequent they are; what a placement takes away
of it beyond what it uses is fragmentation, and the best node is the one where that grows least.
(Fragmentation Gradient Descent: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with
Fragmentation Gradient Descent", USENIX ATC 2023. Two things differ. The needs are learned from the tasks there are,
not given in advance. And for shares of a unit half of the weight is on how many such tasks the node's CPU and memory
carry: a device beside too little CPU is only partly of use, where the paper asks whether one more task fits.)
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.model.device import WHOLE_MILLIS, DeviceGrant, DeviceRequest
from controller.scheduler.demand import Need, need_of
from controller.scheduler.devices import DeviceColumns
from controller.scheduler.node_table import NodeTable
from controller.scheduler.usefulness import Usefulness
from controller.scheduler.values import Request

Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_NOTHING = Need(0, 0, ())
_EXACT = 1e-6
"""Losses that differ by less are the same: thousandths of a unit, added up in another order."""


class Gradient:
    """For one pass: the needs are taken as they are at its beginning, and what was computed is kept for its later
    decisions as far as nothing changed since. Tell it of every placement (`placed`)."""

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self._kinds: dict[str, _Kind] = {}
        for kind in sorted(table.devices.kinds):
            needs = table.demand.of_kind(kind)
            if needs:
                self._kinds[kind] = _Kind(table, table.devices.kinds[kind], needs)

    @property
    def active(self) -> bool:
        """Whether there is anything to tell nodes apart by."""
        return bool(self._kinds)

    def losses(self, request: Request) -> Floats:
        """By row, in thousandths of a unit; 0 for rows that could not take the request."""
        need = need_of(request.spec.task)
        losses = np.zeros(self._table.rows)
        for name, kind in self._kinds.items():
            losses += kind.look(need, _part(need, name)).losses
        return np.asarray(np.round(losses / _EXACT) * _EXACT)

    def grants(self, request: Request, row: int) -> tuple[DeviceGrant, ...]:
        """The units that a task of the request should get on a row that can take it."""
        need = need_of(request.spec.task)
        found: list[DeviceGrant] = []
        for part in need.devices:
            columns = self._table.devices.kinds[part.kind]
            units = np.flatnonzero(columns.usable(part, np.array([row]))[0])
            if part.share_millis < WHOLE_MILLIS and part.kind in self._kinds:
                units = self._kinds[part.kind].look(need, part).units[row : row + 1]
            found += columns.grants(row, part, units[: part.count].tolist())
        return tuple(found)

    def placed(self, row: int) -> None:
        """Something was accounted on a row."""
        for kind in self._kinds.values():
            kind.changed(row)


class _Look:
    """What is known of one need, by row, as of some number of placements."""

    def __init__(self, rows: int) -> None:
        self.losses: Floats = np.zeros(rows)
        self.units: Ints = np.zeros(rows, np.int64)
        """For a share: the unit that loses least."""
        self.seen = -1


class _Kind:
    """One kind of device with the needs for it."""

    def __init__(self, table: NodeTable, columns: DeviceColumns, needs: list[tuple[Need, DeviceRequest, int]]) -> None:
        self._table, self._columns = table, columns
        self._usefulness = Usefulness(columns, table.free, needs)
        self._clock = 0
        self._changed = np.zeros(table.rows, np.int64)
        self._looks: dict[Need, _Look] = {}
        self._before = self._fragments(np.arange(table.rows), columns.free, _NOTHING)

    def look(self, need: Need, part: DeviceRequest | None) -> _Look:
        look = self._looks.setdefault(need, _Look(self._table.rows))
        rows = np.flatnonzero(self._changed > look.seen)
        look.seen = self._clock
        if len(rows):
            look.losses[rows] = 0.0
            rows = rows[self._can_take(need, part, rows)]
            if len(rows):
                self._evaluate(look, need, part, rows)
        return look

    def changed(self, row: int) -> None:
        self._clock += 1
        self._changed[row] = self._clock
        self._before[row] = self._fragments(np.array([row]), self._columns.free[row : row + 1], _NOTHING)[0]

    def _can_take(self, need: Need, part: DeviceRequest | None, rows: Ints) -> Bools:
        free = self._table.free
        able: Bools = (free[0, rows] >= need.cpu_millis) & (free[1, rows] >= need.memory_bytes)
        able &= (self._columns.models[rows] > 0).any(axis=1)
        return able if part is None else able & (self._columns.usable(part, rows).sum(axis=1) >= part.count)

    def _evaluate(self, look: _Look, need: Need, part: DeviceRequest | None, rows: Ints) -> None:
        if part is not None and part.share_millis < WHOLE_MILLIS:
            self._evaluate_share(look, need, part, rows)
            return
        units = self._columns.free[rows]
        if part is not None:
            usable = self._columns.usable(part, rows)
            units = np.where(usable & (np.cumsum(usable, axis=1) <= part.count), 0, units)
        look.losses[rows] = self._fragments(rows, units, need) - self._before[rows]

    def _evaluate_share(self, look: _Look, need: Need, part: DeviceRequest, rows: Ints) -> None:
        """Each unit that has the share is a possibility of its own, but for those that are like one before it."""
        of, unit = np.nonzero(self._columns.usable(part, rows) & ~self._repeated(rows))
        units = self._columns.free[rows[of]]
        units[np.arange(len(unit)), unit] -= part.share_millis
        losses = self._usefulness.fragments(rows, need.cpu_millis, need.memory_bytes, of, units)
        losses -= self._before[rows[of]]
        order = np.lexsort((unit, np.round(losses / _EXACT), of))
        best = order[np.flatnonzero(np.diff(of[order], prepend=-1))]
        look.losses[rows], look.units[rows] = losses[best], unit[best]

    def _repeated(self, rows: Ints) -> Bools:
        """By (row, unit): whether a unit before it on its node has the same model and as much free."""
        free, models = self._columns.free[rows], self._columns.models[rows]
        repeated = np.zeros(free.shape, np.bool_)
        for unit in range(1, free.shape[1]):
            same = (free[:, :unit] == free[:, unit, None]) & (models[:, :unit] == models[:, unit, None])
            same.any(axis=1, out=repeated[:, unit])
        return repeated

    def _fragments(self, rows: Ints, units: Ints, need: Need) -> Floats:
        """One state for each row: what is of no use of these units, once `need` is taken of CPU and memory."""
        return self._usefulness.fragments(rows, need.cpu_millis, need.memory_bytes, np.arange(len(rows)), units)


def _part(need: Need, kind: str) -> DeviceRequest | None:
    return next((part for part in need.devices if part.kind == kind), None)
