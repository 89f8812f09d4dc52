"""The cluster's committed state in memory, indexed. Holds frozen values; changes only by `apply`; never decides.

The ledger applies what the store has acknowledged; planning applies what it imagines, on a fork.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from common.errors import Conflict, NotFound
from common.model.asset import Asset, AssetVersion
from common.model.job import DesiredState, Job, JobSpec, JobVersion
from common.model.node import Node
from common.model.quota import Quota
from common.model.task import Slot, Task, TaskState
from common.model.trust import Authority, Denied, Enrolment, JoinToken, NextKey, User
from controller.asset_index import AssetIndex
from controller.store.foreign import Foreign
from controller.store.keys import Record, Trust
from controller.usage import UsageIndex, asked_by, holds_slot

KeyT = TypeVar("KeyT", str, int)
RecordT = TypeVar(
    "RecordT", Job, JobVersion, Task, Slot, Node, Quota, Authority, NextKey, JoinToken, User, Enrolment, Denied
)


class Write(msgspec.Struct, frozen=True):
    """Create or replace a record."""

    record: Record


class Erase(msgspec.Struct, frozen=True):
    """Forget a record; any version of it names it."""

    record: Record


PREFIX_LENGTH = 4
"""Characters that name something by the beginning of its id. With fewer a short name that does not exist (any more)
would name whatever job, task or node of the cluster has an id that happens to begin with it."""

Change: TypeAlias = Write | Erase

Group: TypeAlias = tuple[Change, ...]
"""Changes that are only valid together: they are committed in one transaction of the store."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """One record before and after a change; None where it did not, or no longer does, exist."""

    before: Record | None
    after: Record | None


class State:
    """Lookups are by id unless they say otherwise. Mappings handed out must not be changed by the caller."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.tasks: dict[str, Task] = {}
        self.nodes: dict[str, Node] = {}
        self._nodes_of_name: dict[str, dict[str, Node]] = {}
        self._versions: dict[str, dict[int, JobVersion]] = {}
        self._slots: dict[str, dict[int, Slot]] = {}
        self._job_ids: dict[tuple[str, str], str] = {}
        self._runs: dict[str, dict[str, Job]] = {}
        self._tasks_of_job: dict[str, dict[str, Task]] = {}
        self._tasks_in_slot: dict[str, dict[int, tuple[Task, ...]]] = {}
        self._tasks_of_node: dict[str, dict[str, Task]] = {}
        self._live: dict[str, dict[tuple[int, bool], int]] = {}
        """By job: tasks with a node that have not ended, by version and by whether they are to stop."""
        self.arriving: dict[str, Task] = {}
        """Tasks that are to relieve others and do not run yet; few."""
        self.nominated: dict[str, Task] = {}
        """Pending tasks for which others are displaced; few."""
        self.quotas: dict[str, Quota] = {}
        """By namespace."""
        self.authorities: dict[str, Authority] = {}
        """By the cluster's id: one, from the first term on that has a cluster key."""
        self.join_tokens: dict[str, JoinToken] = {}
        self.users: dict[str, User] = {}
        """By name."""
        self.enrolments: dict[str, Enrolment] = {}
        """By kind and id, as their names."""
        self.denied: dict[str, Denied] = {}
        self.next_keys: dict[str, NextKey] = {}
        """At most one."""
        """By serial."""
        self.assets = AssetIndex()
        self.foreign: dict[str, Foreign] = {}
        """Fields that only a later version knows, by the key of their record; as a rule there are none."""
        self._usage = UsageIndex()
        self.generation = 0
        self.revision = 0
        """Of the store, as of the last commit that is in here. Its owner sets both."""

    @classmethod
    def of(cls, records: Iterable[Record]) -> State:
        state = cls()
        for record in records:
            state.apply(Write(record))
        return state

    def fork(self) -> State:
        """An independent copy that shares the frozen values. Copies the indexes as they are: to build them anew takes
        twenty times as long, during which a leader of many tasks would do nothing else."""
        copy = State()
        for name, part in vars(self).items():
            setattr(copy, name, _copied(part) if isinstance(part, dict) else part)
        copy.assets, copy._usage = self.assets.copy(), self._usage.copy()
        return copy

    def records(self) -> Iterator[Record]:
        """Every record, jobs before what belongs to them."""
        yield from self.jobs.values()
        for versions in self._versions.values():
            yield from versions.values()
        yield from self.nodes.values()
        yield from self.tasks.values()
        for slots in self._slots.values():
            yield from slots.values()
        yield from self.quotas.values()
        yield from self.authorities.values()
        yield from self.join_tokens.values()
        yield from self.users.values()
        yield from self.enrolments.values()
        yield from self.denied.values()
        yield from self.next_keys.values()
        yield from self.assets.records()

    # --- lookups

    def job_named(self, namespace: str, name: str) -> Job | None:
        job_id = self._job_ids.get((namespace, name))
        return None if job_id is None else self.jobs[job_id]

    def runs_of(self, job_id: str) -> dict[str, Job]:
        """The jobs that are runs of this one."""
        return self._runs.get(job_id, {})

    def versions_of(self, job_id: str) -> dict[int, JobVersion]:
        return self._versions.get(job_id, {})

    def spec_of(self, job: Job) -> JobSpec:
        """The spec of the job's current version."""
        return self._versions[job.id][job.version].spec

    def spec_of_task(self, task: Task) -> JobSpec:
        return self._versions[task.job_id][task.version].spec

    def priority_of(self, task: Task) -> int:
        return self.jobs[task.job_id].priority

    def tasks_of_job(self, job_id: str) -> dict[str, Task]:
        return self._tasks_of_job.get(job_id, {})

    def all_stay(self, job_id: str, version: int) -> bool:
        """Whether every task of the job that is somewhere is of this version and to go on."""
        return self._live.get(job_id, {}).keys() <= {(version, False)}

    def nodes_named(self, name: str) -> Iterable[Node]:
        """Of one name: several where machines were replaced, or are copies of one another."""
        return self._nodes_of_name.get(name, {}).values()

    def tasks_in_slot(self, job_id: str, slot: int) -> tuple[Task, ...]:
        """All tasks of one slot, ended ones included."""
        return self._tasks_in_slot.get(job_id, {}).get(slot, ())

    def slots_with_tasks(self, job_id: str) -> Iterable[int]:
        return self._tasks_in_slot.get(job_id, {})

    def tasks_of_node(self, node_id: str) -> dict[str, Task]:
        return self._tasks_of_node.get(node_id, {})

    def slots_of(self, job_id: str) -> dict[int, Slot]:
        return self._slots.get(job_id, {})

    def slot_of(self, job_id: str, slot: int) -> Slot:
        """The slot's memory, an empty one when it has none yet."""
        return self.slots_of(job_id).get(slot) or Slot(job_id=job_id, slot=slot)

    def usage_of(self, namespace: str) -> dict[str, int]:
        """What the jobs of a namespace ask for, by resource as in `Quota`."""
        for job_id in self._usage.dirty:
            job = self.jobs.get(job_id)
            asked = asked_by(job, self.spec_of(job), self.tasks_of_job(job_id).values()) if job is not None else {}
            self._usage.set(job_id, job.namespace if job is not None else "", asked)
        return self._usage.of(namespace)

    # --- change

    def apply(self, change: Change) -> Applied:
        """Carry one change out and say what it was before. Keeps every index true."""
        after = change.record if isinstance(change, Write) else None
        match change.record:
            case Job():
                return Applied(before=self._set_job(change.record, after), after=after)
            case JobVersion(job_id=job_id, version=version):
                self._usage.mark(job_id)
                before = _set(self._versions, job_id, version, after)
                self.assets.count(before, -1)
                self.assets.count(change.record if after is not None else None, 1)
                return Applied(before=before, after=after)
            case Slot(job_id=job_id, slot=slot):
                return Applied(before=_set(self._slots, job_id, slot, after), after=after)
            case Node():
                return Applied(before=self._set_node(change.record, after), after=after)
            case Quota(namespace=namespace):
                return Applied(before=_set_flat(self.quotas, namespace, after), after=after)
            case Authority() | NextKey() | JoinToken() | User() | Enrolment() | Denied():
                return Applied(before=self._set_trust(change.record, after), after=after)
            case Asset() as asset:
                return Applied(before=self.assets.set_asset(asset, asset if after is not None else None), after=after)
            case AssetVersion() as content:
                stored = content if after is not None else None
                return Applied(before=self.assets.set_version(content, stored), after=after)
            case Task():
                return Applied(before=self._set_task(change.record, after), after=after)

    def _set_trust(self, record: Trust, after: Record | None) -> Trust | None:
        match record:
            case Authority(cluster_id=cluster_id):
                return _set_flat(self.authorities, cluster_id, after)
            case JoinToken(id=token_id):
                return _set_flat(self.join_tokens, token_id, after)
            case User(name=name):
                return _set_flat(self.users, name, after)
            case Enrolment(name=name):
                return _set_flat(self.enrolments, name, after)
            case NextKey(id=key_id):
                return _set_flat(self.next_keys, key_id, after)
            case Denied(serial=serial):
                return _set_flat(self.denied, serial, after)

    def _set_node(self, node: Node, after: Record | None) -> Node | None:
        before = _set_flat(self.nodes, node.id, after)
        if before is not None and (after is None or before.name != node.name):
            _set(self._nodes_of_name, before.name, node.id, None)
        if after is not None:
            _set(self._nodes_of_name, node.name, node.id, after)
        return before

    def _set_job(self, job: Job, after: Record | None) -> Job | None:
        self._usage.mark(job.id)
        before = _set_flat(self.jobs, job.id, after)
        name = (job.namespace, job.name)
        if job.run_of is not None:
            _set(self._runs, job.run_of.job_id, job.id, after)
        if after is not None:
            holder = self._job_ids.get(name)
            assert holder in (None, job.id), f"two jobs named {job.full_name}: {holder} and {job.id}"
            self._job_ids[name] = job.id
        elif before is not None:
            del self._job_ids[name]
        return before

    def _set_task(self, task: Task, after: Record | None) -> Task | None:
        before = _set_flat(self.tasks, task.id, after)
        if holds_slot(before) is not (after is not None and holds_slot(task)):
            self._usage.mark(task.job_id)
        if before is not None and before.node_id and (after is None or task.node_id != before.node_id):
            assert after is None, f"task {task.id} moved from node {before.node_id} to {task.node_id!r}"
            _set(self._tasks_of_node, before.node_id, task.id, None)
        _set(self._tasks_of_job, task.job_id, task.id, after)
        self._count_live(task.job_id, _live(before), _live(None if after is None else task))
        self._set_in_slot(before, task, after)
        if after is not None and task.node_id:
            _set(self._tasks_of_node, task.node_id, task.id, after)
        if task.nomination or (before is not None and before.nomination):
            _set_flat(self.nominated, task.id, after if _nominated(task) else None)
        if task.moves:
            _set_flat(self.arriving, task.id, after if _arriving(task) else None)
        return before

    def _count_live(self, job_id: str, before: tuple[int, bool] | None, after: tuple[int, bool] | None) -> None:
        if before == after:
            return
        counts = self._live.setdefault(job_id, {})
        for key, more in ((before, -1), (after, 1)):
            if key is not None:
                counts[key] = counts.get(key, 0) + more
                if not counts[key]:
                    del counts[key]
        if not counts:
            del self._live[job_id]

    def _set_in_slot(self, before: Task | None, task: Task, after: Record | None) -> None:
        there = self.tasks_in_slot(task.job_id, task.slot)
        if after is None:
            there = tuple(other for other in there if other.id != task.id)
        elif before is None:
            there = (*there, task)
        else:
            there = tuple(task if other.id == task.id else other for other in there)
        slots = self._tasks_in_slot.setdefault(task.job_id, {})
        slots[task.slot] = there
        if not there:
            del slots[task.slot]
        if not slots:
            del self._tasks_in_slot[task.job_id]


def _live(task: Task | None) -> tuple[int, bool] | None:
    if task is None or not task.node_id or task.ended:
        return None
    return task.version, task.desired is DesiredState.STOP


def _nominated(task: Task) -> bool:
    return task.nomination is not None and not task.node_id and task.desired is DesiredState.RUN and not task.ended


def _arriving(task: Task) -> bool:
    on_its_way = task.status.state is not TaskState.RUNNING and not task.ended
    return on_its_way and task.desired is DesiredState.RUN and not task.lost_at_s


def find_task(state: State, namespace: str, name: str) -> Task:
    """A task by id, by a unique prefix of it, or the newest live one of `job.slot` in the namespace.

    Raises `NotFound`, or `Conflict` when a prefix fits several.
    """
    if name in state.tasks:
        return state.tasks[name]
    job_name, _, slot = name.rpartition(".")
    job = state.job_named(namespace, job_name) if slot.isdecimal() else None
    if job is not None:
        tasks = [task for task in state.tasks_of_job(job.id).values() if task.slot == int(slot)]
        if tasks:
            return max(tasks, key=lambda task: (not task.ended, task.created_at_s))
    return state.tasks[_by_prefix("task", name, state.tasks)]


def find_job(state: State, namespace: str, name: str) -> Job:
    """A job as `name` in the namespace, as `namespace/name`, or by a unique prefix of its id."""
    if "/" in name:
        namespace, name = name.split("/", 1)
    job = state.job_named(namespace, name)
    if job is not None:
        return job
    try:
        return state.jobs[_by_prefix("job", name, state.jobs)]
    except NotFound:
        raise NotFound(f"no job {name!r} in namespace {namespace!r}") from None


def find_node(state: State, name: str) -> Node:
    """A node by name, id, or a unique prefix of its id."""
    for node in state.nodes.values():
        if name in (node.name, node.id):
            return node
    return state.nodes[_by_prefix("node", name, state.nodes)]


def _by_prefix(kind: str, prefix: str, ids: Iterable[str]) -> str:
    found = [identifier for identifier in ids if len(prefix) >= PREFIX_LENGTH and identifier.startswith(prefix)]
    if not found:
        raise NotFound(f"no {kind} {prefix!r}")
    if len(found) > 1:
        raise Conflict(f"{prefix!r} fits {len(found)} {kind}s: {', '.join(sorted(found)[:5])}; give more characters")
    return found[0]


def _copied(index: dict[Any, Any]) -> dict[Any, Any]:
    """Of an index of indexes those too."""
    nested = isinstance(next(iter(index.values()), None), dict)
    return {key: dict(inner) for key, inner in index.items()} if nested else dict(index)


def _set_flat(index: dict[KeyT, RecordT], key: KeyT, after: Record | None) -> RecordT | None:
    """Set or clear one entry; what it was before. `after` is of the index's own kind: its caller matched on it."""
    if after is None:
        return index.pop(key, None)
    before = index.get(key)
    index[key] = cast("RecordT", after)
    return before


def _set(index: dict[str, dict[KeyT, RecordT]], outer: str, inner: KeyT, after: Record | None) -> RecordT | None:
    """Set or clear `index[outer][inner]`, dropping the outer entry with its last inner one; what it was before."""
    entries = index.setdefault(outer, {})
    before = _set_flat(entries, inner, after)
    if not entries:
        del index[outer]
    return before
