"""Which tasks should change their nodes so that the cluster is more even, as few of them as will do. Never moves any.

Two passes. First each job by itself: from its fullest group or node to the one where the scheduler would put a new task
today, as long as that is better by its own order. Then the nodes: from the most reserved one to another, as long as the
larger of the two shares falls by `LEAST_GAIN` and nothing that ranks before the load gets worse.

Every move makes something strictly more even that no later move makes less even again (for jobs the squares of their
counts, for nodes the shares in falling order), so it ends, and doing what it says leaves nothing to be said. A task
that moves needs room beside everything that is there: its successor runs first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import msgspec
import numpy as np

from common.model.job import Strategy
from controller.scheduler.filters import feasible
from controller.scheduler.gradient import Gradient
from controller.scheduler.node_table import Bools, NodeTable
from controller.scheduler.schedule import tie_salt
from controller.scheduler.scoring import Criterion, Ranking
from controller.scheduler.values import Request

LEAST_GAIN = 0.1
"""Of a node's capacity: less is not worth a container's restart."""
_NODES_TRIED = 32
"""Of the fullest, without finding a move: the others are less full still."""
_EVENNESS = ("spread", "tasks-of-job")
"""Criteria that are about the replicas of one job."""
_EXACT = 1e-9


class Movable(msgspec.Struct, frozen=True, kw_only=True):
    """A task that may be moved: accounted in the table, without devices, its node ready and active."""

    request: Request
    """For this task alone."""
    node_id: str
    priority: int = 0

    @property
    def task_id(self) -> str:
        return self.request.task_ids[0]


class Move(msgspec.Struct, frozen=True, kw_only=True):
    movable: Movable
    to_id: str
    gain: float
    """By how much it is evener: a share of the replicas that were too many, or of a node's capacity."""
    text: str
    """For people: what it makes more even."""


def rebalance(table: NodeTable, movables: Iterable[Movable], limit: int) -> tuple[Move, ...]:
    """At most `limit` moves, in order; each has room beside all that runs and those before it."""
    return tuple(move for move in rebalancing(table, movables, limit) if move is not None)


def rebalancing(table: NodeTable, movables: Iterable[Movable], limit: int) -> Iterator[Move | None]:
    """`rebalance` in small pieces: None wherever a caller may do something else for a while."""
    books = _Books(table, movables)
    found = 0
    for move in books.moves():
        yield move
        found += move is not None
        if found >= limit:
            return


_Kinds: TypeAlias = dict[tuple[str, int], dict[str, Movable]]
"""Those that may still move, by kind and task."""
_Holding: TypeAlias = dict[int, _Kinds]
"""By row."""


class _Books:
    """The tables as they would be, and who has not moved yet."""

    def __init__(self, table: NodeTable, movables: Iterable[Movable]) -> None:
        self._after = table.copy()
        """With every moved task at its new place only."""
        self._surge = table.copy()
        """With every moved task at both: there must be room for that."""
        self._movables = movables
        self._left: dict[str, Movable] = {}
        """By task."""
        self._reserving: _Holding = {}
        self._reserving_nothing: _Holding = {}

    def moves(self) -> Iterator[Move | None]:
        jobs: dict[str, list[Movable]] = {}
        for movable in self._movables:
            jobs.setdefault(movable.request.job_id, []).append(movable)
        ranked = sorted(jobs.values(), key=lambda members: members[0].request.spec.full_name)
        for members in ranked:
            yield None
            members.sort(key=lambda one: one.task_id)
            self._enter(members)
        for members in ranked:
            yield None
            if len(members) > 1:
                yield from self._until_none(partial(self._even_job, members))
        yield from self._until_none(self._even_loads)
        yield from self._until_none(self._even_tasks)

    def _enter(self, members: Sequence[Movable]) -> None:
        """Those of one job that are free to go."""
        near = self._after.neighbours.leaned_on(self._after, members[0].request.spec.full_name)
        for movable in members:
            row = self._after.row_of(movable.node_id)
            if near is not None and row is not None and near[row]:
                continue  # others are there because they must be beside it
            self._left[movable.task_id] = movable
            if row is not None and self._after.strategy_of(movable.request.spec.task.placement) is not Strategy.BINPACK:
                kinds = self._holding(movable).setdefault(row, {})
                kinds.setdefault(_kind(movable), {})[movable.task_id] = movable

    def _holding(self, movable: Movable) -> _Holding:
        return self._reserving if any(_need(movable)) else self._reserving_nothing

    def _until_none(self, find: Callable[[], Move | None]) -> Iterator[Move | None]:
        while (move := find()) is not None:
            self._carry_out(move)
            yield move

    def _carry_out(self, move: Move) -> None:
        movable = move.movable
        spec, job_id = movable.request.spec.task, movable.request.job_id
        self._after.remove_task(movable.node_id, spec, job_id)
        self._after.add_task(move.to_id, spec, job_id)
        self._surge.add_task(move.to_id, spec, job_id)
        del self._left[movable.task_id]
        row = self._after.row_of(movable.node_id)
        if row is not None:
            self._holding(movable).get(row, {}).get(_kind(movable), {}).pop(movable.task_id, None)

    # --- one job

    def _even_job(self, members: Sequence[Movable]) -> Move | None:
        """The next move that spreads one job better, from where it is most crowded."""
        by_row: dict[int, Movable] = {}
        for movable in sorted(members, key=lambda one: one.priority):
            row = self._after.row_of(movable.node_id)
            if row is not None and movable.task_id in self._left:
                by_row.setdefault(row, movable)
        for row in self._crowded(by_row):
            move = self._better_place(by_row[row], row)
            if move is not None:
                return move
        return None

    def _crowded(self, by_row: dict[int, Movable]) -> list[int]:
        """Of these rows those that one task less might make as good as another one, the most crowded first.

        A look at the counts, before anything is tried: of nearly all jobs no task can be better off.
        """
        if not by_row:
            return []
        request = next(iter(by_row.values())).request
        open_ = feasible(self._after, request)
        if not open_.any():
            return []
        criteria = Ranking(self._after, request, 0, Gradient(self._after)).criteria()
        counts = [one.values for one in criteria if one.name in _EVENNESS]
        rows = [row for row in by_row if any(each[row] - 1 > each[open_].min() for each in counts)]
        return sorted(rows, key=lambda row: ([-float(each[row]) for each in counts], self._after.node(row).id))

    def _better_place(self, movable: Movable, here: int) -> Move | None:
        """The move to where the scheduler would put the task now, if that is more even."""
        with _without(self._after, movable):
            candidates = self._room_for(movable.request, here)
            if not candidates.any():
                return None
            ranking = Ranking(self._after, movable.request, tie_salt(movable.request), Gradient(self._after))
            there = ranking.best_row(candidates)
            criteria = ranking.criteria()
        better = _first_difference(criteria, here, there)
        if better is None or better.name not in _EVENNESS or better.values[there] > better.values[here]:
            return None
        return self._spread_move(movable, better, here, there)

    def _spread_move(self, movable: Movable, better: Criterion, here: int, there: int) -> Move:
        many, few = int(better.values[here]) + 1, int(better.values[there])
        what = f"with the same {better.attribute}" if better.name == "spread" else "on one node"
        name = movable.request.spec.full_name
        text = f"{many} tasks of {name} {what} become {many - 1}, {few} elsewhere become {few + 1}"
        return self._move(movable, there, (many - few) / many, text)

    # --- nodes

    def _even_loads(self) -> Move | None:
        """The next move from one of the most reserved nodes that pays."""
        table = self._after
        shares = np.where(table.known, table.share.max(axis=0), 0.0)
        takers = table.known & table.staying
        lowest = float(shares[takers].min()) if takers.any() else 1.0
        holding = self._reserving
        for row in sorted(_rows(holding), key=lambda row: (-shares[row], self._after.node(row).id))[:_NODES_TRIED]:
            if shares[row] - lowest < LEAST_GAIN:
                return None
            found = [
                move
                for movable in _one_of_each_kind(holding[row])
                if (move := self._lighter_place(movable, row, float(shares[row])))
            ]
            if found:
                return min(found, key=lambda one: (round(one[0], 2), one[1].movable.priority))[1]
        return None

    def _lighter_place(self, movable: Movable, here: int, share: float) -> tuple[float, Move] | None:
        """A move off a node of this share, and the larger of the two shares after it."""
        with _without(self._after, movable):
            left = float(self._after.share[:, here].max())
            loads = self._after.load_after(movable.request.spec.task.reservations, slice(None))
            candidates = self._room_for(movable.request, here) & (loads <= share - LEAST_GAIN + _EXACT)
            candidates &= self._no_worse(movable.request, here, "load")
        if left > share - _EXACT or not candidates.any():
            return None
        rows = np.flatnonzero(candidates & (loads <= loads[candidates].min() + _EXACT))
        there = int(rows[self._after.tie_breaks(rows, tie_salt(movable.request)).argmin()])
        taken = float(loads[there])
        text = f"node {self._name(here)} has {share:.0%} reserved, node {self._name(there)} would have {taken:.0%}"
        return max(left, taken), self._move(movable, there, share - taken, text)

    def _even_tasks(self) -> Move | None:
        """Tasks that reserve nothing are shared out by their number."""
        table = self._after
        takers = table.known & table.staying
        fewest = int(table.tasks[takers].min()) if takers.any() else 0
        holding = self._reserving_nothing
        for row in sorted(_rows(holding), key=lambda row: (-table.tasks[row], table.node(row).id))[:_NODES_TRIED]:
            if table.tasks[row] - fewest < 2:
                return None
            movables = _one_of_each_kind(holding[row])
            found = [move for movable in movables if (move := self._emptier_place(movable, row))]
            if found:
                return min(found, key=lambda move: move.movable.priority)
        return None

    def _emptier_place(self, movable: Movable, here: int) -> Move | None:
        many = int(self._after.tasks[here])
        with _without(self._after, movable):
            candidates = self._room_for(movable.request, here) & (self._after.tasks <= many - 2)
            candidates &= self._no_worse(movable.request, here, "tasks")
        if not candidates.any():
            return None
        few = int(self._after.tasks[candidates].min())
        rows = np.flatnonzero(candidates & (self._after.tasks == few))
        there = int(rows[self._after.tie_breaks(rows, tie_salt(movable.request)).argmin()])
        text = f"node {self._name(here)} runs {many} tasks, node {self._name(there)} {few}"
        return self._move(movable, there, (many - few) / many, text)

    # --- both

    def _room_for(self, request: Request, here: int) -> Bools:
        """Rows that could take the task with everything still where it is, and when all has moved."""
        rows = feasible(self._after, request) & feasible(self._surge, request)
        rows[here] = False
        for node_id in request.avoid:
            row = self._after.row_of(node_id)
            if row is not None:
                rows[row] = False
        return rows

    def _no_worse(self, request: Request, here: int, before: str) -> Bools:
        """Rows on which nothing that ranks before a criterion is worse than here."""
        mask = np.ones(self._after.rows, np.bool_)
        for criterion in Ranking(self._after, request, 0, Gradient(self._after)).criteria():
            if criterion.name == before:
                break
            mask &= criterion.values <= criterion.values[here] + _EXACT
        return mask

    def _move(self, movable: Movable, there: int, gain: float, text: str) -> Move:
        return Move(movable=movable, to_id=self._after.node(there).id, gain=gain, text=text)

    def _name(self, row: int) -> str:
        return self._after.node(row).name


@contextmanager
def _without(table: NodeTable, movable: Movable) -> Iterator[None]:
    """The table as if one task were not there."""
    request = movable.request
    table.remove_task(movable.node_id, request.spec.task, request.job_id)
    try:
        yield
    finally:
        table.add_task(movable.node_id, request.spec.task, request.job_id)


def _kind(movable: Movable) -> tuple[str, int]:
    """Others of the same kind on the same node would do alike."""
    return movable.request.job_id, id(movable.request.spec)


def _rows(holding: _Holding) -> list[int]:
    """Those on which something may still move."""
    return [row for row, kinds in holding.items() if any(kinds.values())]


def _one_of_each_kind(kinds: _Kinds) -> list[Movable]:
    return [next(iter(alike.values())) for alike in kinds.values() if alike]


def _need(movable: Movable) -> tuple[int, int]:
    need = movable.request.spec.task.reservations
    return need.cpu_millis, need.memory_bytes


def _first_difference(criteria: Sequence[Criterion], here: int, there: int) -> Criterion | None:
    return next((one for one in criteria if one.values[here] != one.values[there]), None)
