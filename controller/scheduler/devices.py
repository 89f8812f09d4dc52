"""Units of devices by node: what is free of each, which fit a request, and who holds them. Never ranks nodes.

Amounts are thousandths of a unit. A unit is free but for the grants on it; grants on units that a node does not have
(any more) are remembered, should they come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.model.device import WHOLE_MILLIS, Device, DeviceGrant, DeviceRequest

Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]

ABSENT = 0
"""Model code of a place in the columns where a node has no unit."""


class DeviceColumns:
    """One kind: `free` and `models` by (row, unit), as wide as the node with the most units."""

    def __init__(self, rows: int) -> None:
        self.free: Ints = np.zeros((rows, 0), np.int64)
        self.models: Ints = np.zeros((rows, 0), np.int64)
        """Codes that mean nothing but "the same model"; `ABSENT` where there is no unit."""
        self._ids: dict[int, tuple[str, ...]] = {}
        self._held: dict[int, dict[str, int]] = {}
        self._codes: dict[str, int] = {}

    def set(self, row: int, devices: Sequence[Device]) -> None:
        """A node's units of this kind, none included."""
        self._widen(len(devices))
        self._ids[row] = tuple(device.id for device in devices)
        self.free[row], self.models[row] = 0, ABSENT
        held = self._held.get(row, {})
        for unit, device in enumerate(devices):
            self.models[row, unit] = self._codes.setdefault(device.model, len(self._codes) + 1)
            self.free[row, unit] = WHOLE_MILLIS - held.get(device.id, 0)

    def account(self, row: int, grant: DeviceGrant, sign: int) -> None:
        held = self._held.setdefault(row, {})
        held[grant.id] = held.get(grant.id, 0) + sign * grant.share_millis
        assert held[grant.id] >= 0, f"nobody holds {grant.share_millis} of {grant.kind} {grant.id}"
        if grant.id in self._ids.get(row, ()):
            self.free[row, self._ids[row].index(grant.id)] -= sign * grant.share_millis
        if not held[grant.id]:
            del held[grant.id]

    def usable(self, request: DeviceRequest, rows: Ints | slice = slice(None)) -> Bools:
        """Which units, by (row, unit), could give the request its share."""
        fitting: Bools = (self.free[rows] >= request.share_millis) & (self.models[rows] != ABSENT)
        return fitting & self.allowed(request)[self.models[rows]] if request.models else fitting

    def allowed(self, request: DeviceRequest) -> Bools:
        """Which model codes the request accepts; never that of an absent unit."""
        accepted = np.zeros(len(self._codes) + 1, np.bool_)
        accepted[[code for model, code in self._codes.items() if not request.models or model in request.models]] = True
        return accepted

    def most_free(self, request: DeviceRequest) -> Ints:
        """By row, in thousandths: of whole units those that are free, for a share the largest free one."""
        free = np.where(self.allowed(request)[self.models], self.free, 0)
        if request.share_millis < WHOLE_MILLIS:
            return np.asarray(free.max(axis=1, initial=0))
        return np.asarray((free >= WHOLE_MILLIS).sum(axis=1) * WHOLE_MILLIS)

    def room(self, request: DeviceRequest, rows: Ints) -> Ints:
        """How many such requests each row could take."""
        usable = self.usable(request, rows)
        if request.count > 1 or request.share_millis == WHOLE_MILLIS:
            return np.asarray(usable.sum(axis=1) // request.count)
        return np.asarray((np.where(usable, self.free[rows], 0) // request.share_millis).sum(axis=1))

    def room_at_most(self, request: DeviceRequest, rows: Ints) -> Ints:
        """How many such requests each row could take if all its units were free."""
        units = self.allowed(request)[self.models[rows]].sum(axis=1)
        return np.asarray(units * (WHOLE_MILLIS // request.share_millis) // request.count)

    def grants(self, row: int, request: DeviceRequest, units: Iterable[int]) -> tuple[DeviceGrant, ...]:
        ids = self._ids[row]
        return tuple(DeviceGrant(kind=request.kind, id=ids[unit], share_millis=request.share_millis) for unit in units)

    def grow(self, rows: int) -> None:
        more = ((0, rows - len(self.free)), (0, 0))
        self.free, self.models = np.pad(self.free, more), np.pad(self.models, more)

    def release(self, row: int) -> None:
        """The row is to be used for another node."""
        self.free[row], self.models[row] = 0, ABSENT
        self._ids.pop(row, None)
        self._held.pop(row, None)

    def copy(self) -> DeviceColumns:
        twin = DeviceColumns(0)
        twin.free, twin.models = self.free.copy(), self.models.copy()
        twin._ids, twin._codes = self._ids.copy(), self._codes.copy()
        twin._held = {row: held.copy() for row, held in self._held.items()}
        return twin

    def _widen(self, units: int) -> None:
        more = ((0, 0), (0, max(0, units - self.free.shape[1])))
        self.free, self.models = np.pad(self.free, more), np.pad(self.models, more)


class DeviceTable:
    """All kinds that some node has or some task holds."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.kinds: dict[str, DeviceColumns] = {}

    def set_node(self, row: int, devices: Sequence[Device]) -> None:
        for kind in dict.fromkeys((*self.kinds, *(device.kind for device in devices))):
            self._columns(kind).set(row, [device for device in devices if device.kind == kind])

    def account(self, row: int, grants: Iterable[DeviceGrant], sign: int) -> None:
        for grant in grants:
            self._columns(grant.kind).account(row, grant, sign)

    def fits(self, request: DeviceRequest) -> Bools:
        """Rows that could take the request now."""
        columns = self.kinds.get(request.kind)
        if columns is None:
            return np.zeros(self._rows, np.bool_)
        fitting: Bools = columns.usable(request).sum(axis=1) >= request.count
        return fitting

    def missing(self, request: DeviceRequest) -> Ints:
        """How much is short by row, in thousandths: of whole units, or of the unit with the most free."""
        columns = self.kinds.get(request.kind)
        free = np.zeros(self._rows, np.int64) if columns is None else columns.most_free(request)
        return request.total_millis - free

    def most_free(self, request: DeviceRequest, row: int) -> float:
        """What a row has for the request: whole units that are free, or the largest free share of one."""
        columns = self.kinds.get(request.kind)
        return 0.0 if columns is None else float(columns.most_free(request)[row]) / WHOLE_MILLIS

    def room(self, request: DeviceRequest, rows: Ints) -> Ints:
        columns = self.kinds.get(request.kind)
        return np.zeros(len(rows), np.int64) if columns is None else columns.room(request, rows)

    def room_at_most(self, request: DeviceRequest, rows: Ints) -> Ints:
        columns = self.kinds.get(request.kind)
        return np.zeros(len(rows), np.int64) if columns is None else columns.room_at_most(request, rows)

    def grow(self, rows: int) -> None:
        self._rows = rows
        for columns in self.kinds.values():
            columns.grow(rows)

    def release(self, row: int) -> None:
        for columns in self.kinds.values():
            columns.release(row)

    def copy(self) -> DeviceTable:
        twin = DeviceTable(self._rows)
        twin.kinds = {kind: columns.copy() for kind, columns in self.kinds.items()}
        return twin

    def _columns(self, kind: str) -> DeviceColumns:
        if kind not in self.kinds:
            self.kinds[kind] = DeviceColumns(self._rows)
        return self.kinds[kind]
