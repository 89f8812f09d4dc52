"""A rollout in words: what its strategy will do, and where it stands. Decides nothing."""

from __future__ import annotations

from typing import assert_never

from common.model.job import Job, JobSpec
from common.model.rollout import Promotion, Rollout, RolloutPhase, RolloutStrategy
from controller.core import rollout_machine as machine
from controller.core.rollout_machine import Stage


def standing(job: Job, spec: JobSpec, rollout: Rollout) -> str:
    """Where it stands and what it waits for; empty when it is through and there is nothing to say."""
    if job.paused and machine.active(rollout):
        return f"the rollout to version {rollout.version} is paused: {job.paused}"
    match rollout.phase:
        case RolloutPhase.WAITING:
            return ""  # what it depends on says it better
        case RolloutPhase.MOVING | RolloutPhase.BAKING | RolloutPhase.AWAITING:
            return _under_way(job, spec, rollout)
        case RolloutPhase.FAILED:
            return f"the {_noun(rollout)} to version {rollout.version} failed: {rollout.reason}"
        case RolloutPhase.DONE | RolloutPhase.ROLLED_BACK | RolloutPhase.SUPERSEDED:
            return ""
        case _:
            assert_never(rollout.phase)


def _noun(rollout: Rollout) -> str:
    return "rollback" if rollout.back else "rollout"


def _under_way(job: Job, spec: JobSpec, rollout: Rollout) -> str:
    known = machine.stages(rollout.strategy, spec, job.replicas)
    place = min(rollout.step, len(known) - 1)
    stage = known[place]
    text = f"step {place + 1} of {len(known)}: " if len(known) > 1 else ""
    if rollout.phase is RolloutPhase.AWAITING:
        return f"{text}{_asked(rollout, stage)}; waits for podium promote {job.full_name}"
    if rollout.phase is RolloutPhase.BAKING:
        return f"{text}{_asked(rollout, stage)}; watched for {stage.bake_s:g} s"
    if stage.beside:
        return f"{text}{_asked(rollout, stage)}; {rollout.most} of {stage.replicas} are well"
    if rollout.strategy is RolloutStrategy.ROLLING:
        back = f"back to version {rollout.version}, " if rollout.back else ""
        return f"{back}{rollout.most} of {stage.replicas} replicas run version {rollout.version}"
    return f"{text}{_asked(rollout, stage)}"


def _asked(rollout: Rollout, stage: Stage) -> str:
    """What a step asks for: `1 replica of version 2 beside version 1 takes 5 % of the traffic`."""
    new, old = f"version {rollout.version}", f"version {rollout.from_version}"
    if not stage.beside:
        return f"{old} gives way to {new}"
    count = f"{stage.replicas} replica{'' if stage.replicas == 1 else 's'} of {new} beside {old}"
    match stage.share_pct:
        case None:
            return f"{count}, traffic by their number"
        case 0:
            return f"{count}, without traffic"
        case 100:
            return f"{count}, with all the traffic"
        case share:
            return f"{count}, with {share} % of the traffic"


def steps_text(rollout: Rollout, spec: JobSpec, replicas: int) -> tuple[str, ...]:
    """What the strategy will do, step by step, with what lets each step go on; one line where it has no steps."""
    known = machine.stages(rollout.strategy, spec, replicas)
    if rollout.strategy is RolloutStrategy.ROLLING:
        return (_rolling(spec),)
    return tuple(f"step {place + 1} of {len(known)}: {_step(rollout, stage)}" for place, stage in enumerate(known))


def _step(rollout: Rollout, stage: Stage) -> str:
    if not stage.beside:
        slot_by_slot = "" if rollout.strategy is RolloutStrategy.BLUE_GREEN else ", slot by slot"
        return _asked(rollout, stage) + slot_by_slot
    gate = "then podium promote" if stage.promote is Promotion.MANUAL else "then on by itself"
    watched = f"well for {stage.bake_s:g} s" if stage.bake_s else "all of them well"
    return f"{_asked(rollout, stage)}; {watched}, {gate}"


def _rolling(spec: JobSpec) -> str:
    policy = spec.update
    at_once = f"{policy.parallelism} at a time" if policy.parallelism else "all at once"
    delay = f", {policy.delay_s:g} s between them" if policy.delay_s else ""
    return f"slot by slot, {at_once}{delay}"
