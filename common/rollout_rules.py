"""What a job may say of its rollouts: pace, way back, canary steps, and when two versions can run side by side.

Pure. Part of `common.validation`; the rollouts themselves are decided in the controller.
"""

from __future__ import annotations

from common.model.job import FailureAction, JobMode, JobSpec, PublishMode, UpdateOrder, UpdatePolicy
from common.model.rollout import Canary
from common.rules import Found, at_most, below, in_range, in_seconds
from common.settings import LIMITS

_CANARY_STEPS_LIMIT = 20
_KINDS = {
    JobMode.DAEMON: "the job has a task on every node",
    JobMode.BATCH: "its tasks end",
    JobMode.DAEMON_BATCH: "its tasks end",
}


def update_faults(update: UpdatePolicy) -> Found:
    yield from in_range("parallelism", update.parallelism, 0, LIMITS.replicas)
    yield from in_seconds("delay_s", update.delay_s)
    yield from in_seconds("monitor_s", update.monitor_s)
    yield from in_seconds("progress_deadline_s", update.progress_deadline_s)
    if not 0 <= update.max_failure_ratio <= 1:
        yield "max_failure_ratio", f"{update.max_failure_ratio} is not a ratio: allowed is 0 to 1"


def rollback_faults(policy: UpdatePolicy) -> Found:
    yield from update_faults(policy)
    if policy.failure_action is FailureAction.ROLLBACK:
        yield "failure_action", "a rollback that fails cannot be rolled back: use pause or continue"
    if policy.canary is not None or policy.blue_green is not None:
        yield "", "a rollback is always a rolling one: leave canary and blue_green out"


def strategy_faults(spec: JobSpec) -> Found:
    """Of a rollout in which two versions run side by side."""
    update = spec.update
    for field, asked in (("canary", update.canary), ("blue_green", update.blue_green)):
        if asked is not None and (because := _not_side_by_side(spec)):
            yield field, f"runs two versions of each replica side by side, and {because}"
    if update.canary is not None and update.blue_green is not None:
        yield "blue_green", "is given together with canary: choose one of the two"
    if update.canary is not None:
        yield from below("canary", _canary(update.canary))
    if update.blue_green is not None:
        yield from in_seconds("blue_green.bake_s", update.blue_green.bake_s)


def _not_side_by_side(spec: JobSpec) -> str:
    if spec.mode is not JobMode.SERVICE:
        return f"{_KINDS[spec.mode]}: only a service with replicas (deploy.mode: replicated) can"
    return ": ".join(filter(None, _one_after_the_other(spec)))


def stop_first_because(spec: JobSpec) -> str:
    """Why a slot's old task has to end before its next one begins, for people; empty where both may run at once."""
    because, _ = _one_after_the_other(spec)
    return because


def _one_after_the_other(spec: JobSpec) -> tuple[str, str]:
    """Why two tasks of a slot cannot run at once, and what to write so that they can."""
    for port in spec.task.ports:
        if port.mode is PublishMode.HOST and port.published_port:
            return f"it binds port {port.published_port} of its node", "use mode ingress"
    for mount in spec.task.container.mounts:
        if mount.sole_writer:
            return f"it alone may write volume {mount.source}", "leave it out, or share the volume"
    if spec.task.exclusive:
        return "it is exclusive: at most one of it may run", ""
    if spec.gang:
        return "a gang starts and stops as a whole", ""
    if spec.mode.ends:
        return "it runs to completion once", ""
    stop_first = spec.update.order is UpdateOrder.STOP_FIRST
    return ("its update order is stop-first", "use start-first") if stop_first else ("", "")


def _canary(canary: Canary) -> Found:
    yield from at_most("steps", canary.steps, _CANARY_STEPS_LIMIT)
    if not canary.steps:
        yield "steps", "is empty: write at least one step"
    before = 0
    for place, step in enumerate(canary.steps):
        path = f"steps[{place}]"
        yield from in_range(f"{path}.replicas", step.replicas, 1, LIMITS.replicas)
        yield from in_range(f"{path}.weight", step.weight, 0, 99)
        yield from in_seconds(f"{path}.bake_s", step.bake_s)
        if step.replicas < before:
            yield path, f"asks for {step.replicas} replicas after {before}: a step cannot ask for fewer than the last"
        before = step.replicas
