"""Who has what a task lacks on a node: the jobs whose tasks hold most of it, added to the reason. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from common.model.device import WHOLE_MILLIS
from common.model.verdict import Holder, Reason
from controller.scheduler.node_table import RESOURCES, NodeTable
from controller.scheduler.preempt import Occupant, Occupants
from controller.scheduler.verdicts import Tell, amount

_HOLDERS = 3
"""Named; the rest are counted."""


def holders_told(table: NodeTable, occupants: Occupants) -> Tell:
    """Adds to a reason about CPU, memory, devices or a port who holds it on the node it speaks of."""

    def tell(row: int, reason: Reason) -> Reason:
        measure = _measure(reason)
        if measure is None:
            return reason
        there = occupants(table.node(row).id)
        held = _held(table, there, measure)
        if not held:
            return reason
        shown = tuple(_holder(reason, job, tasks, much) for job, tasks, much in held)
        if reason.reason == "host-port":  # its sentence says who
            return msgspec.structs.replace(reason, held_by=shown)
        text = f"{reason.text}; on {table.node(row).name} {_listed(reason, held)}"
        return msgspec.structs.replace(reason, text=text, held_by=shown)

    return tell


def _measure(reason: Reason) -> Callable[[Occupant], int] | None:
    """How much one task holds of what a reason speaks of."""
    match reason.reason:
        case "resource" if reason.resource in RESOURCES:
            return lambda occupant: int(getattr(occupant.spec.reservations, reason.resource))
        case "device":
            kind = reason.resource.partition(" ")[0]
            return lambda occupant: sum(grant.share_millis for grant in occupant.devices if grant.kind == kind)
        case "host-port":
            return lambda occupant: sum(
                f"{port.published_port}/{port.protocol.value}" == reason.resource for port in occupant.spec.ports
            )
        case _:
            return None


def _held(
    table: NodeTable, there: Sequence[Occupant], measure: Callable[[Occupant], int]
) -> list[tuple[str, int, int]]:
    """Jobs with the number of their tasks and what these hold, those with the most first."""
    much: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    for occupant in there:
        if held := measure(occupant):
            job = table.name_of(occupant.job_id)
            much[job] += held
            tasks[job] += 1
    return sorted(((job, tasks[job], held) for job, held in much.items()), key=lambda one: (-one[2], one[0]))


def _holder(reason: Reason, job: str, tasks: int, much: int) -> Holder:
    match reason.reason:
        case "resource":
            return Holder(job=job, tasks=tasks, amount=str(much))
        case "device":
            return Holder(job=job, tasks=tasks, amount=f"{much / WHOLE_MILLIS:g}")
        case _:
            return Holder(job=job, tasks=tasks)


def _listed(reason: Reason, held: Sequence[tuple[str, int, int]]) -> str:
    def words(much: int) -> str:
        return amount(reason.resource, much) if reason.reason == "resource" else f"{much / WHOLE_MILLIS:g}"

    parts = [f"{job} holds {words(much)} ({tasks} {'task' if tasks == 1 else 'tasks'})" for job, tasks, much in held]
    more = len(parts) - _HOLDERS
    return ", ".join(parts[:_HOLDERS]) + (
        f" and {more} more {'job' if more == 1 else 'jobs'} the rest" if more > 0 else ""
    )
