"""The best row for a task that only load tells nodes apart for, without looking at every row. Decides what a pass over
all of them (`scoring`) decides, never anything else; says so where it cannot tell.

Rows of the same capacity stand on a *shelf*, in the order of their CPU share and again in that of their memory share;
where shares are equal in the order of tasks, then around the ring of `tie_breaks`. Rows are looked at from the better
end of whichever order bounds the rest, until none of those left could be as good as the best so far: usually after one
or two, since a row whose load is the bound itself is the best of all with its share.
(Stopping by a threshold over sorted lists: Fagin, Lotem, Naor, "Optimal aggregation algorithms for middleware", 2001.)
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection
from typing import TypeAlias

import numpy as np

from common.model.job import Strategy
from common.model.resources import Resources
from controller.scheduler.node_table import Bools, Ints, NodeTable

LOOKS_LIMIT = 64
"""Rows of a shelf that are looked at before a pass over all rows is the cheaper way to be sure."""
SHELVES_LIMIT = 16
"""Kinds of nodes: each shelf is looked at for each task. With more of them nothing can be told."""
_RING = 2**64

_Entry: TypeAlias = tuple[float, int, int, int]
"""Share, tasks, place on the ring, row."""
_Standing: TypeAlias = tuple[float, int, int, int]
"""Load, tasks (both negative for binpack), distance on the ring, row: the least is the best."""

_NOBODY: _Standing = (math.inf, 0, 0, -1)


class Ladder:
    """See the module. Of the rows in `among`, those that can take `least`: no task that is asked about needs less."""

    def __init__(self, table: NodeTable, among: Bools, strategy: Strategy, least: Resources) -> None:
        self._table, self._least = table, least
        self._places: dict[int, tuple[_Shelf, int]] = {}
        """By row: its shelf, and its place on the ring."""
        self._entered: dict[int, tuple[_Entry, _Entry]] = {}
        """What stands for a row in the orders of its shelf; nothing for a full one."""
        rows = np.flatnonzero(among)
        kinds, kind_of = np.unique(table.per_unit[:, rows], axis=1, return_inverse=True)
        self._shelves: list[_Shelf] = []
        if kinds.shape[1] <= SHELVES_LIMIT:
            sign = -1 if strategy is Strategy.BINPACK else 1
            self._shelves = [_Shelf(cpu, memory, sign) for cpu, memory in kinds.T.tolist()]
            self._fill(rows, kind_of.reshape(-1))

    def best_row(self, need: Resources, salt: int, others: Collection[int] = ()) -> int | None:
        """The best row without a task of the same job (`others` have one); None when that is not found: there may be
        one all the same."""
        best: _Standing = _NOBODY
        for shelf in self._shelves:
            found = shelf.best(self._table, need, salt, others, best)
            if found is None:
                return None
            best = found
        return None if best is _NOBODY else best[3]

    def changed(self, row: int) -> None:
        """Something was set aside on a row, or given back."""
        if row not in self._places:
            return
        shelf, _ = self._places[row]
        before, after = self._entered.pop(row, None), self._entries(row)
        if before is not None:
            del shelf.by_cpu[bisect_left(shelf.by_cpu, before[0])]
            del shelf.by_memory[bisect_left(shelf.by_memory, before[1])]
        if after is not None:
            self._entered[row] = after
            insort(shelf.by_cpu, after[0])
            insort(shelf.by_memory, after[1])

    def _fill(self, rows: Ints, shelf_of: Ints) -> None:
        ties = self._table.tie_breaks(rows, 0).tolist()
        for row, place, tie in zip(rows.tolist(), shelf_of.tolist(), ties, strict=True):
            shelf = self._shelves[place]
            self._places[row] = shelf, tie
            entries = self._entries(row)
            if entries is not None:
                self._entered[row] = entries
                shelf.by_cpu.append(entries[0])
                shelf.by_memory.append(entries[1])
        for shelf in self._shelves:
            shelf.by_cpu.sort()
            shelf.by_memory.sort()

    def _entries(self, row: int) -> tuple[_Entry, _Entry] | None:
        """By CPU and by memory; none for a row that is full."""
        table = self._table
        if not _takes(table, row, self._least):
            return None
        tasks, tie = table.tasks.item(row), self._places[row][1]
        return (table.share.item(0, row), tasks, tie, row), (table.share.item(1, row), tasks, tie, row)


class _Shelf:
    """Rows of the same capacity."""

    __slots__ = ("by_cpu", "by_memory", "cpu_per_unit", "memory_per_unit", "sign")

    def __init__(self, cpu_per_unit: float, memory_per_unit: float, sign: int) -> None:
        self.cpu_per_unit, self.memory_per_unit, self.sign = cpu_per_unit, memory_per_unit, sign
        self.by_cpu: list[_Entry] = []
        self.by_memory: list[_Entry] = []

    def best(
        self, table: NodeTable, need: Resources, salt: int, others: Collection[int], best: _Standing
    ) -> _Standing | None:
        """The best of the rows here and what was found so far; None where too many would have to be looked at."""
        sign = self.sign
        cpu_more, memory_more = self.cpu_per_unit * need.cpu_millis, self.memory_per_unit * need.memory_bytes
        cpu_walk, memory_walk = _Walk(self.by_cpu, cpu_more, sign, salt), _Walk(self.by_memory, memory_more, sign, salt)
        for _ in range(LOOKS_LIMIT):
            walk = cpu_walk if cpu_walk.bound >= memory_walk.bound else memory_walk
            if walk.over or sign * walk.bound > best[0]:
                return best
            if sign * walk.bound == best[0] and sign * walk.tasks > best[1]:
                walk.pass_share()
                continue
            tie, row = walk.row()
            load = max(table.share.item(0, row) + cpu_more, table.share.item(1, row) + memory_more)
            standing = sign * load, sign * walk.tasks, (tie - salt) % _RING, row
            if row not in others and _takes(table, row, need):
                best = min(best, standing)
                if load == walk.bound:
                    walk.pass_share()
                    continue
            walk.go_on()
        return None


class _Walk:
    """A way along one order from its better end, through each run of equal shares and tasks around the ring."""

    __slots__ = ("_at", "_begin", "_end", "_entries", "_more", "_salt", "_sign", "_start", "bound", "over", "tasks")

    def __init__(self, entries: list[_Entry], more: float, sign: int, salt: int) -> None:
        self._entries, self._more, self._sign, self._salt = entries, more, sign, salt
        self.over = False
        self._at = self._start = self._begin = self._end = 0
        self._enter(0 if sign > 0 else len(entries) - 1)

    def row(self) -> tuple[int, int]:
        """Where the way is: the place on the ring, and the row."""
        if self._start < 0:
            self._find_run()
        _, _, tie, row = self._entries[self._at]
        return tie, row

    def go_on(self) -> None:
        self._at += 1
        if self._at == self._end:
            self._at = self._begin
        if self._at == self._start:
            self._enter(self._end if self._sign > 0 else self._begin - 1)

    def pass_share(self) -> None:
        """Go past everything with the share of where the way is."""
        share = self._entries[self._at][0]
        if self._sign > 0:
            self._enter(bisect_left(self._entries, (share, math.inf, 0, 0)))
        else:
            self._enter(bisect_left(self._entries, (share, -1, 0, 0)) - 1)

    def _enter(self, at: int) -> None:
        """Come to a run: `bound` is a load that none of the rows from here on is better than."""
        self._at, self._start = at, -1
        if 0 <= at < len(self._entries):
            share, self.tasks, _, _ = self._entries[at]
            self.bound = share + self._more
        else:
            self.over, self.bound = True, math.inf

    def _find_run(self) -> None:
        share, tasks, _, _ = self._entries[self._at]
        self._begin = bisect_left(self._entries, (share, tasks, 0, 0)) if self._sign < 0 else self._at
        self._end = bisect_left(self._entries, (share, tasks, _RING, 0)) if self._sign > 0 else self._at + 1
        start = bisect_left(self._entries, (share, tasks, self._salt, 0), self._begin, self._end)
        self._at = self._start = self._begin if start == self._end else start


def _takes(table: NodeTable, row: int, need: Resources) -> bool:
    cpu = not need.cpu_millis or table.free.item(0, row) >= need.cpu_millis
    return cpu and (not need.memory_bytes or table.free.item(1, row) >= need.memory_bytes)
