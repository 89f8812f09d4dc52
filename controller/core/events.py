"""Says in words what a committed change, or a change of a node's condition, means to people. Decides nothing.

An event here has neither time nor sequence: `controller.events` gives it both when it is recorded.
"""

from __future__ import annotations

from common.lifecycle import ended
from common.model.event import Event
from common.model.job import DesiredState, Job, JobMode
from common.model.node import Availability, Node, NodeCondition, NodeStatus
from common.model.rollout import RolloutPhase, RolloutStrategy
from common.model.session import Program
from common.model.task import Health, Task, TaskState
from common.units import cores_and_memory
from controller.core import rollout_machine as machine
from controller.core.rollout_words import standing
from controller.state import Applied, State


def events_of(applied: Applied, state: State) -> Event | None:
    """What one change of a record is called; None when it is nobody's concern. `state` is the one after the commit."""
    match applied.before, applied.after:
        case (Job() | None) as before, Job() as after:
            return _job(before, after, state)
        case Job() as before, None:
            return _event("job.removed", _job_subject(before), "was removed with all its tasks")
        case (Task() | None) as before, Task() as after:
            return _task(before, after, state)
        case Task() as before, None:
            gone = not before.ended and not before.node_id
            return _event("task.stopped", task_subject(before), "was given up before it had a node") if gone else None
        case (Node() | None) as before, Node() as after:
            return _node(before, after)
        case Node() as before, None:
            return _event("node.removed", _node_subject(before), "was forgotten")
        case _:
            return None


def condition_event(node: Node | None, before: NodeCondition | None, after: NodeCondition) -> Event | None:
    """What a change of the leader's judgement of a node is called; None when only numbers moved."""
    subject = f"node {node.name if node else after.node_id}"
    if before is None or before.status is not after.status:
        return _event(f"node.{after.status.value}", subject, _STATUS_WORDS[after.status])
    if before.rival != after.rival:
        if after.rival:
            return _event("node.contested", subject, after.rival, "a copy of its disk, or of its key")
        return _event("node.ready", subject, "nobody else claims to be it any more")
    if before.degraded != after.degraded:
        if after.degraded:
            return _event("node.degraded", subject, f"cannot do all it should: {after.degraded}")
        return _event("node.ready", subject, "all its runtimes answer again")
    return None


def brake_event(reason: str) -> Event:
    """The brake engaged for this reason, or cleared when there is none."""
    if reason:
        return _event("brake.engaged", "cluster", "nothing is replaced until it clears or is released", reason)
    return _event("brake.cleared", "cluster", "what silent nodes ran is replaced again")


def balance_event(moves: int) -> Event:
    """Since a node joined or something ended, so many moves would make the cluster more even."""
    what = "1 task could move" if moves == 1 else f"{moves} tasks could move"
    return _event("balance.suggested", "cluster", f"{what} for a better balance: `podium rebalance --plan`")


def balance_ordered(moves: int) -> Event:
    """The controller ordered so many moves by itself."""
    what = "1 task moves" if moves == 1 else f"{moves} tasks move"
    return _event("balance.ordered", "cluster", f"{what} for a better balance", "rebalance-auto is set")


def survival_event(text: str) -> Event:
    """The cluster could not absorb the loss of a node any more, or can again."""
    if text:
        return _event("survival.lost", "cluster", "the loss of a node could not be absorbed", text)
    return _event("survival.regained", "cluster", "the loss of any one node could be absorbed again")


def brake_released(held: str, nodes: int) -> Event:
    """An operator gave up so many silent nodes although the brake held."""
    return _event("brake.released", "cluster", f"by the operator: {nodes} silent nodes count as down", held)


def metric_event(job: Job, problem: str) -> Event:
    """The number that a job is scaled by cannot be had any more, for this reason; without one, it is there again."""
    if problem:
        return _event("job.metric-lost", _job_subject(job), "it is not made smaller until its query answers", problem)
    return _event("job.metric-found", _job_subject(job), "its query answers again")


def exec_event(task: Task, program: Program) -> Event:
    """An engineer runs a program inside a task. Its arguments are left out: they may hold what nobody else may read."""
    how = "in a terminal" if program.terminal is not None else "without a terminal"
    return _event("task.exec", task_subject(task), f"an engineer runs {program.argv[0]} inside it, {how}")


def namespace_of(event: Event) -> str:
    """The namespace of the job or task an event is about; empty for nodes and the cluster."""
    kind, _, name = event.subject.partition(" ")
    return name.partition("/")[0] if kind in ("job", "task") else ""


def task_subject(task: Task) -> str:
    return f"task {task.job_name}.{task.slot} ({task.id})"


_STATUS_WORDS = {
    NodeStatus.READY: "is connected and answers",
    NodeStatus.DISCONNECTED: "lost its connection; its tasks are left as they are",
    NodeStatus.UNREACHABLE: "is silent; its tasks leave the load balancers while others can answer",
    NodeStatus.DOWN: "stays silent; its tasks are replaced on other nodes",
}

_AVAILABILITY_KINDS = {
    Availability.ACTIVE: ("node.uncordoned", "takes new tasks again"),
    Availability.CORDONED: ("node.cordoned", "takes no new tasks"),
    Availability.DRAINING: ("node.draining", "takes no new tasks and hands over those it has"),
}


def _event(kind: str, subject: str, message: str, cause: str = "") -> Event:
    return Event(time_s=0.0, kind=kind, subject=subject, message=message, cause=cause)


# --- jobs


def _job_subject(job: Job) -> str:
    return f"job {job.full_name}"


def _job(before: Job | None, after: Job, state: State) -> Event | None:
    subject = _job_subject(after)
    if before is None:
        return _event("job.created", subject, f"{_count(after, state)} of {_what(after, state)}")
    if after.removed and not before.removed:
        return _event("job.stopped", subject, "its tasks are stopped, then it is removed")
    if after.version != before.version:
        back = after.note if after.note != before.note else ""
        kind = "job.rolled-back" if back else "job.updated"
        change = f"version {before.version} to {after.version}, {_count(after, state)} of {_what(after, state)}"
        return _event(kind, subject, change, back)
    if after.desired is not before.desired:
        if after.desired is DesiredState.STOP:
            return _event("job.stopped", subject, "its tasks are to stop")
        return _event("job.started", subject, f"is to run again, {_count(after, state)}")
    if after.replicas != before.replicas:
        return _scaled(before, after)
    if after.scaling.woke != before.scaling.woke:
        return _event("job.awake", subject, after.scaling.woke)
    if after.priority != before.priority:
        return _event("job.updated", subject, f"priority from {before.priority} to {after.priority}")
    return _job_rollout(before, after, state)


def _scaled(before: Job, after: Job) -> Event:
    by_itself = after.scaling.steps != before.scaling.steps
    kind = "job.woken" if after.scaling.woken_at_s and not before.replicas else "job.scaled"
    text = f"from {before.replicas} to {after.replicas} replicas"
    return _event(kind, _job_subject(after), text, after.scaling.reason if by_itself else "")


def _job_rollout(before: Job, after: Job, state: State) -> Event | None:
    subject = _job_subject(after)
    if after.paused and after.paused != before.paused:
        return _event("job.paused", subject, f"the rollout of version {after.version} stands still", after.paused)
    if before.paused and not after.paused:
        return _event("job.resumed", subject, f"the rollout of version {after.version} goes on")
    if _settled(before, after):
        version = state.versions_of(after.id).get(after.version)
        ends = version is not None and version.spec.mode.ends
        text = f"version {after.version} is through, and all of it went well"
        return _event("job.settled", subject, text if ends else f"every replica runs version {after.version} well")
    return _rollout_step(before, after, state)


def _settled(before: Job, after: Job) -> bool:
    if after.good_version != before.good_version:
        return True
    return (
        after.rollout is not None
        and after.rollout.phase is RolloutPhase.DONE
        and before.rollout is not None
        and before.rollout.phase is not RolloutPhase.DONE
    )


def _rollout_step(before: Job, after: Job, state: State) -> Event | None:
    """Where a rollout in steps stands now, or that it has failed for good."""
    was, now = before.rollout, after.rollout
    if now is None or was is None or (was.phase, was.step) == (now.phase, now.step):
        return None
    version = state.versions_of(after.id).get(after.version)
    text = standing(after, version.spec, now) if version is not None else ""
    if now.phase is RolloutPhase.FAILED:
        what = "rollback" if now.back else "rollout"
        return _event(
            "job.rollout-failed", _job_subject(after), f"the {what} to version {now.version} stops", now.reason
        )
    if now.strategy is RolloutStrategy.ROLLING or not machine.active(now):
        return None
    return _event("job.rollout", _job_subject(after), text)


def _count(job: Job, state: State) -> str:
    mode = _spec_mode(job, state)
    if mode.per_node:
        return "a task on every node that fits"
    noun = "run" if mode.ends else "replica"
    return f"{job.replicas} {noun}{'' if job.replicas == 1 else 's'}"


def _spec_mode(job: Job, state: State) -> JobMode:
    version = state.versions_of(job.id).get(job.version)
    return version.spec.mode if version else JobMode.SERVICE


def _what(job: Job, state: State) -> str:
    version = state.versions_of(job.id).get(job.version)
    container = version.spec.task.container if version else None
    if container is None:
        return "an unknown spec"
    return container.image or " ".join((*container.entrypoint, *container.command))[:80] or "an empty command"


# --- tasks


def _task(before: Task | None, after: Task, state: State) -> Event | None:
    if before is None:
        where = f", on {_node_name(after, state)}" if after.node_id else ""
        return _event("task.created", task_subject(after), f"version {after.version}{where}", after.reason)
    if after.nomination is not None and after.nomination != before.nomination:
        node = state.nodes.get(after.nomination.node_id)
        where = node.name if node else after.nomination.node_id
        if state.spec_of_task(after).gang:
            return _event("task.room_kept", task_subject(after), f"free room is kept for it on {where}")
        return _event("task.preempting", task_subject(after), f"room is made for it on {where}")
    if not before.node_id and after.node_id:
        return _event("task.assigned", task_subject(after), f"to {_node_name(after, state)}")
    return _task_progress(before, after, state) or _task_will(before, after, state)


def _task_progress(before: Task, after: Task, state: State) -> Event | None:
    """What the agent reported."""
    was, now = before.status, after.status
    if (was.attempt, was.state) != (now.attempt, now.state):
        return _task_state(after, state)
    if was.health is not now.health and now.state is TaskState.RUNNING:
        if now.health is Health.HEALTHY:
            return _event("task.healthy", task_subject(after), f"passes its health check on {_node_name(after, state)}")
        if now.health is Health.UNHEALTHY:
            return _event("task.unhealthy", task_subject(after), "fails its health check", now.message)
    return None


def _task_state(task: Task, state: State) -> Event | None:
    status, node = task.status, _node_name(task, state)
    code = "" if status.exit_code is None else f" with exit code {status.exit_code}"
    match status.state:
        case TaskState.RUNNING:
            again = f", attempt {status.attempt}" if status.attempt > 1 else ""
            health = " and healthy" if status.health is Health.HEALTHY else ""
            return _event("task.running", task_subject(task), f"running on {node}{again}{health}")
        case TaskState.RESTARTING:
            text = f"attempt {status.attempt} ended{code} on {node}; it is restarted there"
            return _event("task.restarting", task_subject(task), text, status.message)
        case TaskState.STOPPED:
            return _event("task.stopped", task_subject(task), f"stopped on {node}{code}", task.reason)
        case TaskState.COMPLETE | TaskState.FAILED | TaskState.REJECTED:
            text = f"{_ENDINGS[status.state]} {node}{code}"
            cause = "" if status.message == f"exited{code.replace(' exit', '')}" else status.message
            return _event(f"task.{status.state.value}", task_subject(task), text, cause)
        case _:
            return None


_ENDINGS = {
    TaskState.COMPLETE: "ended well on",
    TaskState.FAILED: "failed on",
    TaskState.REJECTED: "cannot run on",
}


def _task_will(before: Task, after: Task, state: State) -> Event | None:
    """What the controller decided."""
    if after.lost_at_s and not before.lost_at_s:
        return _event("task.lost", task_subject(after), f"given up on {_node_name(after, state)}", after.reason)
    if before.lost_at_s and not after.lost_at_s:
        return _event("task.recovered", task_subject(after), f"kept on {_node_name(after, state)}", after.reason)
    if after.displaced is not None and before.displaced is None and after.desired is DesiredState.RUN:
        text = f"is to leave {_node_name(after, state)} when its successor is well"
        return _event("task.preempted", task_subject(after), text, f"preempted by {after.displaced.by}")
    if after.desired is not before.desired and not ended(after.status.state):
        return _event("task.stopping", task_subject(after), f"is to stop on {_node_name(after, state)}", after.reason)
    return None


def _node_name(task: Task, state: State) -> str:
    node = state.nodes.get(task.node_id)
    return node.name if node else task.node_id


# --- nodes


def _node_subject(node: Node) -> str:
    return f"node {node.name}"


def _node(before: Node | None, after: Node) -> Event | None:
    if before is None:
        capacity = after.description.capacity
        offer = cores_and_memory(capacity.cpu_millis, capacity.memory_bytes)
        text = f"joined from {after.description.address} with {offer}"
        return _event("node.joined", _node_subject(after), text, _strays(after))
    if after.availability is not before.availability:
        kind, text = _AVAILABILITY_KINDS[after.availability]
        return _event(kind, _node_subject(after), text)
    if len(after.strays) > len(before.strays):
        return _event("node.strays", _node_subject(after), _strays(after))
    if len(after.strays) < len(before.strays):
        left = (
            f"{len(before.strays) - len(after.strays)} of its strays are gone or to stop, {len(after.strays)} are kept"
        )
        return _event("node.strays", _node_subject(after), left)
    if after.description != before.description:
        return _event("node.updated", _node_subject(after), _what_changed(before, after))
    return None


def _strays(node: Node) -> str:
    if not node.strays:
        return ""
    shown = ", ".join(f"{stray.job}.{stray.slot}" if stray.job else stray.task_id for stray in node.strays[:5])
    more = f" and {len(node.strays) - 5} more" if len(node.strays) > 5 else ""
    return (
        f"runs tasks that the restored state does not know: {shown}{more}; they are kept running without traffic "
        "until you decide (podium store strays)"
    )


def _what_changed(before: Node, after: Node) -> str:
    old, new = before.description, after.description
    names = [name for name in new.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    return f"describes itself anew: {', '.join(names)}"
