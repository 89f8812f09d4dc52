"""What a set of assignments means for the tasks a node knows, and whether the set may be taken at its word.

`Chain` recognises a gap between sets and the one set that must be confirmed; `decide` compares task by task. Neither
stops anything on its own: an absence counts only in a complete set that `follow` has accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from common.model.job import DesiredState
from common.model.session import Assignment, Assignments

# --- one task


class Start(msgspec.Struct, frozen=True):
    """A task the node did not know. (One that is meant to stop is taken up too, to be reported as stopped.)"""

    assignment: Assignment


class Change(msgspec.Struct, frozen=True):
    """A known task should still run; something about how has changed."""

    assignment: Assignment


class Stop(msgspec.Struct, frozen=True):
    assignment: Assignment


class Forget(msgspec.Struct, frozen=True):
    """The controller knows the task no more: stop what runs of it, remove what is left, forget it."""

    task_id: str


Decision: TypeAlias = Start | Change | Stop | Forget


def decide(known: Mapping[str, Assignment], orders: Assignments) -> tuple[Decision, ...]:
    """The decisions in order: what is to be forgotten or stopped first, because it may hold what others need."""
    wanted = {assignment.task_id: assignment for assignment in orders.assignments}
    spared = wanted.keys() | set(orders.kept)
    gone = [task_id for task_id in known if task_id not in spared] if orders.complete else []
    forgotten = [*gone, *(task_id for task_id in orders.removed if task_id in known and task_id not in wanted)]
    changes = [change for assignment in wanted.values() if (change := _change(known, assignment))]
    stops = [change for change in changes if isinstance(change, Stop)]
    others = [change for change in changes if not isinstance(change, Stop)]
    return (*(Forget(task_id) for task_id in dict.fromkeys(forgotten)), *stops, *others)


def _change(known: Mapping[str, Assignment], assignment: Assignment) -> Decision | None:
    before = known.get(assignment.task_id)
    if before is None:
        return Start(assignment)
    if before == msgspec.structs.replace(assignment, observed_sequence=before.observed_sequence):
        return None  # what we reported ourselves in the meantime is no news
    return Stop(assignment) if assignment.desired is DesiredState.STOP else Change(assignment)


# --- one set after another


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session stands in its chain of sets. A new session begins with an empty one."""

    last: int = 0
    """Sequence of the last set that was accepted; 0: none yet, or a gap was seen since."""
    doubted: bool = False
    """The last complete set was empty and would have stopped everything: another one must confirm it."""


class Accept(msgspec.Struct, frozen=True, kw_only=True):
    """Obey the set."""


class AskAgain(msgspec.Struct, frozen=True, kw_only=True):
    """Do not obey it; ask for a complete set instead, saying why."""

    reason: str


class Ignore(msgspec.Struct, frozen=True, kw_only=True):
    """Do not obey it; a complete set was asked for already."""


def follow(chain: Chain, orders: Assignments, *, live_tasks: int) -> tuple[Chain, Accept | AskAgain | Ignore]:
    """Judge the next set. `live_tasks`: how many tasks the node has that have not ended; only a complete set asks."""
    if orders.complete:
        if not orders.assignments and live_tasks and not chain.doubted:
            reason = f"the complete set is empty and would stop all {live_tasks} tasks here: please confirm"
            return Chain(last=0, doubted=True), AskAgain(reason=reason)
        return Chain(last=orders.sequence), Accept()
    if chain.last == 0:
        return chain, Ignore()
    if orders.sequence != chain.last + 1:
        reason = f"assignments {orders.sequence} came after {chain.last}"
        return Chain(last=0), AskAgain(reason=reason)
    return Chain(last=orders.sequence), Accept()
