"""The answers of `podium why`: why tasks fit on no node and what would change that, and why a task is where it is.

Runs the production scheduler on copies; never changes the table it is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from common.model.device import WHOLE_MILLIS, DeviceGrant
from common.model.verdict import Reason, Verdict
from controller.scheduler.attributes import attribute_value
from controller.scheduler.filters import feasible
from controller.scheduler.fixes import verified_fixes
from controller.scheduler.gradient import Gradient
from controller.scheduler.holders import holders_told
from controller.scheduler.node_table import Bools, Ints, NodeTable
from controller.scheduler.preempt import Occupants
from controller.scheduler.relief import Movables
from controller.scheduler.schedule import place
from controller.scheduler.scoring import Criterion, Ranking
from controller.scheduler.values import Request
from controller.scheduler.verdicts import node_reasons, of_a_gang, own_node, shared_reasons, unplaced_verdict

_NAMES = 3
_LABELS = {
    "affinity": "weight of affinities that are not fulfilled",
    "spread": "other tasks of this job with the same {attribute}",
    "tasks-of-job": "other tasks of this job",
    "leaving": "tasks of this job that are about to leave",
    "devices": "devices that would be of less use to others",
    "load": "reserved with this task",
    "tasks": "other tasks",
}


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks that are there, for whoever asks who is in the way."""

    occupants: Occupants = lambda _: ()
    movables: Movables = lambda _: ()
    name: Callable[[str], str] = str
    """What a command calls a task, by its id."""


def explain_unplaced(
    table: NodeTable, request: Request, *, per_node: bool = False, around: Around | None = None
) -> Verdict:
    """Why tasks of a request have no node, with fixes that were each tried and found to place all of them.

    Reasons are aggregated over identical grounds, or with `per_node` one for every ground on every node, and name who
    holds what is short. When nothing stands in the way any more, the verdict says where the tasks can go.
    """
    trial = table.copy()
    rows = place(trial, request)
    if len(rows) == len(request.task_ids):
        return _fits_now(trial, request, rows)
    left = msgspec.structs.replace(request, task_ids=request.task_ids[len(rows) :])
    verdict = of_a_gang(unplaced_verdict(trial, left), request, len(rows))
    around = around or Around()
    tell, among = holders_told(trial, around.occupants), own_node(trial, left)
    reasons = per_node and node_reasons(trial, left, among, tell=tell)
    reasons = reasons or shared_reasons(trial, left, among, tell=tell)
    fixes = tuple(proposal.fix for proposal in verified_fixes(trial, left, around.movables, around.name))
    return msgspec.structs.replace(verdict, reasons=reasons, fixes=fixes)


def explain_placed(table: NodeTable, request: Request, node_id: str, devices: Sequence[DeviceGrant] = ()) -> Verdict:
    """Why one task, accounted in the table, is on its node, and why it is not on the others.

    Judged as if the task were placed again now, with all the others where they are. The first reasons speak of its
    node, those with a `nodes` count after them of the others.
    """
    name, row = request.spec.full_name, table.row_of(node_id)
    if row is None:
        text = f"node {node_id}, on which this task of {name} was placed, is gone"
        return Verdict(subject=f"job {name}", verdict=text, reasons=(Reason(reason="no-nodes", nodes=0, text=text),))
    before = table.copy()
    before.remove_task(node_id, request.spec.task, request.job_id, devices)
    fitting = feasible(before, request)
    here = (*_constraints_here(before, request, row), *_standing(before, request, row, fitting))
    others = before.known.copy()
    others[row] = False
    refused = shared_reasons(before, request, others) if others.any() else ()
    reasons = (*here, *_others_that_fit(before, request, row, fitting & others), *refused)
    return Verdict(subject=f"job {name}", verdict=_sentence(before, request, row, fitting), reasons=reasons)


def _fits_now(table: NodeTable, request: Request, rows: Ints) -> Verdict:
    names = sorted({table.node(row).name for row in rows.tolist()})
    where = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
    tasks = "1 task" if len(rows) == 1 else f"{len(rows)} tasks"
    name = request.spec.full_name
    return Verdict(subject=f"job {name}", verdict=f"nothing is in the way: {tasks} of {name} can go to {where}")


def _sentence(table: NodeTable, request: Request, row: int, fitting: Bools) -> str:
    name, node = request.spec.full_name, table.node(row).name
    if not fitting[row]:
        grounds = [reason.text for reason in node_reasons(table, request, _only(table, row))]
        return f"{name} is on node {node}, but would not be placed there again: {'; '.join(grounds)}"
    if table.node(row).id in request.avoid:
        return f"{name} is on node {node}, where a task of this slot failed before"
    fit = int(fitting.sum())
    if fit == 1:
        return f"{name} is on node {node}: no other node fits"
    better = _better_row(table, request, row, fitting)
    if better is None:
        return f"{name} is on node {node}: no better one among the {fit} nodes that fit"
    return f"{name} is on node {node}; of the {fit} nodes that fit, {table.node(better).name} would come first now"


def _better_row(table: NodeTable, request: Request, row: int, fitting: Bools) -> int | None:
    """The row that would be taken today, if it is really better than this one and not just as good."""
    ranking = Ranking(table, request, 0, Gradient(table))
    best = ranking.best_row(fitting)
    criteria = ranking.criteria()
    here, there = ([float(criterion.values[place]) for criterion in criteria] for place in (row, best))
    return best if there < here else None


def _constraints_here(table: NodeTable, request: Request, row: int) -> Iterator[Reason]:
    node = table.node(row)
    for constraint in request.spec.task.placement.constraints:
        holds = table.holds(constraint) & table.known
        value = attribute_value(node, constraint.attribute) or ""
        state = "holds" if holds[row] else "does not hold any more"
        text = f"{constraint} {state} on node {node.name} ({int(holds.sum())} of {int(table.known.sum())} nodes)"
        yield Reason(
            reason="constraint",
            node=node.name,
            resource=constraint.attribute,
            need=constraint.wanted,
            have=value,
            text=text,
        )


def _standing(table: NodeTable, request: Request, row: int, fitting: Bools) -> Iterator[Reason]:
    """How its node compares with the others that fit, by each criterion in order."""
    compared = fitting | _only(table, row)
    name, nodes = table.node(row).name, int(compared.sum())
    for criterion in Ranking(table, request, 0, Gradient(table)).criteria():
        values = np.abs(criterion.values[compared])
        shown = _shown(criterion)
        here, low, high = shown(abs(float(criterion.values[row]))), shown(values.min()), shown(values.max())
        among = f"; {low} to {high} on the {nodes} nodes that fit" if nodes > 1 else ""
        text = f"{_LABELS[criterion.name].format(attribute=criterion.attribute)}: {here} on node {name}{among}"
        yield Reason(reason=criterion.name, node=name, resource=criterion.attribute, have=here, text=text)


def _others_that_fit(table: NodeTable, request: Request, row: int, others: Bools) -> Iterator[Reason]:
    """Why it is not on the other nodes that could take it: what comes first in which they are worse, or better."""
    left = others.copy()
    for criterion in Ranking(table, request, 0, Gradient(table)).criteria():
        for word, rows in (
            ("worse", left & (criterion.values > criterion.values[row])),
            ("better now", left & (criterion.values < criterion.values[row])),
        ):
            if rows.any():
                yield _compared(table, criterion, row, rows, word)
                left &= ~rows
    if left.any():
        nodes = int(left.sum())
        text = f"{_counted(nodes)} that {'fits' if nodes == 1 else 'fit'} would be just as good"
        yield Reason(reason="equal", nodes=nodes, text=text)


def _compared(table: NodeTable, criterion: Criterion, row: int, rows: Bools, word: str) -> Reason:
    nodes, shown = int(rows.sum()), _shown(criterion)
    nearest = min(np.flatnonzero(rows).tolist(), key=lambda one: (abs(criterion.values[one]), table.node(one).name))
    name = table.node(nearest).name
    label = _LABELS[criterion.name].format(attribute=criterion.attribute)
    have, need = (shown(abs(float(criterion.values[one]))) for one in (nearest, row))
    text = (
        f"{_counted(nodes)} that {'fits is' if nodes == 1 else 'fit are'} {word} by {label}: "
        f"{have} on node {name}, {need} on node {table.node(row).name}"
    )
    node = name if nodes == 1 else ""
    return Reason(
        reason=criterion.name, node=node, nodes=nodes, resource=criterion.attribute, need=need, have=have, text=text
    )


def _counted(nodes: int) -> str:
    return "1 other node" if nodes == 1 else f"{nodes} other nodes"


def _shown(criterion: Criterion) -> Callable[[float], str]:
    match criterion.name:
        case "load":
            return lambda share: f"{share:.0%}"
        case "devices":
            return lambda thousandths: f"{thousandths / WHOLE_MILLIS:.2f}"
        case _:
            return lambda count: f"{count:.0f}"


def _only(table: NodeTable, row: int) -> Bools:
    mask = np.zeros(table.rows, np.bool_)
    mask[row] = True
    return mask
