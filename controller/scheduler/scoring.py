"""Which of the nodes that could take a task should. Ranks and shares out; never filters and never accounts.

The order, first difference decides: least weight of wishes (`neighbours`) that would not be fulfilled; fewest tasks of
the job in the group of each spread preference, most important first; fewest tasks of the job on the node; fewest of
those that leave when these have come, which count in neither; least use of free devices lost to others (`gradient`);
least reserved (most, for binpack) once the task is there; fewest tasks (most, for binpack); the request's own shuffle.
One task takes the best row (`best_row`); a batch is
shared out by water-filling (`share_out`), which is as even in every group and on every node as placing its tasks one by
one, without a pass for each: only which of several equal groups or nodes gets the odd task may differ.
(Balancing a tree of label values before single nodes is swarmkit's, design/topology.md.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from common.model.job import Strategy
from controller.scheduler.gradient import Gradient
from controller.scheduler.neighbours import misses
from controller.scheduler.node_table import Bools, Floats, Ints, NodeTable
from controller.scheduler.values import Request


@dataclass(frozen=True, slots=True)
class Level:
    """One spread preference: which group each row is in, and how many tasks of the job each group has."""

    groups: Ints
    """By row. Rows of one group are also in one group of every level above."""
    tasks: Ints
    """By group."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing nodes are compared by."""

    name: str
    """`affinity`, `spread`, `tasks-of-job`, `leaving`, `devices`, `load` or `tasks`."""
    attribute: str
    """Of a spread preference; empty otherwise."""
    values: Ints | Floats
    """By row; the smaller the better."""


class Ranking:
    """What decides between nodes for one request, as the table stands."""

    def __init__(self, table: NodeTable, request: Request, salt: int, gradient: Gradient) -> None:
        self._table, self._salt = table, salt
        self._losses = gradient.losses(request) if gradient.active else None
        self._need = request.spec.task.reservations
        self._spread = request.spec.task.placement.spread
        self._sign = -1 if table.strategy_of(request.spec.task.placement) is Strategy.BINPACK else 1
        self.leaving = table.column_of(request.leaving) if request.leaving else None
        """Tasks of the job by row that go when these have come; None when none do."""
        self.counts = table.job_counts(request.job_id)
        """The other tasks of the job by row; None when there are none."""
        if self.counts is not None and self.leaving is not None:
            self.counts = np.maximum(self.counts - self.leaving, 0)
        self.levels = _levels(table, self._spread, self.counts)
        placement = request.spec.task.placement
        self.misses = misses(table, placement) if placement.affinities else None
        """By row, the weight of wishes that would not be fulfilled; None when there are none."""

    def criteria(self) -> list[Criterion]:
        """What nodes are compared by, the first difference deciding; `best_row` takes one that none is better than."""
        found = [Criterion("affinity", "", self.misses)] if self.misses is not None else []
        found += [
            Criterion("spread", attribute, level.tasks[level.groups])
            for attribute, level in zip(self._spread, self.levels, strict=True)
        ]
        if self.counts is not None:
            found.append(Criterion("tasks-of-job", "", self.counts))
        if self.leaving is not None:
            found.append(Criterion("leaving", "", self.leaving))
        if self._losses is not None:
            found.append(Criterion("devices", "", self._losses))
        loads = self._sign * self._table.load_after(self._need, slice(None))
        return [*found, Criterion("load", "", loads), Criterion("tasks", "", self._sign * self._table.tasks)]

    def best_row(self, candidates: Bools) -> int:
        """The best of the candidate rows, at least one."""
        if self.misses is not None:
            candidates = _least(self.misses, candidates)
        for level in self.levels:
            candidates = _least(level.tasks[level.groups], candidates)
        if self.counts is not None:
            candidates = _least(self.counts, candidates)
        if self.leaving is not None:
            candidates = _least(self.leaving, candidates)
        if self._losses is not None:
            candidates = _least(self._losses, candidates)
        loads = self._table.load_after(self._need, slice(None))
        if self._sign < 0:
            np.negative(loads, out=loads)
        np.copyto(loads, np.inf, where=~candidates)
        (rows,) = (loads == loads.min()).nonzero()
        if len(rows) > 1:
            tasks = self._sign * self._table.tasks[rows]
            rows = rows[tasks == tasks.min()]
        if len(rows) > 1:
            return int(rows[self._table.tie_breaks(rows, self._salt).argmin()])
        return int(rows[0])

    def share_out(self, rows: Ints, room: Ints, amount: int) -> Ints:
        """Rows for `amount` tasks of a batch, or for as many as there is room for; a row per task, in order.

        The rows are alike in the wishes that they fulfil (`tiers`). Every beginning of the answer is itself as even as
        can be, so that slots removed from the end leave it even.
        """
        order = self._order(rows, np.zeros(len(rows), np.int64))
        best_first = rows[order]
        return best_first[self._sequence(best_first, room[order], np.arange(len(rows)), 0, amount)]

    def _sequence(self, rows: Ints, room: Ints, members: Ints, depth: int, amount: int) -> Ints:
        """Positions in `rows` (sorted best first) for `amount` tasks among its `members` (ascending)."""
        if depth == len(self.levels):
            return self._fill_nodes(rows, room, members, amount)
        level = self.levels[depth]
        groups, first, group_of = np.unique(level.groups[rows[members]], return_index=True, return_inverse=True)
        group_room = np.bincount(group_of, weights=np.minimum(room[members], amount)).astype(np.int64)
        counts = level.tasks[groups]
        shares = water_fill(counts, group_room, amount, lambda among, _: np.argsort(first[among]))
        split = np.split(members[np.argsort(group_of, kind="stable")], np.cumsum(np.bincount(group_of))[:-1])
        taking = np.flatnonzero(shares).tolist()
        if not taking:
            return np.zeros(0, np.int64)
        parts = [self._sequence(rows, room, split[group], depth + 1, int(shares[group])) for group in taking]
        fullness = np.concatenate(
            [counts[group] + np.arange(len(part)) for group, part in zip(taking, parts, strict=True)]
        )
        rank = np.concatenate([np.full(len(part), first[group]) for group, part in zip(taking, parts, strict=True)])
        return np.concatenate(parts)[np.lexsort((rank, fullness))]

    def _fill_nodes(self, rows: Ints, room: Ints, members: Ints, amount: int) -> Ints:
        among = rows[members]
        counts = np.zeros(len(among), np.int64) if self.counts is None else self.counts[among]
        shares = water_fill(counts, room[members], amount, lambda open_, taken: self._order(among[open_], taken[open_]))
        taker = np.repeat(np.arange(len(among)), shares)
        nth = np.arange(len(taker)) - np.repeat(np.cumsum(shares) - shares, shares)
        fullness = counts[taker] + nth
        return members[taker[np.argsort(fullness * len(among) + taker)]]

    def _order(self, rows: Ints, taken: Ints) -> Ints:
        """Indices that sort rows best first, after each has `taken` so many tasks of the batch."""
        loads = self._sign * self._table.load_after(self._need, rows, taken + 1)
        tasks = self._sign * (self._table.tasks[rows] + taken)
        keys: list[Ints | Floats | np.ndarray[tuple[int], np.dtype[np.uint64]]] = [
            self._table.tie_breaks(rows, self._salt),
            tasks,
            loads,
        ]
        if self._losses is not None:
            keys.append(self._losses[rows])
        if self.leaving is not None:
            keys.append(self.leaving[rows])
        if self.counts is not None:
            keys.append(self.counts[rows] + taken)
        keys += [level.tasks[level.groups[rows]] for level in reversed(self.levels)]
        return np.lexsort(keys)

    def several_tiers(self, candidates: Bools) -> bool:
        """Whether some of the candidates fulfil more wishes than others."""
        return self.misses is not None and bool(np.ptp(self.misses[candidates]))

    def tiers(self, candidates: Bools) -> Iterator[Bools]:
        """The candidates by the wishes that they fulfil, the best first."""
        if self.misses is None:
            yield candidates
            return
        for missed in np.unique(self.misses[candidates]):
            yield candidates & (self.misses == missed)


def water_fill(counts: Ints, room: Ints, amount: int, order: Callable[[Ints, Ints], Ints]) -> Ints:
    """How many of `amount` each vessel takes so that the lowest are always filled first; never more than its room.

    `counts` is what each holds already. What is left of the last, incomplete layer goes one each to the vessels that
    `order(open, taken)` puts first: given the indices of those that could take one and what all took, it answers with
    the indices into `open`, best first. O(vessels x log(amount)).
    """
    room = np.minimum(room, amount)
    amount = min(amount, int(room.sum()))
    low, high = int(counts.min()), int(counts.max()) + amount
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.clip(middle - counts, 0, room).sum()) <= amount:
            low = middle
        else:
            high = middle - 1
    taken: Ints = np.clip(low - counts, 0, room)
    left = amount - int(taken.sum())
    if left:
        open_ = np.flatnonzero((taken < room) & (counts + taken == low))
        taken[open_[order(open_, taken)[:left]]] += 1
    return taken


def _levels(table: NodeTable, attributes: tuple[str, ...], counts: Ints | None) -> tuple[Level, ...]:
    """Groups by the values of the attributes, each level within the one above; rows without a value are one group."""
    levels: list[Level] = []
    for attribute in attributes:
        groups = table.codes(attribute)
        if levels:
            above = levels[-1].groups
            _, groups = np.unique(above * (int(groups.max()) + 1) + groups, return_inverse=True)
        tasks = np.zeros(int(groups.max()) + 1, np.int64)
        if counts is not None:
            held = np.flatnonzero((counts > 0) & table.staying)
            np.add.at(tasks, groups[held], counts[held])
        levels.append(Level(groups, tasks))
    return tuple(levels)


def _least(values: Ints | Floats, candidates: Bools) -> Bools:
    """The candidates with the least value."""
    least: Bools = candidates & (values == values[candidates].min())
    return least
