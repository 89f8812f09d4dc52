"""Which running tasks could move to other nodes so that others fit. Moves nobody; no move is without room.

As in a rebalancing a task that moves needs room at its new place beside all that runs, since its successor runs first;
the room it leaves is free only afterwards. Few moves are sought: one that will do, else two, else the largest tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from controller.scheduler.filters import feasible
from controller.scheduler.gradient import Gradient
from controller.scheduler.node_table import Bools, NodeTable
from controller.scheduler.preempt import suitable
from controller.scheduler.rebalance import Movable
from controller.scheduler.schedule import tie_salt
from controller.scheduler.scoring import Ranking
from controller.scheduler.values import Request

MOVES_LIMIT = 5
"""Of one proposal: a person is to follow it."""
_NODES_TRIED = 16
"""With the least short: each costs some milliseconds."""
_PAIRS_AMONG = 12
"""With more tasks than this pairs are not tried."""

Movables = Callable[[str], Sequence[Movable]]
"""The tasks of a node, by its id, that may be moved."""
Relocation = tuple[Movable, str]
"""A task, and the id of the node it goes to."""


def relief(table: NodeTable, request: Request, movables: Movables) -> tuple[Relocation, ...]:
    """Moves after which every task of the request fits; none when few will not do."""
    moves: list[Relocation] = []
    after, surge = table.copy(), table.copy()
    for _ in request.task_ids[: MOVES_LIMIT + 1]:
        found = _room_for_one(after, surge, request, movables, {movable.task_id for movable, _ in moves})
        if found is None or len(moves) + len(found[1]) > MOVES_LIMIT:
            return ()
        row, more = found
        _carry_out(after, more)
        for movable, node_id in more:
            surge.add_task(node_id, movable.request.spec.task, movable.request.job_id)
        after.add_task_at(row, request.spec.task, request.job_id, Gradient(after).grants(request, row))
        moves += more
    return tuple(moves)


def moved(table: NodeTable, moves: Iterable[Relocation]) -> NodeTable:
    """The table once these tasks are at their new places."""
    after = table.copy()
    _carry_out(after, moves)
    return after


def _carry_out(table: NodeTable, moves: Iterable[Relocation]) -> None:
    for movable, node_id in moves:
        spec, job_id = movable.request.spec.task, movable.request.job_id
        table.remove_task(movable.node_id, spec, job_id)
        table.add_task(node_id, spec, job_id)


def _room_for_one(
    after: NodeTable, surge: NodeTable, request: Request, movables: Movables, gone: set[str]
) -> tuple[int, list[Relocation]] | None:
    """A row that takes one task of the request once some tasks have moved, fewest first; None when there is none."""
    fitting = feasible(after, request)
    if fitting.any():
        return Ranking(after, request, tie_salt(request), Gradient(after)).best_row(fitting), []
    best: tuple[int, list[Relocation]] | None = None
    for row in _promising(after, request):
        there = [
            movable
            for movable in movables(after.node(row).id)
            if movable.task_id not in gone and movable.request.job_id != request.job_id
        ]
        most = MOVES_LIMIT if best is None else len(best[1]) - 1
        moves = _moves_from(after, surge, request, row, there, most)
        if moves is not None:
            best = row, moves
            if len(moves) == 1:
                break
    return best


def _promising(table: NodeTable, request: Request) -> list[int]:
    """Rows that would do if they were empty, those with the most free first."""
    rows = np.flatnonzero(suitable(table, request))
    shares = table.load_after(request.spec.task.reservations, rows)
    order = np.lexsort((table.tie_breaks(rows, tie_salt(request)), shares))
    return [int(row) for row in rows[order][:_NODES_TRIED]]


def _moves_from(
    after: NodeTable, surge: NodeTable, request: Request, row: int, there: Sequence[Movable], most: int
) -> list[Relocation] | None:
    """At most `most` moves off a row after which it takes the request, and each of which has a place to go."""
    for group in _groups(after, there, most):
        for movable in group:
            after.remove_task(movable.node_id, movable.request.spec.task, movable.request.job_id)
        enough = bool(feasible(after, request)[row])
        moves = _places(after, surge, request, row, group) if enough else None
        for movable in group:
            after.add_task(movable.node_id, movable.request.spec.task, movable.request.job_id)
        if moves is not None:
            return moves
    return None


def _groups(table: NodeTable, there: Sequence[Movable], most: int) -> Iterator[tuple[Movable, ...]]:
    """Single tasks (of identical ones one), the least important and smallest first; pairs; then more of the largest."""
    ranked = sorted(there, key=lambda one: (one.priority, _size(table, one), one.task_id))
    kinds: dict[tuple[str, int], Movable] = {}
    for movable in ranked:
        kinds.setdefault((movable.request.job_id, id(movable.request.spec)), movable)
    if most >= 1:
        yield from ((movable,) for movable in kinds.values())
    if most >= 2 and len(ranked) <= _PAIRS_AMONG:
        yield from combinations(ranked, 2)
    largest = sorted(there, key=lambda one: (-_size(table, one), one.priority, one.task_id))
    yield from (tuple(largest[:count]) for count in range(2, min(most, len(largest)) + 1))


def _size(table: NodeTable, movable: Movable) -> float:
    """The larger share of its node that it holds."""
    row, need = table.row_of(movable.node_id), movable.request.spec.task.reservations
    if row is None:
        return 0.0
    cpu, memory = table.per_unit[:, row].tolist()
    return max(float(cpu) * need.cpu_millis, float(memory) * need.memory_bytes)


def _fullest(table: NodeTable, request: Request, candidates: Bools) -> int:
    """Where a task that makes room goes: of the rows that fulfil most of its wishes the fullest, since the emptier ones
    are what the others wait for."""
    rows = np.flatnonzero(next(Ranking(table, request, tie_salt(request), Gradient(table)).tiers(candidates)))
    shares = table.load_after(request.spec.task.reservations, rows)
    return int(rows[np.lexsort((table.tie_breaks(rows, tie_salt(request)), -shares))[0]])


def _places(
    after: NodeTable, surge: NodeTable, request: Request, row: int, group: Sequence[Movable]
) -> list[Relocation] | None:
    """Where the tasks of a group go once the request has the row they leave; None when one finds no place."""
    trial, both = after.copy(), surge.copy()
    trial.add_task_at(row, request.spec.task, request.job_id, Gradient(trial).grants(request, row))
    moves: list[Relocation] = []
    for movable in group:
        wanted = movable.request
        rows = feasible(trial, wanted) & feasible(both, wanted)
        rows[[row, *(away for node_id in wanted.avoid if (away := trial.row_of(node_id)) is not None)]] = False
        if not rows.any():
            return None
        there = _fullest(trial, wanted, rows)
        for books in (trial, both):
            books.add_task_at(there, wanted.spec.task, wanted.job_id)
        moves.append((movable, trial.node(there).id))
    return moves
