"""Takes an agent's observation into a task. Owns the rule that observations only move forward."""

from __future__ import annotations

import msgspec

from common.lifecycle import merge
from common.model.task import Task, TaskStatus


def observe(task: Task, seen: TaskStatus, now_s: float) -> Task:
    """The task after `seen`; the same object when `seen` says nothing new."""
    status = merge(task.status, seen)
    if status == task.status:
        return task
    moved = (status.attempt, status.state, status.health) != (
        task.status.attempt,
        task.status.state,
        task.status.health,
    )
    return msgspec.structs.replace(task, status=status, observed_at_s=now_s if moved else task.observed_at_s)
