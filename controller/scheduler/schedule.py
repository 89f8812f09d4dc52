"""Requests in, plan out: the one entry by which tasks get nodes, in production, `plan`, `what-if` and the simulator.

Decides in the order of the requests, each on the table as the ones before left it. Never reads a clock, never writes
anywhere but into the table it was given.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from common.model.ids import Rng
from controller.scheduler.filters import feasible, room
from controller.scheduler.node_table import Bools, Ints, NodeTable
from controller.scheduler.scoring import Ranking
from controller.scheduler.values import Placement, Request, SchedulePlan, Unplaced
from controller.scheduler.verdicts import unplaced_verdict

_NOWHERE: Ints = np.zeros(0, np.int64)


def schedule(table: NodeTable, requests: Iterable[Request], rng: Rng) -> SchedulePlan:
    """A node for every task that fits somewhere, a verdict for the rest. Same content and seed, same plan.

    Placements are accounted in `table` as they are decided. A caller whose own table follows commits passes
    `table.copy()`, or each placement would count twice once it is committed.
    """
    placements: list[Placement] = []
    unplaced: list[Unplaced] = []
    for request in requests:
        node_ids = table.node_ids(place(table, request, rng.getrandbits(64)))
        placements += map(Placement, request.task_ids, node_ids)
        if len(node_ids) < len(request.task_ids):
            left = msgspec.structs.replace(request, task_ids=request.task_ids[len(node_ids) :])
            unplaced.append(Unplaced(request=request, task_ids=left.task_ids, verdict=unplaced_verdict(table, left)))
    return SchedulePlan(placements=tuple(placements), unplaced=tuple(unplaced))


def place(table: NodeTable, request: Request, salt: int) -> Ints:
    """Choose and account: a row for each task in order, for as many as fit. `salt` breaks ties.

    Avoided nodes get only what fits nowhere else.
    """
    candidates = feasible(table, request)
    avoided = [row for node_id in request.avoid if (row := table.row_of(node_id)) is not None and candidates[row]]
    if not avoided:
        return _place_among(table, request, candidates, len(request.task_ids), salt)
    last_resort = np.zeros_like(candidates)
    last_resort[avoided] = True
    rows = _place_among(table, request, candidates & ~last_resort, len(request.task_ids), salt)
    left = len(request.task_ids) - len(rows)
    return np.concatenate((rows, _place_among(table, request, last_resort, left, salt))) if left else rows


def _place_among(table: NodeTable, request: Request, candidates: Bools, amount: int, salt: int) -> Ints:
    if not amount or not candidates.any():
        return _NOWHERE
    ranking = Ranking(table, request, salt)
    if amount == 1:
        row = ranking.best_row(candidates)
        table.add_task_at(row, request.spec.task, request.job_id)
        return np.array([row])
    among = np.flatnonzero(candidates)
    rows = ranking.share_out(among, room(table, request, among), amount)
    table.add_tasks(*np.unique(rows, return_counts=True), request.spec.task, request.job_id)
    return rows
