"""Requests in, plan out: the one entry by which tasks get nodes, in production, `plan`, `what-if` and the simulator.

Decides in the order of the requests, each on the table as the ones before left it. Never reads a clock, never writes
anywhere but into the table it was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat

import msgspec
import numpy as np

from common.model.device import DeviceGrant
from common.model.ids import Rng
from controller.scheduler.filters import feasible, room
from controller.scheduler.gradient import Gradient
from controller.scheduler.ladders import Ladders
from controller.scheduler.neighbours import about_itself
from controller.scheduler.node_table import Bools, Ints, NodeTable
from controller.scheduler.scoring import Ranking
from controller.scheduler.values import Placement, Request, SchedulePlan, Unplaced
from controller.scheduler.verdicts import of_a_gang, unplaced_verdict
from controller.scheduler.volumes import volumes_of

_NOWHERE: Ints = np.zeros(0, np.int64)
_NONE: Bools = np.zeros(0, np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A row for each task of a request that fits, in order."""

    rows: Ints
    devices: tuple[tuple[DeviceGrant, ...], ...] = ()
    """What each task was given; empty for a request without devices."""


def schedule(table: NodeTable, requests: Iterable[Request], rng: Rng | None = None) -> SchedulePlan:
    """A node for every task that fits somewhere, a verdict for the rest. Same content, same plan.

    Ties between nodes are broken by the job's name, so that what was planned is what is done. With `rng` they are
    broken by chance: for tests and benchmarks that want many different runs.

    Placements are accounted in `table` as they are decided. A caller whose own table follows commits passes
    `table.copy()`, or each placement would count twice once it is committed.
    """
    placements: list[Placement] = []
    unplaced: list[Unplaced] = []
    requests, gradient = tuple(requests), Gradient(table)
    ladders = Ladders(table, () if gradient.active else requests)
    for number, request in enumerate(requests):
        salt = rng.getrandbits(64) if rng else tie_salt(request)
        row = ladders.best_row(number, salt)
        if row is not None:
            placements.append(_placed_at(table, request, row))
            ladders.placed((row,))
            continue
        chosen = choose(table, request, salt, gradient)
        ladders.placed(chosen.rows.tolist())
        node_ids = table.node_ids(chosen.rows)
        if request.spec.gang and len(node_ids) < len(request.task_ids):
            unplaced.append(_refused_gang(table, request, chosen, gradient))
            ladders.placed(chosen.rows.tolist())
            continue
        placements += map(Placement, request.task_ids, node_ids, chosen.devices or repeat(()))
        if len(node_ids) < len(request.task_ids):
            left = msgspec.structs.replace(request, task_ids=request.task_ids[len(node_ids) :])
            unplaced.append(Unplaced(request=request, task_ids=left.task_ids, verdict=unplaced_verdict(table, left)))
    return SchedulePlan(placements=tuple(placements), unplaced=tuple(unplaced))


def _refused_gang(table: NodeTable, request: Request, chosen: Choice, gradient: Gradient) -> Unplaced:
    """All of a gang is taken back when not all of it fits."""
    node_ids = table.node_ids(chosen.rows)
    left = msgspec.structs.replace(request, task_ids=request.task_ids[len(node_ids) :])
    verdict = of_a_gang(unplaced_verdict(table, left), request, len(node_ids))
    for node_id, devices in zip(node_ids, chosen.devices or repeat(()), strict=False):
        table.remove_task(node_id, request.spec.task, request.job_id, devices)
    if gradient.active:
        for row in np.unique(chosen.rows).tolist():
            gradient.placed(row)
    return Unplaced(request=request, task_ids=request.task_ids, verdict=verdict)


def tie_salt(request: Request) -> int:
    """What breaks ties for a request: of its job's name alone, since ids are made anew for a plan."""
    return int.from_bytes(hashlib.blake2b(request.spec.full_name.encode(), digest_size=8).digest(), "big")


def _placed_at(table: NodeTable, request: Request, row: int) -> Placement:
    table.name_job(request.job_id, request.spec.full_name)
    table.add_task_at(row, request.spec.task, request.job_id)
    return Placement(request.task_ids[0], table.node_id(row))


def place(table: NodeTable, request: Request) -> Ints:
    """`choose` for who asks about one request alone, and not for its devices."""
    return choose(table, request, tie_salt(request), Gradient(table)).rows


def choose(table: NodeTable, request: Request, salt: int, gradient: Gradient) -> Choice:
    """Choose and account: a row for each task in order, for as many as fit. `salt` breaks ties.

    Avoided nodes get only what fits nowhere else. `gradient` is that of the pass, over the same table.
    """
    table.name_job(request.job_id, request.spec.full_name)
    task = request.spec.task
    if task.devices or any(volumes_of(task)) or about_itself(task.placement, request.spec.full_name):
        return _one_by_one(table, request, salt, gradient)
    rows = _share_out(table, request, salt, gradient)
    if gradient.active:
        for row in np.unique(rows).tolist():
            gradient.placed(row)
    return Choice(rows=rows)


def _one_by_one(table: NodeTable, request: Request, salt: int, gradient: Gradient) -> Choice:
    """Each task by itself: its unit, its volume and how near it is to its like depend on those before it."""
    rows: list[int] = []
    devices: list[tuple[DeviceGrant, ...]] = []
    for place in range(len(request.task_ids)):
        left = msgspec.structs.replace(request, task_ids=request.task_ids[place:])
        candidates, last_resort = _candidates(table, left)
        if not candidates.any():
            candidates = last_resort
        if not candidates.any():
            break
        row = Ranking(table, request, salt, gradient).best_row(candidates)
        grants = gradient.grants(request, row)
        table.add_task_at(row, request.spec.task, request.job_id, grants)
        gradient.placed(row)
        rows.append(row)
        devices.append(grants)
    return Choice(rows=np.array(rows, np.int64), devices=tuple(devices))


def _share_out(table: NodeTable, request: Request, salt: int, gradient: Gradient) -> Ints:
    candidates, last_resort = _candidates(table, request)
    rows = _numberamong(table, request, candidates, len(request.task_ids), salt, gradient)
    left = len(request.task_ids) - len(rows)
    if not left or not last_resort.any():
        return rows
    return np.concatenate((rows, _numberamong(table, request, last_resort, left, salt, gradient)))


def _candidates(table: NodeTable, request: Request) -> tuple[Bools, Bools]:
    """Rows that fit, and those of them that are avoided."""
    candidates = feasible(table, request)
    avoided = [row for node_id in request.avoid if (row := table.row_of(node_id)) is not None and candidates[row]]
    if not avoided:
        return candidates, _NONE
    last_resort = np.zeros_like(candidates)
    last_resort[avoided] = True
    return candidates & ~last_resort, last_resort


def _by_tiers(
    table: NodeTable, request: Request, tiers: Iterable[Bools], amount: int, salt: int, gradient: Gradient
) -> Ints:
    """Nodes that fulfil more wishes are filled before those that fulfil fewer."""
    rows = _NOWHERE
    for tier in tiers:
        rows = np.concatenate((rows, _numberamong(table, request, tier, amount - len(rows), salt, gradient)))
        if len(rows) == amount:
            break
    return rows


def _numberamong(
    table: NodeTable, request: Request, candidates: Bools, amount: int, salt: int, gradient: Gradient
) -> Ints:
    if not amount or not candidates.any():
        return _NOWHERE
    ranking = Ranking(table, request, salt, gradient)
    if amount == 1:
        row = ranking.best_row(candidates)
        table.add_task_at(row, request.spec.task, request.job_id)
        return np.array([row])
    if ranking.several_tiers(candidates):
        return _by_tiers(table, request, ranking.tiers(candidates), amount, salt, gradient)
    among = np.flatnonzero(candidates)
    rows = ranking.share_out(among, room(table, request, among), amount)
    table.add_tasks(*np.unique(rows, return_counts=True), request.spec.task, request.job_id)
    return rows
