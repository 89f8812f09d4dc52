"""One session's assignment set: what its node was told so far, and the messages that bring it up to date.

The set is derived from the committed state: every task of the node whose end is not stored yet. Of the node's strays
it says that they be left alone, until they are strays no more: then they are removed like any other. It says nothing
either of tasks that the node seems to have lost, until their end is stored: the node would begin them anew. A task
whose stop is held back (see `gate`) is still told to run. Never decides what should run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from common.model.job import DesiredState
from common.model.session import Assignment, Assignments
from common.model.task import Task
from controller.core.image_ports import has_image_ports
from controller.state import State

Held = Callable[[str], bool]
"""Whether a task's stop is held back, by task id."""


class AssignmentSet:
    """See the module. Created empty: begin with `complete`."""

    def __init__(self, state: State, node_id: str, held: Held, missing: Iterable[str] = ()) -> None:
        """`missing`: ids of tasks that the node seems to have lost."""
        self._state = state
        self._node_id = node_id
        self._held = held
        self._missing = frozenset(missing)
        self._told: dict[str, DesiredState] = {}
        self._kept: frozenset[str] = frozenset()
        """Strays the node was told to leave as they are."""
        self._sequence = 0

    def complete(self) -> Assignments:
        """The whole set; what was told before counts no more."""
        live = [task for task in self._state.tasks_of_node(self._node_id).values() if not task.ended]
        tasks = [task for task in live if task.id not in self._missing]
        self._told = {task.id: self._desired(task) for task in tasks}
        self._kept = self._strays() | (self._missing & {task.id for task in live})
        self._sequence = 1
        assignments = tuple(self._assignment(task) for task in tasks)
        kept = tuple(sorted(self._kept))
        return Assignments(complete=True, sequence=self._sequence, assignments=assignments, kept=kept)

    def changed(self, task_ids: Iterable[str], limit: int) -> tuple[Assignments, ...]:
        """What the node must learn of these tasks, in messages of at most `limit` tasks; empty when nothing."""
        assignments: list[Assignment] = []
        removed: list[str] = []
        for task_id in task_ids:
            task = self._state.tasks.get(task_id)
            if task is None or task.ended:
                if self._told.pop(task_id, None) is not None or task_id in self._kept - self._missing - self._strays():
                    self._kept -= {task_id}
                    removed.append(task_id)
            elif task_id not in self._missing and self._told.get(task_id) is not self._desired(task):
                self._told[task_id] = self._desired(task)
                assignments.append(self._assignment(task))
        return tuple(self._messages(assignments, removed, limit))

    def _messages(self, assignments: list[Assignment], removed: list[str], limit: int) -> Iterable[Assignments]:
        if not assignments and removed:
            yield self._next((), tuple(removed))
        for start in range(0, len(assignments), limit):
            yield self._next(tuple(assignments[start : start + limit]), tuple(removed) if start == 0 else ())

    def _next(self, assignments: tuple[Assignment, ...], removed: tuple[str, ...]) -> Assignments:
        self._sequence += 1
        return Assignments(complete=False, sequence=self._sequence, assignments=assignments, removed=removed)

    def _strays(self) -> frozenset[str]:
        node = self._state.nodes.get(self._node_id)
        return frozenset() if node is None else frozenset(stray.task_id for stray in node.strays)

    def _desired(self, task: Task) -> DesiredState:
        if task.lost_at_s and task.fence_after_s:
            return DesiredState.STOP  # given up for good: whatever its agent makes of its clock, another may run by now
        return DesiredState.RUN if self._held(task.id) else task.desired

    def _assignment(self, task: Task) -> Assignment:
        spec = self._state.spec_of_task(task)
        return Assignment(
            task_id=task.id,
            namespace=task.namespace,
            job=task.job,
            slot=task.slot,
            version=task.version,
            desired=self._desired(task),
            task=spec.task,
            attempts_before=self._state.slot_of(task.job_id, task.slot).failures,
            fencing_token=task.fencing_token,
            fence_after_s=task.fence_after_s,
            devices=task.devices,
            observed_sequence=task.status.sequence,
            image_ports=has_image_ports(spec),
        )
