"""Refusals in words: one reason per node, or one per ground over all nodes that share it. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from common.model.node import Node
from common.model.verdict import Reason, Verdict
from common.units import cores, decimal, size
from controller.scheduler.filters import Refusal, refusals
from controller.scheduler.node_table import RESOURCES, Bools, NodeTable
from controller.scheduler.values import Request

_NAMES = 3
"""Nodes named in one sentence; the rest are counted."""
_REASONS = 3
"""Grounds in the verdict's one sentence; `reasons` has all of them."""
_SAME_EVERYWHERE = (
    "status",
    "availability",
    "host-port",
    "volume",
    "volume-writer",
    "policy",
    "affinity",
    "anti-affinity",
    "max-per-node",
)
"""Grounds without numbers of each node's own: nodes are listed. Of the others the closest node is told about."""


def unplaced_verdict(table: NodeTable, request: Request) -> Verdict:
    """Why tasks of the request fit on no node, aggregated over identical grounds, those of most nodes first."""
    name = request.spec.full_name
    own = own_node(table, request)
    if own is not None:
        return _not_there(table, request, own)
    reasons = shared_reasons(table, request)
    tasks = "1 task" if len(request.task_ids) == 1 else f"{len(request.task_ids)} tasks"
    fits = "fits" if len(request.task_ids) == 1 else "fit"
    grounds = "; ".join(reason.text for reason in reasons[:_REASONS])
    return Verdict(subject=f"job {name}", verdict=f"{tasks} of {name} {fits} on no node: {grounds}", reasons=reasons)


def own_node(table: NodeTable, request: Request) -> Bools | None:
    """The row of the node that a task belongs to; None where it may go elsewhere, or that node is gone."""
    row = table.row_of(request.only) if request.spec.mode.per_node else None
    if row is None:
        return None
    only = np.zeros(table.rows, np.bool_)
    only[row] = True
    return only


def _not_there(table: NodeTable, request: Request, own: Bools) -> Verdict:
    """Why a task that belongs to a node does not fit there: of the others nobody asks."""
    reasons = node_reasons(table, request, own)
    name, node = request.spec.full_name, table.node(int(np.flatnonzero(own)[0])).name
    grounds = "; ".join(reason.text for reason in reasons[:_REASONS])
    return Verdict(
        subject=f"job {name}", verdict=f"the task of {name} for node {node} does not fit: {grounds}", reasons=reasons
    )


def of_a_gang(verdict: Verdict, request: Request, fitting: int) -> Verdict:
    """The verdict on those of a gang that fit nowhere beside the others, as one on all of it."""
    if not request.spec.gang:
        return verdict
    size = len(request.task_ids)
    return msgspec.structs.replace(
        verdict, verdict=f"a gang of {size} places all its tasks or none, and {fitting} of them fit: {verdict.verdict}"
    )


Tell = Callable[[int, Reason], Reason]
"""Says more about a ground as it is on one row."""


def shared_reasons(
    table: NodeTable, request: Request, among: Bools | None = None, tell: Tell | None = None
) -> tuple[Reason, ...]:
    """Each ground once, with the number of nodes (all, or those `among` rows) that share it and the one that comes
    closest, of which `tell` may say more. Those of most nodes first."""
    among = table.known if among is None else among
    total = int(np.count_nonzero(among))
    if not table.known.any():
        return (Reason(reason="no-nodes", nodes=0, text="the cluster has no nodes: start `podium agent` on a machine"),)
    grounds = [replace(refusal, nodes=refusal.nodes & among) for refusal in refusals(table, request)]
    grounds.sort(key=lambda refusal: -int(np.count_nonzero(refusal.nodes)))
    return tuple(_shared(table, refusal, total, tell) for refusal in grounds if refusal.nodes.any())


def node_reasons(
    table: NodeTable, request: Request, among: Bools | None = None, tell: Tell | None = None
) -> tuple[Reason, ...]:
    """Every ground on every node (or on those `among` rows), by node name."""
    among = table.known if among is None else among
    found: list[Reason] = []
    for refusal in refusals(table, request):
        for row in np.flatnonzero(refusal.nodes & among).tolist():
            reason = refusal.on(row)
            whole = msgspec.structs.replace(reason, text=_sentence(reason, f"node {reason.node}"))
            found.append(tell(row, whole) if tell is not None else whole)
    return tuple(sorted(found, key=lambda reason: reason.node))


def amount(resource: str, value: int) -> str:
    """An amount of a resource by its name in `Resources`."""
    return cores(value) if resource == "cpu_millis" else f"{size(value)} of memory"


def _shared(table: NodeTable, refusal: Refusal, total: int, tell: Tell | None) -> Reason:
    rows, count = _examples(table, refusal), int(np.count_nonzero(refusal.nodes))
    closest = refusal.on(rows[0])
    names = [table.node(row).name for row in rows[:_NAMES]]
    where = _listed(names, count) if closest.reason in _SAME_EVERYWHERE else f"node {names[0]}"
    text = f"{_sentence(closest, where)} ({count} of {total} {'node' if total == 1 else 'nodes'})"
    if closest.reason == "resource" and count == total:
        text += _too_large(table, closest)
    whole = msgspec.structs.replace(closest, text=text)
    if tell is not None:
        whole = tell(rows[0], whole)
    return msgspec.structs.replace(whole, node=closest.node if count == 1 else "", nodes=count)


def _examples(table: NodeTable, refusal: Refusal) -> Sequence[int]:
    """A few refused rows to tell about, the most telling first; the same whatever the order of rows is."""
    rows = np.flatnonzero(refusal.nodes)
    if refusal.missing is not None:
        missing = refusal.missing[rows]
        rows = rows[missing == missing.min()]
    if len(rows) > 16 * _NAMES:  # sorting thousands of names for the sake of three is not worth it
        rows = rows[np.argpartition(table.tie_breaks(rows, 0), _NAMES)[:_NAMES]]
    return sorted(rows.tolist(), key=lambda row: _name_and_id(table.node(row)))


def _name_and_id(node: Node) -> tuple[str, str]:
    return node.name, node.id


def _sentence(reason: Reason, where: str) -> str:
    match reason.reason:
        case "status" | "availability":
            return f"{where} {'are' if where.startswith('nodes') else 'is'} {reason.have}"
        case "target":
            return f"is to move to node {reason.need}: {where} is another one"
        case "runtime":
            return f"needs the {reason.need} runtime: {where} has {reason.have or 'none'}"
        case "constraint":
            return f"needs {reason.resource} {reason.need}: {where} has {reason.have or 'no such value'}"
        case "resource":
            need, have = int(reason.need), max(int(reason.have), 0)
            free = decimal(have / 1000) if reason.resource == "cpu_millis" else size(have)
            return f"needs {amount(reason.resource, need)}, {free} free on {where}"
        case "device":
            share = "." in reason.need
            what = f"{reason.need} of one {reason.resource}" if share else f"{reason.need} {reason.resource}"
            most = "at most " if share and reason.have != "0" else ""
            return f"needs {what}, {most}{reason.have} free on {where}"
        case "host-port":
            holds = "hold" if "," in reason.have else "holds"
            return f"needs port {reason.resource} of its node: {reason.have} {holds} it on {where}"
        case "volume" | "volume-writer" | "policy":
            return _possession_sentence(reason, where)
        case "affinity":
            return f"must be {reason.need}, which {where} {'are' if where.startswith('nodes') else 'is'} not"
        case "anti-affinity":
            return f"must be {reason.need}: {where} {'are' if where.startswith('nodes') else 'is'} beside it"
        case "max-per-node":
            limit = f"needs {reason.need} tasks of this job on the node (max_replicas_per_node)"
            return f"{limit}: {where} {'run' if where.startswith('nodes') else 'runs'} {reason.have}"
        case word:
            raise AssertionError(f"no sentence for the ground {word!r}")


def _possession_sentence(reason: Reason, where: str) -> str:
    """Of what the node has and the task wants of it."""
    if reason.reason == "policy":
        whose = f"the policies of {where} do" if where.startswith("nodes") else f"{where}'s policy does"
        return f"{whose} not allow {reason.need} (podium agent --policy: {reason.have})"
    if reason.reason == "volume":
        lack = "do not have it" if where.startswith("nodes") else "does not have it"
        return f"its data is in volume {reason.resource}, which is on {reason.have}: {where} {lack}"
    return f"must be the only one to write volume {reason.resource}: another task has it on {where}"


def _too_large(table: NodeTable, reason: Reason) -> str:
    largest = int(table.capacity[RESOURCES.index(reason.resource)].max())
    return f"; no node has more than {amount(reason.resource, largest)}" if int(reason.need) > largest else ""


def _listed(names: Sequence[str], count: int) -> str:
    if count == 1:
        return f"node {names[0]}"
    if count > len(names):
        return f"nodes {', '.join(names)} and {count - len(names)} more"
    return f"nodes {', '.join(names[:-1])} and {names[-1]}"
