"""Composes the answer of `podium why`: what stands between a job or task and running well, or why it is where it is.

Puts together what others found: the scheduler's verdicts, unmet dependencies, the crash records of slots, the leader's
judgement of nodes. Pure; decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from common.model.api import JobView
from common.model.job import DesiredState, Job
from common.model.node import Availability, NodeStatus
from common.model.task import Attempt, Health, Slot, Task, TaskState
from common.model.verdict import Fix, Reason, Verdict
from common.units import size
from controller.core.balance import movables_on
from controller.core.clocks import since_s
from controller.core.daemon import unfit_because
from controller.core.dependencies import waits_for
from controller.core.events import task_subject
from controller.core.pending import leaving
from controller.core.placing import beside_kept_room
from controller.core.preemption import occupants, told, why_not
from controller.core.quota import may_grow
from controller.core.slots import Conditions
from controller.core.traffic import troubles
from controller.core.views import job_view
from controller.scheduler.explain import Around, explain_placed, explain_unplaced
from controller.scheduler.node_table import NodeTable
from controller.scheduler.values import Request
from controller.state import State

_ATTEMPTS_SHOWN = 3
_LOG_LINES_SHOWN = 5
_SLOTS_SHOWN = 5
_REASONS_SHOWN = 100
"""Of a job with thousands of tasks in trouble the first ones say enough."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an answer is made of."""

    state: State
    conditions: Conditions
    table: NodeTable
    now_s: float
    scaling: Callable[[str], tuple[str, ...]] = lambda _job_id: ()
    """What the last look at a job's load found, by job id."""


def why_job(known: Known, job: Job) -> Verdict:
    state = known.state
    view = job_view(state, job, known.conditions, known.now_s)
    counts = f"{view.healthy} of {view.desired} replicas are well"
    if view.spec.mode.ends:
        counts = f"{view.succeeded} of {view.desired} completed"
    verdict = f"{job.full_name} is {view.status.value}: {view.message or counts}"
    tasks = [task for task in _live(state, job) if task.desired is DesiredState.RUN]
    awaited = tuple(_dependencies(state, job, tasks))
    reasons = [
        *_will(job),
        *awaited,
        *_quota(state, job, view.desired - len({task.slot for task in tasks})),
        *(() if awaited else _rollout(view)),  # it waits for them as well
        *_traffic(known, job),
        *_autoscale(known, view),
        *_nodes_without(state, job),
    ]
    unplaced = _unplaced(known, job, tasks)
    for task in tasks:
        reasons += _observed(known, task)
    for slot in _failing(known, job):
        reasons += _attempts(state, slot)
    fixes: tuple[Fix, ...] = ()
    if unplaced is not None:
        verdict = f"{job.full_name} is {view.status.value}: {unplaced.verdict}"
        reasons, fixes = [*unplaced.reasons, *reasons], unplaced.fixes
    return Verdict(
        subject=f"job {job.full_name}", verdict=verdict, reasons=tuple(reasons[:_REASONS_SHOWN]), fixes=fixes
    )


def why_task(known: Known, task: Task) -> Verdict:
    state, subject = known.state, task_subject(task)
    slot = _attempts(state, state.slot_of(task.job_id, task.slot), task.id)
    if not task.node_id and not task.ended:
        unplaced = _explained(known, [task], per_node=True)
        return msgspec.structs.replace(unplaced, subject=subject, reasons=(*unplaced.reasons, *slot))
    node = state.nodes.get(task.node_id)
    text = f"{task.job_name}.{task.slot} is {task.state.value} on {node.name if node else task.node_id}"
    why = task.status.message or task.reason
    reasons = (*_observed(known, task), *slot)
    if task.ended or task.lost_at_s or task.desired is DesiredState.STOP:
        stop = f", and is to stop: {task.reason}" if not task.ended and task.desired is DesiredState.STOP else ""
        return Verdict(subject=subject, verdict=f"{text}: {why}{stop}" if why else f"{text}{stop}", reasons=reasons)
    place = explain_placed(known.table, _request(state, [task]), task.node_id, task.devices)
    well = task.status.state is TaskState.RUNNING and not reasons
    return msgspec.structs.replace(
        place,
        subject=subject,
        verdict=place.verdict if well else (f"{text}: {why}" if why else text),
        reasons=(*reasons, *place.reasons),
    )


# --- grounds


def _will(job: Job) -> Iterator[Reason]:
    if job.removed:
        yield Reason(reason="removed", text=f"{job.full_name} was removed; it disappears when its tasks have stopped")
    elif job.desired is DesiredState.STOP:
        yield Reason(reason="stopped", text=f"{job.full_name} was stopped; bring it back with up or restart")


def _dependencies(state: State, job: Job, tasks: list[Task]) -> Iterator[Reason]:
    """Dependencies order starts: they explain nothing of a version that has begun."""
    if job.desired is DesiredState.RUN and not any(task.version == job.version for task in tasks):
        for text in waits_for(state, state.spec_of(job)):
            yield Reason(reason="dependency", text=text)


def _quota(state: State, job: Job, missing: int) -> Iterator[Reason]:
    """Why a job that grows by itself does not."""
    if missing > 0 and (text := may_grow(state, job, state.spec_of(job), 0)):
        yield Reason(reason="quota", text=text)


def _rollout(view: JobView) -> Iterator[Reason]:
    if view.rollout:
        yield Reason(reason="rollout", text=view.rollout)
        yield from (Reason(reason="rollout", text=text) for text in view.rollout_steps if len(view.rollout_steps) > 1)
    if view.job.note:
        yield Reason(reason="rollout", text=view.job.note)


def _traffic(known: Known, job: Job) -> Iterator[Reason]:
    if job.desired is DesiredState.RUN and not job.removed:
        for trouble in troubles(known.state, known.state.spec_of(job), known.conditions):
            yield Reason(reason="traffic", node=trouble.node, text=trouble.text)


def _autoscale(known: Known, view: JobView) -> Iterator[Reason]:
    """How its number came to be, and what every metric says of it now."""
    job = view.job
    if job.autoscale is None or job.removed or job.desired is DesiredState.STOP:
        return
    yield Reason(reason="autoscale", have=str(job.replicas), text=f"it is scaled {view.autoscale}")
    for text in known.scaling(job.id) or ("its load was not looked at yet",):
        yield Reason(reason="autoscale", text=text)


def _unplaced(known: Known, job: Job, tasks: list[Task]) -> Verdict | None:
    """Why tasks of the wanted version, or else of another, have no node."""
    pending = sorted((task for task in tasks if not task.node_id), key=lambda task: (-task.version, task.slot))
    if not pending:
        return None
    if known.state.spec_of(job).mode.per_node:
        return _each_explained(known, pending)
    same = [task for task in pending if task.version == pending[0].version]
    return _explained(known, same)


def _each_explained(known: Known, tasks: list[Task]) -> Verdict:
    """Each of these has a node of its own to wait for."""
    verdicts = [_explained(known, [task]) for task in tasks[:_SLOTS_SHOWN]]
    reasons = tuple(reason for verdict in verdicts for reason in verdict.reasons)
    text = "; ".join(verdict.verdict for verdict in verdicts)
    more = f"; {len(tasks) - len(verdicts)} more wait" if len(tasks) > len(verdicts) else ""
    return msgspec.structs.replace(verdicts[0], verdict=f"{text}{more}", reasons=reasons)


def _nodes_without(state: State, job: Job) -> Iterator[Reason]:
    """Of a job with a slot for each node: the nodes that have none, and why."""
    spec = state.spec_of(job)
    if not spec.mode.per_node or job.removed or job.desired is DesiredState.STOP or spec.schedule is not None:
        return
    for node in sorted(state.nodes.values(), key=lambda node: node.name):
        if unfit := unfit_because(node, spec.task):
            yield Reason(reason="unfit", node=node.name, text=f"no task on node {node.name}: it {unfit}")
        elif node.availability is Availability.DRAINING:
            yield Reason(
                reason="availability", node=node.name, text=f"no task stays on node {node.name}: it is draining"
            )


def _explained(known: Known, tasks: list[Task], *, per_node: bool = False) -> Verdict:
    """Why these like tasks have no node, whom they might displace, and by whom they were displaced."""
    state, request = known.state, _request(known.state, tasks)
    table = beside_kept_room(state, known.table, request, known.conditions, known.now_s)
    unplaced = explain_unplaced(table, request, per_node=per_node, around=_around(known))
    left = why_not(state, table, request, known.now_s) if unplaced.reasons else ""
    more = (Reason(reason="preemption", text=left),) if left else ()
    verdict = told(state, tasks[0], None, unplaced)
    return msgspec.structs.replace(verdict, reasons=(*unplaced.reasons, *more))


def _around(known: Known) -> Around:
    state = known.state

    def name(task_id: str) -> str:
        task = state.tasks[task_id]
        return f"{task.job_name}.{task.slot}"

    return Around(
        occupants=lambda node_id: occupants(state, node_id, known.now_s),
        movables=lambda node_id: movables_on(state, known.conditions, node_id, known.now_s),
        name=name,
    )


def _request(state: State, tasks: list[Task]) -> Request:
    """What the scheduler was asked for these tasks of one job and version."""
    task = tasks[0]
    return Request(
        job_id=task.job_id,
        task_ids=tuple(task.id for task in tasks),
        spec=state.spec_of_task(task),
        avoid=state.slot_of(task.job_id, task.slot).failed_nodes,
        priority=state.priority_of(task),
        only=task.only_node,
        leaving=leaving(state, task.job_id, task.version),
    )


def _observed(known: Known, task: Task) -> Iterator[Reason]:
    """What keeps a task that has a node from running well."""
    node = known.state.nodes.get(task.node_id)
    name = node.name if node else task.node_id
    who = f"{task.job}.{task.slot}"
    if task.lost_at_s and not task.ended:
        yield Reason(reason="lost", node=name, text=f"{who} was given up: {task.reason}")
    elif task.node_id and not task.ended:
        yield from _node(known, task, name)
        if task.status.state is TaskState.RUNNING:
            yield from _health(task, name, who)
        else:
            text = f"{who} is {task.state.value} on {name}"
            said = f"{text}: {task.status.message}" if task.status.message else text
            yield Reason(reason="state", node=name, text=said)


def _node(known: Known, task: Task, name: str) -> Iterator[Reason]:
    condition = known.conditions.get(task.node_id)
    if condition is None or condition.status is not NodeStatus.READY:
        status = condition.status.value if condition else "not heard of"
        yield Reason(reason="status", node=name, have=status, need="ready", text=f"node {name} is {status}")
        if task.lost_after_s:
            yield Reason(reason="exclusive", node=name, text=_exclusive_wait(task))
    elif condition.runtime_trouble:
        yield Reason(reason="runtime", node=name, text=f"node {name} is degraded: {condition.runtime_trouble}")
    node = known.state.nodes.get(task.node_id)
    if node is not None and node.availability is Availability.DRAINING and task.desired is DesiredState.RUN:
        text = f"node {name} is being drained: `podium drain {name} --plan` says what its tasks wait for"
        have = node.availability.value
        yield Reason(reason="availability", node=name, have=have, need=Availability.ACTIVE.value, text=text)


def _exclusive_wait(task: Task) -> str:
    return (
        f"{task.job}.{task.slot} is exclusive: its node stops it {task.fence_after_s:g} s after the last "
        f"acknowledgement, and only when the node was silent for {task.lost_after_s:g} s another one may run it"
    )


def _health(task: Task, name: str, who: str) -> Iterator[Reason]:
    if task.status.health in (Health.UNHEALTHY, Health.STARTING):
        word = "fails its health check" if task.status.health is Health.UNHEALTHY else "has not passed its health check"
        text = f"{who} {word} on {name}"
        yield Reason(reason="health", node=name, text=f"{text}: {task.status.message}" if task.status.message else text)


def _live(state: State, job: Job) -> list[Task]:
    tasks = [task for task in state.tasks_of_job(job.id).values() if not task.ended]
    return sorted(tasks, key=lambda task: (task.slot, task.created_at_s))


def _failing(known: Known, job: Job) -> list[Slot]:
    """The slots with most trouble: those that failed for good, or whose task is being or was lately restarted."""
    restarting = {task.slot for task in _live(known.state, job) if _crashes(known, task)}
    slots = [slot for slot in known.state.slots_of(job.id).values() if slot.failures or slot.slot in restarting]
    return sorted(slots, key=lambda slot: (-slot.failures, slot.slot))[:_SLOTS_SHOWN]


def _crashes(known: Known, task: Task) -> bool:
    """Whether it crashed, and has not run for as long since as makes its restarts forgotten."""
    if task.status.state is TaskState.RESTARTING:
        return True
    window_s = known.state.spec_of_task(task).task.restart.window_s
    return task.status.attempt > 1 and since_s(task.observed_at_s, known.now_s) < window_s


def _attempts(state: State, slot: Slot, task_id: str = "") -> Iterator[Reason]:
    """The last crash records, newest first, and the last lines of the newest."""
    records = [attempt for attempt in slot.attempts if task_id in ("", attempt.task_id)][-_ATTEMPTS_SHOWN:]
    for place, attempt in enumerate(reversed(records)):
        node = state.nodes.get(attempt.node_id)
        name = node.name if node else attempt.node_id
        text = f"attempt {attempt.number} of slot {slot.slot} on {name}: {attempt_text(attempt)}"
        yield Reason(reason="attempt", node=name, text=text)
        if place == 0:
            for line in attempt.log_tail[-_LOG_LINES_SHOWN:]:
                yield Reason(reason="log", node=name, text=line)
            said = attempt.health_output.strip()
            if said and said not in attempt.message:
                yield Reason(reason="health", node=name, text=f"its last health check said: {said}")


def attempt_text(attempt: Attempt) -> str:
    """How an attempt ended, in the agent's words if it said any; of one that ran out of memory, how much it had."""
    if attempt.oom and attempt.memory_limit_bytes:
        used, allowed = size(attempt.memory_peak_bytes), size(attempt.memory_limit_bytes)
        return f"ran out of memory: {used} used of {allowed} allowed"
    if attempt.message:
        return attempt.message
    if attempt.signal:
        return f"killed by {attempt.signal}"
    return "ended, nobody knows how" if attempt.exit_code is None else f"exited with code {attempt.exit_code}"
