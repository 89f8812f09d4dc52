"""Brings what agents observed into the ledger: many nodes' reports in one transaction, acknowledged after its commit.

Reports wait merged by task, so a slow store makes commits larger and never the memory. A node speaks for its own tasks
only; what it says of others, or of tasks the controller has forgotten, is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from common.lifecycle import merge
from common.model.job import DesiredState, Job
from common.model.session import StatusBatch
from common.model.task import Attempt, Health, Slot, Task, TaskReport, TaskState, TaskStatus
from common.settings import LIMITS, Limits
from controller.core.confine import TEXT_CHARACTERS, status_fault, status_within_bounds, time_s
from controller.core.image_ports import learned
from controller.core.observe import observe
from controller.dispatcher.settings import DispatcherSettings
from controller.ledger import Ledger
from controller.state import Group, State, Write

logger = logging.getLogger(__name__)


class Acknowledged(Protocol):
    """Who is told that a batch is in the store."""

    node_id: str

    def acknowledge(self, sequence: int) -> None: ...


# --- pure: from reports to changes


def status_changes(
    state: State,
    reports: Iterable[tuple[str, TaskReport]],
    now_s: float,
    limits: Limits = LIMITS,
    *,
    address: str = "",
) -> tuple[Group, ...]:
    """The changes that (node id, report) pairs make, one group for each slot and one for each job that they tell of;
    what says nothing new makes none.

    `address`: of the node they all come from, which its record does not have yet.
    """
    tasks: dict[tuple[str, int], dict[str, Task]] = {}
    slots: dict[tuple[str, int], Slot] = {}
    for node_id, report in reports:
        task = own_task(state, node_id, report)
        if task is None:
            continue
        key = (task.job_id, task.slot)
        known = tasks.setdefault(key, {}).get(task.id, task)
        tasks[key][task.id] = observe(known, _within_bounds(state, task, report.status, address), now_s)
        slot = slots.get(key) or state.slot_of(*key)
        slots[key] = _with_attempts(slot, task, report.ended, limits)
    groups = (_group(state, tasks[key].values(), slots[key]) for key in tasks)
    return (*filter(None, groups), *_learned(state, (task for found in tasks.values() for task in found.values())))


def own_task(state: State, node_id: str, report: TaskReport) -> Task | None:
    """The task that a node may report on, if it is one of its own and the report is one an agent can make."""
    task = state.tasks.get(report.task_id)
    if task is None or task.node_id != node_id:
        return None
    if report.status.state in (TaskState.LOST, TaskState.PENDING) or report.status.health is Health.UNKNOWN:
        return None
    return None if status_fault(report.status) else task


def _within_bounds(state: State, task: Task, status: TaskStatus, address: str) -> TaskStatus:
    node = state.nodes.get(task.node_id)
    at = address or ("" if node is None else node.description.address)
    return status_within_bounds(status, state.spec_of_task(task), at)


def missing_from(state: State, node_id: str, inventory: Iterable[TaskReport]) -> tuple[TaskReport, ...]:
    """Reports for tasks that the node once reported to run and now, registering, no longer knows.

    Its journal is lost, so nothing the agent could say would ever count against what was seen before: the task has
    ended, and its slot gets a new one. That counts once the agent has answered: a registration may have lain in the
    buffers of a frozen controller, and be older than the task.
    Tasks that the node never took up are simply assigned again.
    """
    known = {report.task_id for report in inventory}
    return tuple(
        TaskReport(task_id=task.id, status=_forgotten(task))
        for task in state.tasks_of_node(node_id).values()
        if task.id not in known and task.status.attempt and not task.ended
    )


def _forgotten(task: Task) -> TaskStatus:
    stopping = task.desired is DesiredState.STOP
    return msgspec.structs.replace(
        task.status,
        state=TaskState.STOPPED if stopping else TaskState.FAILED,
        sequence=task.status.sequence + 1,
        exit_code=None,
        message="the agent came back without this task: its data directory was lost or replaced",
    )


def _group(state: State, tasks: Iterable[Task], slot: Slot) -> Group:
    changed: list[Write] = [Write(task) for task in tasks if task is not state.tasks[task.id]]
    if slot != state.slot_of(slot.job_id, slot.slot):
        changed.append(Write(slot))
    return tuple(changed)


def _learned(state: State, tasks: Iterable[Task]) -> Iterator[Group]:
    """What running tasks tell of their jobs."""
    jobs: dict[str, Job] = {}
    for task in tasks:
        job = jobs.get(task.job_id) or state.jobs.get(task.job_id)
        if job is not None:
            jobs[job.id] = learned(job, task, state.spec_of_task(task))
    return ((Write(job),) for job in jobs.values() if job is not state.jobs[job.id])


def _with_attempts(slot: Slot, task: Task, ended: Iterable[Attempt], limits: Limits) -> Slot:
    """The slot with these crash records added in order; one it has already is not added again."""
    known = {(attempt.task_id, attempt.number) for attempt in slot.attempts}
    fresh = [
        _record(attempt, task, limits)
        for attempt in ended
        if attempt.task_id == task.id and (attempt.task_id, attempt.number) not in known
    ]
    if not fresh:
        return slot
    return msgspec.structs.replace(slot, attempts=(*slot.attempts, *fresh)[-limits.attempts_kept :])


def _record(attempt: Attempt, task: Task, limits: Limits) -> Attempt:
    """The crash record within its limits: the log loses its oldest lines first."""
    attempt = msgspec.structs.replace(
        attempt,
        node_id=task.node_id,
        version=task.version,
        started_at_s=time_s(attempt.started_at_s),
        ended_at_s=time_s(attempt.ended_at_s),
        signal=attempt.signal[:32],
        message=attempt.message[:TEXT_CHARACTERS],
        log_tail=attempt.log_tail[-limits.attempt_log_lines :],
        health_output=attempt.health_output[: limits.health_output_bytes],
    )
    while attempt.log_tail and len(msgspec.json.encode(attempt)) > limits.attempt_record_bytes:
        attempt = msgspec.structs.replace(attempt, log_tail=attempt.log_tail[1:])
    while len(msgspec.json.encode(attempt)) > limits.attempt_record_bytes:
        half = len(attempt.health_output) // 2, len(attempt.message) // 2
        attempt = msgspec.structs.replace(
            attempt, health_output=attempt.health_output[: half[0]], message=attempt.message[: half[1]]
        )
    return attempt


# --- the thin shell


class StatusInbox:
    """See the module."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float], settings: DispatcherSettings) -> None:
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._reports: dict[str, tuple[str, TaskReport]] = {}
        self._sequences: dict[Acknowledged, int] = {}
        self._arrived = asyncio.Event()

    def add(self, sender: Acknowledged, batch: StatusBatch) -> None:
        """Take a batch over. `sender` hears of it when it is in the store."""
        self._sequences[sender] = max(batch.sequence, self._sequences.get(sender, 0))
        self.note(sender.node_id, batch.reports)

    def note(self, node_id: str, reports: Iterable[TaskReport]) -> None:
        """Take over what is known of a node's tasks; nobody waits to hear of it."""
        for report in reports:
            if own_task(self._ledger.state, node_id, report) is not None:
                before = self._reports.get(report.task_id)
                merged = report if before is None else _merged(before[1], report)
                self._reports[report.task_id] = (node_id, merged)
        self._arrived.set()

    async def run(self) -> None:
        """Commit what arrives, for as long as the term lasts."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(self._settings.status_linger_s)
            self._arrived.clear()
            reports, self._reports = self._reports, {}
            sequences, self._sequences = self._sequences, {}
            waiting, size = list(reports.values()), self._settings.reports_per_transaction
            for start in range(0, len(waiting), size):
                await self._commit(waiting[start : start + size])
            for sender, sequence in sequences.items():
                sender.acknowledge(sequence)

    async def _commit(self, reports: Sequence[tuple[str, TaskReport]]) -> None:
        await self._ledger.submit(lambda state: status_changes(state, reports, self._clock()))


def _merged(before: TaskReport, after: TaskReport) -> TaskReport:
    """Two reports of one task as one."""
    known = {attempt.number for attempt in before.ended}
    ended = (*before.ended, *(attempt for attempt in after.ended if attempt.number not in known))
    return TaskReport(
        task_id=after.task_id,
        status=merge(before.status, after.status),
        ended=ended[-LIMITS.attempts_kept :],
    )
