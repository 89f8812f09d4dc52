"""What an engineer may do to a rollout: turn it back, pause it, resume it, promote it. From a request to changes.

Each is refused, with the reason, where it makes no sense; the same request again (under its key) changes nothing and
says so. Nothing here starts or stops a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from common.errors import Conflict, NotFound
from common.model.api import ApplyRequest, JobChange, JobsRequest, RollbackRequest
from common.model.job import DesiredState, Job, JobSpec
from common.model.rollout import Rollout, RolloutPhase, RolloutStrategy
from controller.core import rollout_machine as machine
from controller.core.apply import Applying, changed, conflicting_ports, existing, selected, together, within_quotas
from controller.core.rollout_words import standing
from controller.state import Group, State, Write

PAUSED_BY_REQUEST = "somebody asked for it"

_Steer = Callable[[State, Job, Rollout], tuple[Job, str]]
"""A job after the command, and what that means, for people. Raises `Conflict` where it makes no sense."""


def rollback(state: State, request: RollbackRequest, now_s: float) -> Applying:
    """Make an earlier version the wanted one; without one named the last other one that every slot ran well.

    Raises `NotFound` for a version that is not kept, `Conflict` where there is nothing to go back to.
    """
    job = existing(state, request.namespace, request.job)
    if _repeated(job, request.idempotency_key):
        return together([_accepted(job)])
    spec = state.spec_of(job)
    _steerable(job, spec)
    version = request.version or last_good(state, job, spec)
    _may_go_back(state, job, version)
    target = state.versions_of(job.id)[version].spec
    if faults := tuple(conflicting_ports(state, ApplyRequest(namespace=job.namespace, specs=(target,)))):
        raise Conflict(f"version {version} of {job.full_name} cannot run: {faults[0].text}")
    back = machine.turn_back(job, spec, version, "somebody asked for it", now_s)
    note = f"version {job.version} was rolled back to {version}: somebody asked for it"
    after = msgspec.structs.replace(back, note=note, write_key=request.idempotency_key)
    text = f"from version {job.version} back to {version}"
    change = JobChange(job=job.full_name, action="rollback", version=version, text=text)
    return within_quotas(state, together([((Write(after),), change)]))


def pause(state: State, request: JobsRequest) -> Applying:
    """Let rollouts stand still where they are; what runs goes on running, and is replaced when it is lost."""

    def paused(_: State, job: Job, rollout: Rollout) -> tuple[Job, str]:
        if job.paused:
            raise Conflict(f"the rollout of {job.full_name} is paused already: {job.paused}")
        if rollout.phase is RolloutPhase.FAILED:
            raise Conflict(f"the rollout of {job.full_name} failed and stands still already: {rollout.reason}")
        _under_way(job, rollout)
        text = f"the rollout to version {job.version} stands still"
        return msgspec.structs.replace(job, paused=PAUSED_BY_REQUEST), text

    return _each(state, request, "pause", paused)


def resume(state: State, request: JobsRequest, now_s: float) -> Applying:
    """Let rollouts go on that were paused or failed. What failed so far does not count any more."""

    def resumed(_: State, job: Job, rollout: Rollout) -> tuple[Job, str]:
        if not job.paused and rollout.phase is not RolloutPhase.FAILED:
            _under_way(job, rollout)
            raise Conflict(f"the rollout of {job.full_name} to version {job.version} is not paused")
        going = rollout if machine.over(rollout) else machine.after(rollout, machine.Event.RESUMED, now_s)
        text = f"the rollout to version {job.version} goes on"
        return msgspec.structs.replace(job, paused="", rollout=going), text

    return _each(state, request, "resume", resumed)


def promote(state: State, request: JobsRequest, now_s: float) -> Applying:
    """Begin the next step of rollouts whose step is well, without waiting for the rest of its time."""

    def promoted(state: State, job: Job, rollout: Rollout) -> tuple[Job, str]:
        _under_way(job, rollout)
        if job.paused:
            raise Conflict(f"the rollout of {job.full_name} is paused: {job.paused}; resume it first")
        if rollout.strategy is RolloutStrategy.ROLLING:
            raise Conflict(f"the rollout of {job.full_name} is a rolling one: it has no steps to promote")
        spec = state.spec_of(job)
        if machine.is_last(rollout, spec, job.replicas):
            raise Conflict(f"the rollout of {job.full_name} is in its last step already")
        if rollout.phase not in (RolloutPhase.BAKING, RolloutPhase.AWAITING):
            raise Conflict(f"{job.full_name} cannot be promoted yet: {standing(job, spec, rollout)}")
        going = machine.after(rollout, machine.Event.NEXT, now_s)
        after = msgspec.structs.replace(job, rollout=going)
        return after, standing(after, spec, going)

    return _each(state, request, "promote", promoted)


def _each(state: State, request: JobsRequest, action: str, steer: _Steer) -> Applying:
    """All of these jobs, or none. Of a whole namespace those whose rollout is under way."""
    return together([_one(state, job, request.idempotency_key, action, steer) for job in _meant(state, request)])


def _meant(state: State, request: JobsRequest) -> Iterable[Job]:
    for job in selected(state, request):
        rollout = machine.current(job, state.spec_of(job))
        if not request.all_jobs or not machine.over(rollout):
            yield job


def _one(state: State, job: Job, key: str, action: str, steer: _Steer) -> tuple[Group, JobChange]:
    if _repeated(job, key):
        return _accepted(job)
    spec = state.spec_of(job)
    _steerable(job, spec)
    rollout = machine.current(job, spec)
    assert rollout is not None, "what can be steered has a rollout"
    after, text = steer(state, job, rollout)
    return changed(job, msgspec.structs.replace(after, write_key=key), action, text)


def _repeated(job: Job, key: str) -> bool:
    return bool(key) and job.write_key == key


def _accepted(job: Job) -> tuple[Group, JobChange]:
    return changed(job, job, "unchanged", "this was already accepted")


def _steerable(job: Job, spec: JobSpec) -> None:
    if spec.schedule is not None:
        raise Conflict(f"{job.full_name} has a schedule and no rollouts: apply the file that you want")
    if not machine.tracked(spec):
        raise Conflict(f"{job.full_name} runs to completion and has no rollouts: apply the file that you want")
    if job.desired is DesiredState.STOP:
        raise Conflict(f"{job.full_name} is stopped: start it with up or restart first")


def _under_way(job: Job, rollout: Rollout) -> None:
    if not machine.active(rollout):
        how = f"the last one failed: {rollout.reason}" if rollout.phase is RolloutPhase.FAILED else "nothing changes"
        raise Conflict(f"no rollout of {job.full_name} is under way: version {job.version} is wanted, and {how}")


def last_good(state: State, job: Job, spec: JobSpec) -> int:
    """The last other version that every slot ran well; not that of a rollback that is under way already."""
    rollout = machine.current(job, spec)
    if rollout is not None and rollout.back and machine.active(rollout):
        raise Conflict(f"{job.full_name} is being rolled back to version {job.version} already")
    kept = state.versions_of(job.id)
    if job.good_version not in (0, job.version):
        return job.good_version
    for past in job.past_rollouts:
        if past.phase is RolloutPhase.DONE and past.version != job.version and past.version in kept:
            return past.version
    raise Conflict(f"no other version of {job.full_name} is known to have run well{_choose(state, job)}")


def _choose(state: State, job: Job) -> str:
    others = [str(number) for number in sorted(state.versions_of(job.id)) if number != job.version]
    return f"; name one of {', '.join(others)}" if others else ""


def _may_go_back(state: State, job: Job, version: int) -> None:
    if version == job.version:
        raise Conflict(f"version {version} of {job.full_name} is wanted already")
    if version not in state.versions_of(job.id):
        kept = ", ".join(map(str, sorted(state.versions_of(job.id))))
        raise NotFound(f"version {version} of {job.full_name} is not kept; there are {kept}")
