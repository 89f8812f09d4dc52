"""What is wrong with a set of records taken together: references that lead nowhere, and rules that must always hold.

Pure, and trusts nothing: the records may come from a damaged store, so no `State` is built of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from common.model.asset import SHOWN_DIGEST_CHARACTERS, Asset, AssetVersion
from common.model.job import DesiredState, Job, JobVersion, PublishMode, TaskSpec
from common.model.node import Node
from common.model.quota import Quota
from common.model.resources import Resources
from common.model.store import Finding
from common.model.task import Slot, Task
from common.model.trust import Authority, Denied, Enrolment, JoinToken, NextKey, User
from controller.asset_index import uses_of
from controller.store.keys import Record, key_of

_SLOT_TASKS = 2
"""Of one slot at a time: the old and the new one, while a slot changes hands."""
_REPAIR = "keep a backup as evidence and report this: a fault of Podium or a write by hand made it"


class Records(msgspec.Struct, kw_only=True):
    """The records by what names them; of two with one name, the later."""

    jobs: dict[str, Job] = {}
    versions: dict[tuple[str, int], JobVersion] = {}
    tasks: dict[str, Task] = {}
    slots: list[Slot] = []
    nodes: dict[str, Node] = {}
    assets: dict[str, Asset] = {}
    contents: dict[tuple[str, str], AssetVersion] = {}

    @classmethod
    def of(cls, records: Iterable[Record]) -> Records:
        sorted_out = cls()
        for record in records:
            match record:
                case Job():
                    sorted_out.jobs[record.id] = record
                case JobVersion():
                    sorted_out.versions[record.job_id, record.version] = record
                case Task():
                    sorted_out.tasks[record.id] = record
                case Slot():
                    sorted_out.slots.append(record)
                case Node():
                    sorted_out.nodes[record.id] = record
                case Asset():
                    sorted_out.assets[record.key] = record
                case AssetVersion():
                    sorted_out.contents[record.key, record.digest] = record
                case Quota() | Authority() | NextKey() | JoinToken() | User() | Enrolment() | Denied():
                    pass  # they refer to nothing: a namespace is but a name
        return sorted_out

    def spec_of(self, task: Task) -> TaskSpec | None:
        version = self.versions.get((task.job_id, task.version))
        return None if version is None else version.spec.task


def findings(records: Records) -> tuple[Finding, ...]:
    """Everything that is wrong, references first."""
    return (
        *_references(records),
        *_names(records),
        *_slots(records),
        *_nodes(records),
        *_published(records),
        *_assets(records),
        *_strays(records),
    )


def _references(records: Records) -> Iterator[Finding]:
    for job in records.jobs.values():
        if (job.id, job.version) not in records.versions:
            yield _dangling(job, f"is at version {job.version}, which is not there")
    for version in records.versions.values():
        if version.job_id not in records.jobs:
            yield _leftover(version)
    for slot in records.slots:
        if slot.job_id not in records.jobs:
            yield _leftover(slot)
    for task in records.tasks.values():
        if task.job_id not in records.jobs:
            yield _dangling(task, f"belongs to job {task.job_id}, which is not there")
        elif records.spec_of(task) is None:
            yield _dangling(task, f"runs version {task.version} of {task.job_name}, which is not there")
        if task.node_id and not task.ended and task.node_id not in records.nodes:
            yield _dangling(task, f"is on node {task.node_id}, which is not there")


def _assets(records: Records) -> Iterator[Finding]:
    for version in records.versions.values():
        for key, digest in uses_of(version):
            if (key, digest) not in records.contents:
                shown = digest[:SHOWN_DIGEST_CHARACTERS]
                yield _dangling(version, f"uses version {shown or '?'} of {key}, which is not there")
    for content in records.contents.values():
        if content.key not in records.assets:
            yield _dangling(content, "is a version of what is not there")
    for asset in records.assets.values():
        if asset.kept and (asset.key, asset.current) not in records.contents:
            yield _dangling(asset, f"is at version {asset.current[:SHOWN_DIGEST_CHARACTERS]}, which is not there")


def _names(records: Records) -> Iterator[Finding]:
    for kind, names in (
        ("job", Counter(job.full_name for job in records.jobs.values())),
        ("slot memory of", Counter(f"{slot.job_id}/{slot.slot}" for slot in records.slots)),
    ):
        for name, count in names.items():
            if count > 1:
                yield Finding(
                    error=True,
                    subject=f"{kind} {name}",
                    text=f"is there {count} times",
                    why="no controller starts on such a state",
                    advice=_REPAIR,
                )


def _slots(records: Records) -> Iterator[Finding]:
    live = Counter(
        (task.job_name, task.slot)
        for task in records.tasks.values()
        if task.desired is DesiredState.RUN and not task.ended and not task.lost_at_s
    )
    for (job_name, slot), count in live.items():
        if count > _SLOT_TASKS:
            yield Finding(
                error=True,
                subject=f"{job_name}.{slot}",
                text=f"has {count} tasks that are meant to run; at most {_SLOT_TASKS} ever are, while it changes hands",
                why="more replicas run than were asked for",
                advice=f"podium ps {job_name}; if it stays so for minutes, podium restart {job_name}",
            )


def _nodes(records: Records) -> Iterator[Finding]:
    placed: dict[str, list[tuple[Task, TaskSpec]]] = defaultdict(list)
    for task in records.tasks.values():
        spec = records.spec_of(task)
        if task.node_id in records.nodes and not task.ended and spec is not None:
            placed[task.node_id].append((task, spec))
    for node_id, tasks in placed.items():
        yield from _reserved(records.nodes[node_id], [spec.reservations for _, spec in tasks])
        yield from _host_ports(records.nodes[node_id], tasks)


def _reserved(node: Node, reservations: Iterable[Resources]) -> Iterator[Finding]:
    reserved = Resources()
    for each in reservations:
        reserved = reserved + each
    capacity = node.description.capacity
    for name, need, have in (
        ("millicores", reserved.cpu_millis, capacity.cpu_millis),
        ("bytes of memory", reserved.memory_bytes, capacity.memory_bytes),
    ):
        if need > have:
            yield Finding(
                error=True,
                subject=f"node {node.name}",
                text=f"has {need} {name} reserved and offers {have}",
                why="its tasks may starve each other, or be killed for want of memory",
                advice=f"give it more (--cpus, --memory), or move tasks away: podium drain {node.name}",
            )


def _host_ports(node: Node, tasks: Iterable[tuple[Task, TaskSpec]]) -> Iterator[Finding]:
    owners: dict[tuple[int, str], list[Task]] = defaultdict(list)
    for task, spec in tasks:
        for port in spec.ports:
            if port.mode is PublishMode.HOST and port.published_port and task.desired is DesiredState.RUN:
                owners[port.published_port, port.protocol.value].append(task)
    for (number, protocol), holders in owners.items():
        if len(holders) > 1:
            names = ", ".join(f"{task.job_name}.{task.slot}" for task in holders)
            yield Finding(
                error=True,
                subject=f"node {node.name}",
                text=f"port {number}/{protocol} belongs to {len(holders)} tasks: {names}",
                why="only one of them can have it; the others fail",
                advice="scale one of the jobs down, or take the port out of its file",
            )


def _published(records: Records) -> Iterator[Finding]:
    holders: dict[str, list[str]] = defaultdict(list)
    for job in records.jobs.values():
        version = records.versions.get((job.id, job.version))
        for name in () if version is None or job.removed else version.spec.task.public_names:
            holders[name].append(job.full_name)
    for name, names in holders.items():
        if len(set(names)) > 1:
            yield Finding(
                error=True,
                subject=f"route {name}" if "/" not in name or not name[0].isdigit() else f"port {name}",
                text=f"is published by {', '.join(sorted(names))}",
                why="its traffic reaches one of them only",
                advice="publish something else in one of the files, and `podium up` it",
            )


def _strays(records: Records) -> Iterator[Finding]:
    for node in records.nodes.values():
        for stray in node.strays:
            yield Finding(
                error=False,
                subject=f"node {node.name}",
                text=f"runs task {stray.task_id} ({stray.job or 'of an unknown job'}), which this state does not know",
                why="it was made after the backup that was restored: it uses the node, and gets no traffic",
                advice="podium up its file, then stop it: podium store stop-strays " + stray.task_id,
            )


def _dangling(record: Record, text: str) -> Finding:
    return Finding(
        error=True, subject=key_of(record), text=text, why="a controller that needs it fails", advice=_REPAIR
    )


def _leftover(record: JobVersion | Slot) -> Finding:
    return Finding(
        error=False,
        subject=key_of(record),
        text=f"belongs to job {record.job_id}, which is not there",
        why="it only takes space",
        advice="nothing has to be done",
    )
