"""Which jobs have to be looked at again when a record or a node's condition changed: the rest would decide nothing new.

That this is so for all kinds of jobs is held by a property test: reconciling what is named here leaves the same state
as reconciling everything.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.model.asset import Asset, AssetVersion
from common.model.job import Job, JobVersion
from common.model.node import Availability, Node, NodeCondition, NodeStatus
from common.model.quota import Quota
from common.model.task import Slot, Task
from common.model.trust import Authority, Denied, Enrolment, JoinToken, NextKey, User
from controller.core.slots import merely_nearer
from controller.state import Applied, State
from controller.store.keys import Record


class Concerns:
    """An index over the jobs of a state, kept by the changes it is asked about. `state` has them already."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._awaited: dict[str, tuple[str, ...]] = {}
        self._waiting: dict[str, dict[str, None]] = {}
        self._per_node: dict[str, None] = {}
        for job in state.jobs.values():
            self._follow(job)

    def of_change(self, applied: Applied) -> Iterator[str]:
        """Ids of the jobs that a change may ask something of."""
        record = applied.after or applied.before
        match record:
            case Job():
                self._forget(record)
                if applied.after is not None:
                    self._follow(record)
                yield record.id
                yield from self._dependants(record)
            case Task():
                if isinstance(applied.before, Task) and applied.after and merely_nearer(applied.before, record):
                    return
                yield record.job_id
                yield from self._waiting.get(record.job_name, ())
                yield from self._made_room(applied.before)
                yield from self._left(applied)
            case JobVersion() | Slot():
                yield record.job_id
            case Node(id=node_id):
                yield from self._jobs_on(node_id)
                yield from self._per_node
            case Quota(namespace=namespace):
                yield from (job.id for job in self._state.jobs.values() if job.namespace == namespace)
            case (
                Authority()
                | NextKey()
                | JoinToken()
                | User()
                | Enrolment()
                | Denied()
                | Asset()
                | AssetVersion()
                | None
            ):
                pass  # nothing is placed or stopped because of these

    def of_condition(self, before: NodeCondition | None, after: NodeCondition) -> Iterator[str]:
        """Ids of the jobs that what became of a node may ask something of."""
        if before is not None and (before.status, before.silent_s) == (after.status, after.silent_s):
            return
        yield from self._jobs_on(after.node_id)
        if before is None or (before.status is NodeStatus.DOWN) is not (after.status is NodeStatus.DOWN):
            yield from self._per_node

    # --- by what is known of the jobs

    def _dependants(self, job: Job) -> Iterator[str]:
        """Who waits for the job, or for the one whose run it is."""
        yield from self._waiting.get(job.full_name, ())
        owner = self._state.jobs.get(job.run_of.job_id) if job.run_of is not None else None
        if owner is not None:
            yield from self._waiting.get(owner.full_name, ())

    def _made_room(self, before: Record | None) -> Iterator[str]:
        """Jobs with tasks that were asked to make room for this one: it has a node now, or waits for another one."""
        if isinstance(before, Task) and before.nomination is not None:
            for task in self._state.tasks_of_node(before.nomination.node_id).values():
                if task.displaced is not None and task.displaced.task_id == before.id:
                    yield task.job_id

    def _left(self, applied: Applied) -> Iterator[str]:
        """Jobs with a slot for each node whose last tasks may go from a node that is being emptied."""
        before = applied.before
        node = self._state.nodes.get(before.node_id) if isinstance(before, Task) else None
        if node is not None and node.availability is Availability.DRAINING:
            yield from (job_id for job_id in self._jobs_on(node.id) if job_id in self._per_node)

    def _jobs_on(self, node_id: str) -> Iterator[str]:
        return (task.job_id for task in self._state.tasks_of_node(node_id).values())

    def _follow(self, job: Job) -> None:
        if job.id not in self._state.jobs:  # written and erased by one commit
            return
        spec = self._state.spec_of(job)
        if spec.mode.per_node:
            self._per_node[job.id] = None
        names = tuple(one.full_name_seen_from(job.namespace) for one in spec.depends_on)
        if names:
            self._awaited[job.id] = names
        for name in names:
            self._waiting.setdefault(name, {})[job.id] = None

    def _forget(self, job: Job) -> None:
        self._per_node.pop(job.id, None)
        for name in self._awaited.pop(job.id, ()):
            waiting = self._waiting.get(name, {})
            waiting.pop(job.id, None)
            if not waiting:
                self._waiting.pop(name, None)
