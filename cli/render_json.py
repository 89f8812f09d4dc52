"""What `-o json` and `-o yaml` print: views as plain dictionaries, with the fields contract.md promises. Pure.

Times are RFC 3339 in UTC (null where something has not happened), sizes bytes, CPU millicores.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from common.model.api import (
    BrakeReleased,
    Changes,
    ClusterView,
    JobChange,
    JobDetail,
    JobView,
    Moves,
    NodeChanges,
    NodeView,
    Plan,
    QuotaView,
    TaskDetail,
    TaskList,
    TaskView,
)
from common.model.device import WHOLE_MILLIS, Device, DeviceGrant
from common.model.event import Event
from common.model.job import DesiredState, JobSpec, Port
from common.model.node import RuntimeStatus
from common.model.quota import CPU, DEVICES, MEMORY, TASKS
from common.model.rollout import Rollout
from common.model.session import LogLine
from common.model.task import Attempt, PortBinding, Slot, TaskState
from common.model.usage import UsageView
from common.model.verdict import Verdict

Plain: TypeAlias = dict[str, Any]
"""What JSON can hold: an open shape by nature, hence Any."""


def rfc3339(time_s: float) -> str | None:
    """Unix seconds as e.g. `2030-01-31T12:00:00.250Z`; None for 0, which means never."""
    if not time_s:
        return None
    moment = datetime.datetime.fromtimestamp(time_s, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job(view: JobView) -> Plain:
    return {
        "id": view.job.id,
        "namespace": view.job.namespace,
        "name": view.job.name,
        "mode": view.spec.mode.value,
        "version": view.job.version,
        "status": view.status.value,
        "desired": view.desired,
        "running": view.running,
        "healthy": view.healthy,
        "succeeded": view.succeeded,
        "failed": view.failed,
        "image": view.spec.task.container.image,
        "ports": [_port(port) for port in view.spec.task.ports],
        "message": job_message(view),
        "rollout": rollout(view),
        "autoscale": autoscale(view),
        "created_at": rfc3339(view.job.created_at_s),
        "changed_at": rfc3339(view.job.changed_at_s),
    }


def autoscale(view: JobView) -> Plain | None:
    """Null where the number of replicas is the file's."""
    asked, found = view.job.autoscale, view.job.scaling
    if asked is None:
        return None
    return {
        "min": asked.least,
        "max": asked.most,
        "replicas": view.job.replicas,
        "reason": found.reason,
        "changed_at": rfc3339(found.steps[-1].at_s) if found.steps else None,
        "woke": found.woke,
        "text": view.autoscale,
    }


def rollout(view: JobView) -> Plain | None:
    """The last one, with where it stands in words; null where there never was one."""
    last = view.job.rollout
    if last is None:
        return None
    paused = bool(view.job.paused) and not last.ended_at_s
    return past_rollout(last) | {
        "phase": "paused" if paused else last.phase.value,
        "reason": last.reason or view.job.paused,
        "text": view.rollout,
        "steps": list(view.rollout_steps),
    }


def past_rollout(known: Rollout) -> Plain:
    return {
        "version": known.version,
        "from_version": known.from_version,
        "strategy": known.strategy.value,
        "rollback": known.back,
        "phase": known.phase.value,
        "step": known.step + 1,
        "healthy_slots": known.healthy,
        "cause": known.cause,
        "reason": known.reason,
        "started_at": rfc3339(known.started_at_s),
        "since": rfc3339(known.since_s),
        "advanced_at": rfc3339(known.advanced_at_s),
        "ended_at": rfc3339(known.ended_at_s),
    }


def job_message(view: JobView) -> str:
    """Why a job is not simply running, and what became of its last rollout."""
    told: list[str] = []
    for note in (view.message, view.rollout, view.job.paused, view.job.note):
        if note and not any(note in other for other in told):
            told.append(note)
    return "; ".join(told)


def _port(port: Port) -> Plain:
    return {
        "container": port.container_port,
        "published": port.published_port,
        "protocol": port.protocol.value,
        "mode": port.mode.value,
        "loopback": port.loopback,
    }


def task(view: TaskView, attempts: Iterable[Attempt] = ()) -> Plain:
    """One row of `ps`; `attempts` are the crash records of this task."""
    task, status = view.task, view.task.status
    return {
        "id": task.id,
        "job": task.job_name,
        "slot": task.slot,
        "node": view.node,
        "state": view.state.value,
        "desired": task.desired.value,
        "health": view.health.value,
        "ports": [_binding(binding) for binding in status.ports],
        "restarts": max(0, status.attempt - 1),
        "exit_code": status.exit_code,
        "message": view.message or status.message,
        "started_at": rfc3339(status.started_at_s),
        "ended_at": rfc3339(status.ended_at_s),
        "created_at": rfc3339(task.created_at_s),
        "runtime_id": status.runtime_id,
        "job_version": task.version,
        "reason": task.reason,
        "devices": [_grant(grant) for grant in task.devices],
        "attempts": [attempt_record(attempt) for attempt in attempts],
    }


def _grant(grant: DeviceGrant) -> Plain:
    return {"kind": grant.kind, "id": grant.id, "share": grant.share_millis / WHOLE_MILLIS}


def _binding(binding: PortBinding) -> Plain:
    return {
        "container": binding.container_port,
        "host_address": binding.host_address,
        "host_port": binding.host_port,
        "protocol": binding.protocol.value,
    }


def attempt_record(attempt: Attempt) -> Plain:
    """One crash record."""
    return {
        "number": attempt.number,
        "node_id": attempt.node_id,
        "job_version": attempt.version,
        "started_at": rfc3339(attempt.started_at_s),
        "ended_at": rfc3339(attempt.ended_at_s),
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "oom": attempt.oom,
        "memory_peak_bytes": attempt.memory_peak_bytes,
        "memory_limit_bytes": attempt.memory_limit_bytes,
        "message": attempt.message,
        "log_tail": list(attempt.log_tail),
        "health_output": attempt.health_output,
    }


def tasks(listed: TaskList, job_names: Mapping[str, str]) -> list[Plain]:
    """Rows of `ps`: the tasks, then what is only remembered as the crash records of a slot.

    `job_names` are `namespace/name` by job id.
    """
    records = _attempts_by_task(listed.slots)
    rows = [task(view, records.pop(view.task.id, ())) for view in listed.tasks]
    nodes = {view.task.node_id: view.node for view in listed.tasks}
    slots = {attempt.task_id: slot for slot in listed.slots for attempt in slot.attempts}
    for task_id, attempts in records.items():
        slot = slots[task_id]
        rows.append(_remembered(attempts, slot, job_names.get(slot.job_id, slot.job_id), nodes))
    return rows


def _attempts_by_task(slots: Iterable[Slot]) -> dict[str, tuple[Attempt, ...]]:
    found: dict[str, tuple[Attempt, ...]] = {}
    for slot in slots:
        for attempt in slot.attempts:
            found[attempt.task_id] = (*found.get(attempt.task_id, ()), attempt)
    return found


def _remembered(attempts: tuple[Attempt, ...], slot: Slot, job_name: str, nodes: Mapping[str, str]) -> Plain:
    """A task the controller has forgotten but for its crash records."""
    last = attempts[-1]
    return {
        "id": last.task_id,
        "job": job_name,
        "slot": slot.slot,
        "node": nodes.get(last.node_id, last.node_id),
        "state": _remembered_state(last).value,
        "desired": DesiredState.STOP.value,
        "health": "none",
        "ports": [],
        "restarts": max(0, last.number - 1),
        "exit_code": last.exit_code,
        "message": last.message,
        "started_at": rfc3339(last.started_at_s),
        "ended_at": rfc3339(last.ended_at_s),
        "created_at": None,
        "runtime_id": "",
        "job_version": last.version,
        "reason": "",
        "devices": [],
        "attempts": [attempt_record(attempt) for attempt in attempts],
    }


def _remembered_state(last: Attempt) -> TaskState:
    """What the last record tells of how the task ended; one that never started was refused by its node."""
    if last.exit_code == 0 and not last.signal:
        return TaskState.COMPLETE
    return TaskState.FAILED if last.started_at_s or last.exit_code is not None else TaskState.REJECTED


def node(view: NodeView) -> Plain:
    described, condition = view.node.description, view.condition
    return {
        "id": view.node.id,
        "name": view.node.name,
        "status": condition.status.value,
        "availability": view.node.availability.value,
        "address": described.address,
        "labels": dict(described.labels),
        "cpu_millis": {"capacity": described.capacity.cpu_millis, "reserved": view.reserved.cpu_millis},
        "memory_bytes": {"capacity": described.capacity.memory_bytes, "reserved": view.reserved.memory_bytes},
        "devices": [_device(device) for device in described.devices],
        "tasks": view.tasks,
        "runtimes": [runtime.name for runtime in node_runtimes(view)],
        "degraded": condition.degraded,
        "agent_version": described.agent_version,
        "last_seen": rfc3339(condition.last_seen_s),
        "joined_at": rfc3339(view.node.joined_at_s),
    }


def _device(device: Device) -> Plain:
    return {"kind": device.kind, "id": device.id, "model": device.model}


def node_runtimes(view: NodeView) -> tuple[RuntimeStatus, ...]:
    """As its last heartbeat said, else as it registered."""
    return view.condition.runtimes or view.node.description.runtimes


def node_detail(view: NodeView) -> Plain:
    return node(view) | {
        "devices": _held_devices(view),
        "attributes": dict(view.node.description.attributes),
        "runtime_status": [msgspec.to_builtins(runtime) for runtime in node_runtimes(view)],
        "usage": msgspec.to_builtins(view.condition.usage),
    }


def _held_devices(view: NodeView) -> list[Plain]:
    """The node's units, each with who holds which share; also units that it has no more and a task still holds."""
    holders: dict[tuple[str, str], list[Plain]] = {}
    for held in view.device_holders:
        share = held.grant.share_millis / WHOLE_MILLIS
        holder = {"task": held.task_id, "job": held.job, "slot": held.slot, "share": share}
        holders.setdefault((held.grant.kind, held.grant.id), []).append(holder)
    units = {(device.kind, device.id): device for device in view.node.description.devices}
    return [
        _device(units.get(unit) or Device(kind=unit[0], id=unit[1]))
        | {"present": unit in units, "held_by": holders.get(unit, [])}
        for unit in dict.fromkeys((*units, *holders))
    ]


def cluster(view: ClusterView) -> Plain:
    return {
        "leader": view.leader,
        "epoch": {"generation": view.epoch.generation, "term": view.epoch.term},
        "controllers": list(view.controllers),
        "store": view.store,
        "store_health": view.store_health,
        "timers": dict(view.timers),
        "detection": view.detection,
        "nodes": {status: view.nodes.get(status, 0) for status in ("ready", "disconnected", "unreachable", "down")},
        "brake": view.brake,
        "brake_reason": view.brake_reason,
        "strays": view.strays,
        "survives_loss_of_any_node": view.survives_loss_of_any_node,
        "losses": [msgspec.to_builtins(loss) for loss in view.losses],
        "suggested_moves": [msgspec.to_builtins(move) for move in view.suggested_moves],
        "rebalances": view.rebalances,
        "version": view.version,
    }


def verdict(found: Verdict) -> Plain:
    return {
        "subject": found.subject,
        "verdict": found.verdict,
        "reasons": [msgspec.to_builtins(reason) for reason in found.reasons],
        "fixes": [msgspec.to_builtins(fix) for fix in found.fixes],
    }


def plan(planned: Plan) -> Plain:
    return {
        "changes": [change(item) for item in planned.changes],
        "steps": [msgspec.to_builtins(step) for step in planned.steps],
        "placements": [msgspec.to_builtins(placement) for placement in planned.placements],
        "stops": [msgspec.to_builtins(stop) for stop in planned.stops],
        "unplaced": [
            {"job": item.job, "slots": list(item.slots), "verdict": verdict(item.verdict)} for item in planned.unplaced
        ],
        "before": dict(planned.before),
        "after": dict(planned.after),
        "notes": list(planned.notes),
    }


def moves(done: Moves) -> list[Plain]:
    return [msgspec.to_builtins(item) for item in done.moves]


def change(done: JobChange) -> Plain:
    return {"job": done.job, "action": done.action, "version": done.version, "text": done.text}


def changes(done: Changes) -> list[Plain]:
    return [change(item) for item in done.changes]


def node_changes(done: NodeChanges) -> list[Plain]:
    return [{"node": item.node, "id": item.node_id, "action": item.action, "text": item.text} for item in done.changes]


def brake_released(done: BrakeReleased) -> Plain:
    return {"released": bool(done.held), "held": done.held, "nodes": list(done.nodes)}


def quota(view: QuotaView) -> Plain:
    """Each resource that is limited or used; what has no limit has null."""
    names = dict.fromkeys((TASKS, CPU, MEMORY))
    kinds = sorted(name for name in {**view.limits, **view.used} if name.startswith(DEVICES))
    return {
        "namespace": view.namespace,
        **{name: {"limit": view.limits.get(name), "used": view.used.get(name, 0)} for name in names},
        "devices": {
            name.removeprefix(DEVICES): {
                "limit": view.limits[name] / WHOLE_MILLIS if name in view.limits else None,
                "used": view.used.get(name, 0) / WHOLE_MILLIS,
            }
            for name in kinds
        },
        "warnings": list(view.warnings),
    }


def event(happened: Event) -> Plain:
    return {
        "time": rfc3339(happened.time_s),
        "kind": happened.kind,
        "subject": happened.subject,
        "message": happened.message,
        "cause": happened.cause,
        "sequence": happened.sequence,
    }


def log_line(line: LogLine) -> Plain:
    return {
        "time": rfc3339(line.time_s),
        "task": line.task_id,
        "job": line.job,
        "slot": line.slot,
        "stream": line.stream.value,
        "text": line.text,
    }


def job_detail(detail: JobDetail) -> Plain:
    name = {detail.view.job.id: detail.view.job.full_name}
    listed = TaskList(tasks=detail.tasks, slots=detail.slots)
    return job(detail.view) | {
        "good_version": detail.view.job.good_version,
        "past_rollouts": [past_rollout(known) for known in detail.view.job.past_rollouts],
        "spec": spec(detail.view.spec),
        "tasks": tasks(listed, name),
    }


def task_detail(detail: TaskDetail) -> Plain:
    own = [attempt for attempt in detail.slot.attempts if attempt.task_id == detail.view.task.id]
    earlier = [attempt for attempt in detail.slot.attempts if attempt.task_id != detail.view.task.id]
    return task(detail.view, own) | {
        "earlier_attempts_of_slot": [attempt_record(attempt) | {"task": attempt.task_id} for attempt in earlier],
        "spec": spec(detail.spec),
    }


def spec(submitted: JobSpec) -> Plain:
    """A spec whole, enumerations by name."""
    plain: Plain = msgspec.to_builtins(submitted)
    return plain


def usage(view: UsageView) -> Plain:
    return {
        "nodes": [
            {
                "id": node.node_id,
                "name": node.node,
                "status": node.status.value,
                "cpu_millis": {
                    "used": node.usage.cpu_millis,
                    "reserved": node.reserved.cpu_millis,
                    "capacity": node.capacity.cpu_millis,
                },
                "memory_bytes": {
                    "used": node.usage.memory_bytes,
                    "reserved": node.reserved.memory_bytes,
                    "capacity": node.capacity.memory_bytes,
                },
                "measured": node.measured,
            }
            for node in view.nodes
        ],
        "tasks": [
            {
                "id": task.usage.task_id,
                "job": task.job,
                "slot": task.slot,
                "node": task.node,
                "cpu_millis": {"used": task.usage.cpu_millis, "limit": task.limits.cpu_millis or None},
                "memory_bytes": {"used": task.usage.memory_bytes, "limit": task.limits.memory_bytes or None},
                "processes": task.usage.processes,
                "age_s": round(task.age_s, 3),
            }
            for task in view.tasks
        ],
    }
