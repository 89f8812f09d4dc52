"""The life of a task as its agent observes it: the order of states, the legal steps, and which of two views is right.

    preparing -> starting -> running -> restarting -> (next attempt) preparing | starting
         any of them -> complete | failed | rejected | stopped

Observation is a clock that never runs back: of two observations of one task the greater in the order
(attempt, state, sequence) is right, whatever way they came. So reports may be repeated, reordered and merged freely.
(The idea of task states as a monotonic clock is swarmkit's, design/task_model.md.)
"""

from __future__ import annotations

from common.model.task import ENDED_STATES, TaskState, TaskStatus

ORDER: dict[TaskState, int] = {state: place for place, state in enumerate(TaskState)}

STEPS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.ASSIGNED}),
    TaskState.ASSIGNED: frozenset({TaskState.PREPARING, TaskState.REJECTED, TaskState.STOPPED}),
    TaskState.PREPARING: frozenset(
        {TaskState.STARTING, TaskState.RESTARTING, TaskState.FAILED, TaskState.REJECTED, TaskState.STOPPED}
    ),
    TaskState.STARTING: frozenset(
        {TaskState.RUNNING, TaskState.RESTARTING, TaskState.COMPLETE, TaskState.FAILED, TaskState.STOPPED}
    ),
    TaskState.RUNNING: frozenset({TaskState.RESTARTING, TaskState.COMPLETE, TaskState.FAILED, TaskState.STOPPED}),
    # A restart begins the next attempt, so these two steps go back in state but forward in attempt.
    TaskState.RESTARTING: frozenset({TaskState.PREPARING, TaskState.STARTING, TaskState.FAILED, TaskState.STOPPED}),
    TaskState.COMPLETE: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.REJECTED: frozenset(),
    TaskState.STOPPED: frozenset(),
    TaskState.LOST: frozenset(),
}


def ended(state: TaskState) -> bool:
    """Whether nothing follows this state."""
    return state in ENDED_STATES


def legal(before: TaskState, after: TaskState) -> bool:
    """Whether an agent may go from one state straight to the other; staying is always legal."""
    return before is after or after in STEPS[before]


def rank(status: TaskStatus) -> tuple[bool, int, int, int]:
    """The sort key of observations: an ended task stays ended, then (attempt, state, sequence)."""
    return ended(status.state), status.attempt, ORDER[status.state], status.sequence


def merge(known: TaskStatus, seen: TaskStatus) -> TaskStatus:
    """The one of two observations of a task that is right. Commutative, associative, idempotent."""
    if rank(known) == rank(seen):
        # Two different statuses of one rank never come from one healthy agent; settle it the same way everywhere.
        return max(known, seen, key=repr)
    return max(known, seen, key=rank)
