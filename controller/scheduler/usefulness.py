"""Of how much use free devices are to the needs of a cluster, beside the CPU and memory that are free with them.

A *state* is what might be free on a row: the units of one kind, beside the row's CPU and memory less what a placement
would take of them. What of a state is of no use is *fragmentation*. Arrays over states and needs are the most that the
scheduler computes, so each is made once: what CPU and memory carry is the same for all states of a row, needs that
only ask whether they fit are added up by what they ask of devices, and the work is cut into pieces that stay in a
processor's cache.
(What is computed is the paper's, see `gradient`.)
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.model.device import WHOLE_MILLIS, DeviceRequest
from controller.scheduler.demand import Need
from controller.scheduler.devices import DeviceColumns

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

CARRIED_WEIGHT = 0.5
"""For shares: between asking whether one more task fits (0) and how many the node's CPU and memory carry (1). Chosen on
traces of a production cluster: 0.5 and 0.7 did alike there, and better than 0."""
_CELLS_AT_ONCE = 30_000
"""Of (state, need): a quarter of a megabyte an array."""


class Usefulness:
    """One kind of device, for one set of needs with their counts."""

    def __init__(self, columns: DeviceColumns, free: Ints, needs: list[tuple[Need, DeviceRequest, int]]) -> None:
        """`free` is CPU and memory by (resource, row), read anew at each question."""
        self._free = free
        needs = sorted(needs, key=lambda entry: entry[1].share_millis == WHOLE_MILLIS)
        counts = np.array([count for *_, count in needs], np.float64)
        weights = counts / counts.sum()
        amounts = np.array([part.total_millis for _, part, _ in needs], np.float64)
        self._cpu = np.array([max(need.cpu_millis, 1) for need, *_ in needs], np.float64)
        self._memory = np.array([max(need.memory_bytes, 1) for need, *_ in needs], np.float64)
        parts = list(dict.fromkeys(part for _, part, _ in needs))
        part_of = np.array([parts.index(part) for _, part, _ in needs])
        self._share = np.array([part.share_millis for part in parts])
        self._amount = np.array([part.total_millis for part in parts])
        self._shares = sum(part.share_millis < WHOLE_MILLIS for _, part, _ in needs)
        """So many needs, the first ones, are for shares: half of their weight is on what is carried."""
        carried = np.where(np.arange(len(needs)) < self._shares, CARRIED_WEIGHT, 0.0)
        self._fit_weights = np.zeros((len(needs), len(parts)))
        self._fit_weights[np.arange(len(needs)), part_of] = (1 - carried) * weights
        self._carried_weights = (carried * weights)[: self._shares]
        self._share_amounts, self._share_parts = amounts[: self._shares], part_of[: self._shares]
        self._look_of, self._allowed = _allowances(columns, parts)

    def fragments(self, rows: Ints, cpu_millis: int, memory_bytes: int, of: Ints, units: Ints) -> Floats:
        """By state, in thousandths of a unit, what would be of no use. State i is on row `rows[of[i]]`, has `units[i]`
        and takes so much CPU and memory; `of` is ascending."""
        rows_at_once = max(1, _CELLS_AT_ONCE // max(len(self._cpu), self._allowed[0].size))
        found = [np.zeros(0)]
        for begin in range(0, len(rows), rows_at_once):
            first, last = np.searchsorted(of, (begin, begin + rows_at_once))
            some = slice(first, last)
            found.append(
                self._some(rows[begin : begin + rows_at_once], cpu_millis, memory_bytes, of[some] - begin, units[some])
            )
        return np.concatenate(found)

    def _some(self, rows: Ints, cpu_millis: int, memory_bytes: int, of: Ints, units: Ints) -> Floats:
        carried = (self._free[0, rows, None] - cpu_millis) / self._cpu
        memory = (self._free[1, rows, None] - memory_bytes) / self._memory
        np.minimum(carried, memory, out=carried)
        fits = carried >= 1
        useful = self._useful(rows[of], units)
        lost: Floats = units.sum(axis=1) - np.einsum("ij,ij->i", useful, (fits @ self._fit_weights)[of])
        if self._shares:
            limit = carried[:, : self._shares]
            limit *= self._share_amounts
            limit *= fits[:, : self._shares]
            lost -= np.minimum(useful[:, self._share_parts], limit[of]) @ self._carried_weights
        return lost

    def _useful(self, rows: Ints, units: Ints) -> Floats:
        """By (state, part of a need): what of the units could be given to such tasks, as far as devices go."""
        fitting = units[:, None, :] >= self._share[:, None]
        fitting &= self._allowed[self._look_of[rows]]
        useful: Floats = np.einsum("spu,su->sp", fitting, units.astype(np.float64))
        useful[useful < self._amount] = 0.0
        return useful


def _allowances(columns: DeviceColumns, parts: list[DeviceRequest]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Which units each part of a need accepts, by (look, part, unit), and the look of each row: nodes with the same
    models look alike."""
    looks, look_of = np.unique(columns.models, axis=0, return_inverse=True)
    accepted = np.stack([columns.allowed(part) for part in parts])
    return look_of.reshape(-1), np.ascontiguousarray(accepted[:, looks].swapaxes(0, 1))
