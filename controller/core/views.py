"""Jobs, tasks and nodes as people are shown them: the records, completed by what only the leader knows."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from common.lifecycle import ended
from common.model.api import DeviceHolder, JobDetail, JobStatus, JobView, NodeView, RunView, ScheduleView, TaskView
from common.model.job import DesiredState, Job, JobSpec, Schedule
from common.model.node import Node, NodeCondition, NodeStatus
from common.model.resources import Resources
from common.model.rollout import Rollout, RolloutPhase, RolloutStrategy
from common.model.task import Health, Task, TaskState
from common.model.verdict import Verdict
from common.schedule import next_after, shown
from common.units import times
from controller.core import batch
from controller.core import rollout_machine as machine
from controller.core.autoscale import asleep_text, bounds_text
from controller.core.dependencies import waits_for
from controller.core.rollout_words import standing, steps_text
from controller.core.runs import due_s, newest_first
from controller.core.slots import Conditions, good
from controller.core.targets import Targets, targets_of
from controller.core.traffic import in_short, troubles
from controller.state import State

Verdicts = Mapping[str, Verdict]
"""Of tasks that no node can take, by task id."""


def task_view(state: State, task: Task, conditions: Conditions, verdicts: Verdicts | None = None) -> TaskView:
    node = state.nodes.get(task.node_id)
    verdict = (verdicts or {}).get(task.id)
    message = task.status.message or (verdict.verdict if verdict else "") or _reason(task)
    return TaskView(
        task=task,
        state=task.state,
        health=_health(task, conditions),
        node=node.name if node else task.node_id,
        message=message,
    )


def _reason(task: Task) -> str:
    """Why it goes or was given up. Why a task came to be is for `why`, and no news while it simply runs."""
    if task.displaced is not None and task.displaced.task_id and task.desired is DesiredState.RUN:
        return f"preempted by {task.displaced.by}: stops when its successor is well"
    return task.reason if task.lost_at_s or task.desired is DesiredState.STOP else ""


def _health(task: Task, conditions: Conditions) -> Health:
    condition = conditions.get(task.node_id)
    silent = condition is not None and condition.status in (NodeStatus.UNREACHABLE, NodeStatus.DOWN)
    return Health.UNKNOWN if silent and not task.ended else task.status.health


def job_view(state: State, job: Job, conditions: Conditions, now_s: float, verdicts: Verdicts | None = None) -> JobView:
    spec = state.spec_of(job)
    if spec.schedule is not None and not job.removed and job.desired is DesiredState.RUN:
        return _scheduled_view(state, job, spec, spec.schedule, conditions, now_s)
    targets = targets_of(state, job, spec, conditions)
    sized = msgspec.structs.replace(job, replicas=len(targets.slots))
    tasks = [task for task in state.tasks_of_job(job.id).values() if task.slot in targets.slots]
    running = [task for task in tasks if task.state is TaskState.RUNNING and task.desired is DesiredState.RUN]
    healthy = {task.slot for task in running if good(task, state.spec_of_task(task), conditions, now_s)}
    complete = {task.slot for task in tasks if _complete(task, job)}
    rollout = machine.current(job, spec)
    if targets.known is None:
        well, badly = 0, 0
        status, message = _status(state, sized, spec, tasks, healthy, complete, verdicts or {})
    else:
        well, badly = batch.numbers_of(targets.known, targets.slots, spec)
        status, message = _ending(state, sized, spec, tasks, targets, verdicts or {})
    if not message and status is JobStatus.RUNNING:
        message = in_short(troubles(state, spec, conditions)) or asleep_text(job)
    return JobView(
        job=job,
        spec=spec,
        status=status,
        desired=sized.replicas if job.desired is DesiredState.RUN else 0,
        running=len({task.slot for task in running}),
        healthy=len(healthy),
        message=message,
        succeeded=well,
        failed=badly,
        rollout=standing(sized, spec, rollout) if rollout is not None and _is_told(job) else "",
        rollout_steps=steps_text(rollout, spec, sized.replicas) if machine.active(rollout) and rollout else (),
        autoscale=_autoscale(job),
    )


def _is_told(job: Job) -> bool:
    """Whether its rollout is worth a word: one of a job that sleeps goes on when it is woken."""
    return job.desired is DesiredState.RUN and (job.replicas > 0 or job.autoscale is None)


def _autoscale(job: Job) -> str:
    """`between 2 and 10 by cpu 70 %; last from 2 to 4: cpu is 140 % ...; woke in 0.41 s: ...`."""
    if job.autoscale is None:
        return ""
    last = job.scaling.steps[-1] if job.scaling.steps else None
    change = f"last from {last.before} to {last.after}: {job.scaling.reason}" if last is not None else ""
    return "; ".join(filter(None, (bounds_text(job.autoscale), change, job.scaling.woke)))


def _ending(
    state: State, job: Job, spec: JobSpec, tasks: list[Task], targets: Targets, verdicts: Verdicts
) -> tuple[JobStatus, str]:
    """Of a job whose tasks end."""
    assert targets.known is not None
    if job.removed or job.desired is DesiredState.STOP:
        return _stopping(job, tasks)
    well, badly = batch.numbers_of(targets.known, targets.slots, spec)
    text = batch.outcome(job, targets.known, targets.slots, spec)
    if batch.progress_of(job).ended_at_s or well + badly >= len(targets.slots):
        if badly or batch.expired(job):
            return JobStatus.FAILED, text
        return JobStatus.COMPLETE, ""
    if batch.progress_of(job).version and not waits_for_node(tasks, verdicts):
        return JobStatus.PROGRESSING, text
    return _unfinished(state, job, spec, tasks, job.replicas - well, verdicts)


def waits_for_node(tasks: list[Task], verdicts: Verdicts) -> bool:
    """Whether no node can take some task that should run."""
    return any(task.id in verdicts and task.desired is DesiredState.RUN and not task.node_id for task in tasks)


def over(state: State, run: Job) -> bool:
    """Whether nothing of a job whose tasks end runs any more, and nothing will. Nodes and time have no say in that."""
    if any(not task.ended and not task.lost_at_s for task in state.tasks_of_job(run.id).values()):
        return False
    ended = bool(batch.progress_of(run).ended_at_s)
    if ended or (state.spec_of(run).mode.per_node and run.desired is DesiredState.RUN and not run.removed):
        return ended  # which nodes it is about depends on how they are
    return job_view(state, run, {}, 0.0).status in (JobStatus.COMPLETE, JobStatus.FAILED, JobStatus.STOPPED)


def _scheduled_view(
    state: State, job: Job, spec: JobSpec, schedule: Schedule, conditions: Conditions, now_s: float
) -> JobView:
    """A job with a schedule does what it should while it waits; how its runs went stands with them."""
    until_s = max(now_s, job.recurrence.until_s) if job.recurrence is not None else now_s
    runs = []
    for run in newest_first(state, job):
        view = job_view(state, run, conditions, now_s)
        runs.append(RunView(name=run.name, due_s=due_s(run), status=view.status, message=view.message))
    known = ScheduleView(next_s=next_after(schedule.cron, schedule.timezone, until_s), runs=tuple(runs))
    return JobView(
        job=job,
        spec=spec,
        status=JobStatus.RUNNING,
        desired=0,
        running=0,
        healthy=0,
        message=_schedule_text(job, schedule, known),
        schedule=known,
    )


def _schedule_text(job: Job, schedule: Schedule, known: ScheduleView) -> str:
    """`next run 2026-03-30 03:00 CEST; last run backup-20260329-0100 is complete`."""
    texts = [f"next run {shown(known.next_s, schedule.timezone)}"]
    if job.recurrence is not None and job.recurrence.waiting_s:
        texts.append(f"the run due at {shown(job.recurrence.waiting_s, schedule.timezone)} waits for the one before")
    if known.runs:
        last = known.runs[0]
        texts.append(f"last run {last.name} is {last.status.value}" + (f": {last.message}" if last.message else ""))
    if job.recurrence is not None and job.recurrence.note:
        texts.append(job.recurrence.note)
    return "; ".join(texts)


def job_detail(
    state: State, job: Job, conditions: Conditions, now_s: float, verdicts: Verdicts | None = None
) -> JobDetail:
    """The job with its tasks, ended ones included, by slot and age, and its slots' memory."""
    tasks = sorted(state.tasks_of_job(job.id).values(), key=lambda task: (task.slot, task.created_at_s, task.id))
    return JobDetail(
        view=job_view(state, job, conditions, now_s, verdicts),
        tasks=tuple(task_view(state, task, conditions, verdicts) for task in tasks),
        slots=tuple(slot for _, slot in sorted(state.slots_of(job.id).items())),
    )


def node_view(state: State, node: Node, condition: NodeCondition | None) -> NodeView:
    holding = _holding(state, node)
    reserved = sum((state.spec_of_task(task).task.reservations for task in holding), Resources())
    wanted = sum(task.desired is DesiredState.RUN for task in holding)
    return NodeView(node=node, condition=condition or NodeCondition(node_id=node.id), reserved=reserved, tasks=wanted)


def node_detail(state: State, node: Node, condition: NodeCondition | None) -> NodeView:
    """Also who holds its devices."""
    holders = (
        DeviceHolder(grant=grant, task_id=task.id, job=task.job_name, slot=task.slot)
        for task in _holding(state, node)
        for grant in task.devices
    )
    ordered = sorted(holders, key=lambda held: (held.grant.kind, held.grant.id, held.job, held.slot, held.task_id))
    return msgspec.structs.replace(node_view(state, node, condition), device_holders=tuple(ordered))


def _holding(state: State, node: Node) -> list[Task]:
    """Its tasks that may still run there."""
    return [task for task in state.tasks_of_node(node.id).values() if not task.ended and not task.lost_at_s]


def _complete(task: Task, job: Job) -> bool:
    return task.status.state is TaskState.COMPLETE and task.version == job.version and task.desired is DesiredState.RUN


def _status(
    state: State, job: Job, spec: JobSpec, tasks: list[Task], healthy: set[int], complete: set[int], verdicts: Verdicts
) -> tuple[JobStatus, str]:
    if job.removed or job.desired is DesiredState.STOP:
        return _stopping(job, tasks)
    if complete:
        failed = _failed_for_good(tasks, job)
        if failed is not None:
            return JobStatus.FAILED, _end_text(failed)
        if len(complete) >= job.replicas:
            return JobStatus.COMPLETE, ""
    rollout = machine.current(job, spec)
    if job.paused or (rollout is not None and rollout.phase is RolloutPhase.FAILED):
        return JobStatus.DEGRADED, standing(job, spec, rollout) if rollout is not None else ""
    missing = job.replicas - len(healthy | complete)
    outdated = any(task.version != job.version and task.desired is DesiredState.RUN for task in tasks if not task.ended)
    if missing <= 0 and not (outdated or _in_steps(rollout)):
        nowhere = "no node fits" if spec.mode.per_node and not job.replicas else ""
        return JobStatus.RUNNING, job.note or nowhere
    if missing <= 0 and rollout is not None and rollout.phase is RolloutPhase.AWAITING:
        return JobStatus.PROGRESSING, standing(job, spec, rollout)
    return _unfinished(state, job, spec, tasks, missing, verdicts)


def _in_steps(rollout: Rollout | None) -> bool:
    """Whether it has to go on although every slot is well: tasks of the new version run beside the old ones."""
    return rollout is not None and machine.active(rollout) and rollout.strategy is not RolloutStrategy.ROLLING


def _stopping(job: Job, tasks: list[Task]) -> tuple[JobStatus, str]:
    left = sum(not task.ended and not task.lost_at_s for task in tasks)
    what = "being removed" if job.removed else "stopped"
    return JobStatus.STOPPED, f"{what}, {left} tasks are still stopping" if left else (what if job.removed else "")


def _failed_for_good(tasks: list[Task], job: Job) -> Task | None:
    for task in tasks:
        last = not any(other.slot == task.slot and other.created_at_s > task.created_at_s for other in tasks)
        if task.status.state is TaskState.FAILED and task.version == job.version and last:
            return task
    return None


def _unfinished(
    state: State, job: Job, spec: JobSpec, tasks: list[Task], missing: int, verdicts: Verdicts
) -> tuple[JobStatus, str]:
    """Something is missing: degraded when what failed or cannot be placed stands in the way, else progressing."""
    waits = waits_for(state, spec)
    started = any(task.version == job.version for task in tasks)
    if waits and not started:
        return JobStatus.PROGRESSING, "; ".join(waits)
    for task in tasks:
        if task.id in verdicts and task.desired is DesiredState.RUN and not task.node_id:
            return JobStatus.DEGRADED, verdicts[task.id].verdict
    troubled = _troubled(state, job, tasks)
    if troubled is not None:
        return JobStatus.DEGRADED, troubled
    if job.note:
        return JobStatus.DEGRADED, job.note
    return (
        JobStatus.PROGRESSING,
        f"{missing} of {job.replicas} replicas are on their way" if missing > 0 else _rolling(job, spec),
    )


def _rolling(job: Job, spec: JobSpec) -> str:
    rollout = machine.current(job, spec)
    return (standing(job, spec, rollout) if rollout is not None else "") or "rolling out"


def _troubled(state: State, job: Job, tasks: list[Task]) -> str | None:
    """The worst recent trouble of a slot that is not well, in the words of its last failure."""
    for slot in sorted(state.slots_of(job.id).values(), key=lambda slot: -slot.failures):
        live = [task for task in tasks if task.slot == slot.slot and not ended(task.status.state)]
        if slot.failures and not any(task.status.state is TaskState.RUNNING for task in live):
            said = slot.attempts[-1].message if slot.attempts else ""
            last = max(
                (task for task in tasks if task.slot == slot.slot), key=lambda task: task.created_at_s, default=None
            )
            why = said or (_end_text(last) if last and last.ended else "")
            return f"{job.name}.{slot.slot} failed {times(slot.failures)}" + (f": {why}" if why else "")
    for task in tasks:
        if task.desired is DesiredState.RUN and task.status.state is TaskState.RESTARTING:
            return _end_text(task)
    return None


def _end_text(task: Task) -> str:
    return f"{task.job}.{task.slot} {task.status.state.value}: {task.status.message or 'no reason was reported'}"
