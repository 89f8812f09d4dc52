"""The state machine of a rollout: its phases, what leads from one to the next, and the steps of each strategy.

```
              held                     reached               baked
  WAITING <─────────> MOVING ────────────────────> BAKING ──────────> AWAITING
            begun      ^  ^ <──────────────────────  │                │   │
                       │  │          slipped         │                │   │
                       │  └──────── next step ───────┴── promoted ────┘   │
                       │  <────────────────────── slipped ────────────────┘
                       resumed
  DONE, ROLLED_BACK, SUPERSEDED end it.  FAILED stands still until somebody resumes it or asks for something else.
```

`TRANSITIONS` is all there is: no other place says which phase follows which. A step has been *reached* when every slot
that it asks for is well; the last step is never reached but *completed*, which is the end. Whoever decides (the
controller's reconciliation, or an engineer's command) takes a stored `Rollout` and makes the next one of it: nothing
else is remembered, so a new leader goes on where the last one stopped.
(Transitions as a table with the theory above it: h11's `_state.py`.)
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import msgspec

from common.model.job import Job, JobSpec, UpdatePolicy
from common.model.rollout import Canary, Promotion, Rollout, RolloutPhase, RolloutStrategy
from controller.core.clocks import CLOCKS_DIFFER_S
from controller.core.settings import PROGRESS_NOTED_S, ROLLOUTS_KEPT, SLIPS_ALLOWED, TAKEOVER_GRACE_S
from controller.spans import Spans


class Event(enum.Enum):
    """What happens to a rollout."""

    HELD = "held"
    """What it depends on is not there (any more), and nothing of it was started."""
    BEGUN = "begun"
    REACHED = "reached"
    """Every slot that the step asks for is well."""
    SLIPPED = "slipped"
    """One of them no longer is."""
    BAKED = "baked"
    """They were well for as long as the step asks, and somebody has to look."""
    NEXT = "next"
    """They were, or somebody promoted it: the next step begins."""
    COMPLETED = "completed"
    """Every slot of the job runs the new version well, and nothing else."""
    REVERTED = "reverted"
    """Another version is gone back to."""
    STOPPED = "stopped"
    """It failed, and there is nothing to go back to."""
    RESUMED = "resumed"
    SUPERSEDED = "superseded"
    """Another version is asked for."""


_P = RolloutPhase
TRANSITIONS: dict[tuple[RolloutPhase, Event], RolloutPhase] = {
    (_P.WAITING, Event.BEGUN): _P.MOVING,
    (_P.WAITING, Event.RESUMED): _P.WAITING,
    (_P.WAITING, Event.COMPLETED): _P.DONE,
    (_P.WAITING, Event.REVERTED): _P.ROLLED_BACK,
    (_P.WAITING, Event.SUPERSEDED): _P.SUPERSEDED,
    (_P.MOVING, Event.HELD): _P.WAITING,
    (_P.MOVING, Event.REACHED): _P.BAKING,
    (_P.MOVING, Event.COMPLETED): _P.DONE,
    (_P.MOVING, Event.RESUMED): _P.MOVING,
    (_P.MOVING, Event.REVERTED): _P.ROLLED_BACK,
    (_P.MOVING, Event.STOPPED): _P.FAILED,
    (_P.MOVING, Event.SUPERSEDED): _P.SUPERSEDED,
    (_P.BAKING, Event.SLIPPED): _P.MOVING,
    (_P.BAKING, Event.BAKED): _P.AWAITING,
    (_P.BAKING, Event.NEXT): _P.MOVING,
    (_P.BAKING, Event.RESUMED): _P.BAKING,
    (_P.BAKING, Event.REVERTED): _P.ROLLED_BACK,
    (_P.BAKING, Event.STOPPED): _P.FAILED,
    (_P.BAKING, Event.SUPERSEDED): _P.SUPERSEDED,
    (_P.AWAITING, Event.SLIPPED): _P.MOVING,
    (_P.AWAITING, Event.NEXT): _P.MOVING,
    (_P.AWAITING, Event.RESUMED): _P.BAKING,
    (_P.AWAITING, Event.REVERTED): _P.ROLLED_BACK,
    (_P.AWAITING, Event.STOPPED): _P.FAILED,
    (_P.AWAITING, Event.SUPERSEDED): _P.SUPERSEDED,
    (_P.FAILED, Event.COMPLETED): _P.DONE,
    (_P.FAILED, Event.RESUMED): _P.MOVING,
    (_P.FAILED, Event.REVERTED): _P.ROLLED_BACK,
    (_P.FAILED, Event.SUPERSEDED): _P.SUPERSEDED,
}

ENDED = frozenset({_P.DONE, _P.ROLLED_BACK, _P.SUPERSEDED})
ACTIVE = frozenset({_P.WAITING, _P.MOVING, _P.BAKING, _P.AWAITING})


def active(rollout: Rollout | None) -> bool:
    """Whether it is under way; one that failed is not."""
    return rollout is not None and rollout.phase in ACTIVE


def over(rollout: Rollout | None) -> bool:
    """Whether nothing will come of it any more."""
    return rollout is None or rollout.phase in ENDED


def after(rollout: Rollout, event: Event, now_s: float, reason: str = "") -> Rollout:
    """The rollout after an event that may happen to it. `reason` is kept where it ended or stands."""
    phase = TRANSITIONS[rollout.phase, event]
    ended = phase in ENDED
    changed = msgspec.structs.replace(
        rollout,
        phase=phase,
        since_s=now_s,
        reason=reason if ended or phase is _P.FAILED else "",
        ended_at_s=now_s if ended else 0.0,
    )
    match event:
        case Event.NEXT:
            return msgspec.structs.replace(
                changed, step=rollout.step + 1, advanced_at_s=now_s, most=0, healthy="", slips=0
            )
        case Event.SLIPPED:
            return msgspec.structs.replace(changed, advanced_at_s=now_s, most=0, slips=rollout.slips + 1)
        case Event.RESUMED:
            return msgspec.structs.replace(changed, advanced_at_s=now_s, counts_from_s=now_s, slips=0)
        case Event.BEGUN | Event.REACHED:
            return msgspec.structs.replace(changed, advanced_at_s=now_s)
        case _:
            return changed


# --- the steps of a strategy


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One step: what has to be so before the next one begins."""

    replicas: int
    """Slots, from 1 on, that run the new version."""
    beside: bool = False
    """Beside the old one, which stays everywhere; otherwise it gives way."""
    share_pct: int | None = None
    """Of the traffic, for the new version; None: as much as its number brings."""
    bake_s: float = 0.0
    promote: Promotion = Promotion.AUTO


def stages(strategy: RolloutStrategy, spec: JobSpec, replicas: int) -> tuple[Stage, ...]:
    """The steps of a rollout to `spec`, of a job with so many slots. Only the last one takes anything away."""
    last = Stage(replicas=replicas)
    match strategy:
        case RolloutStrategy.CANARY:
            canary = spec.update.canary or Canary()
            return (
                *(
                    Stage(
                        replicas=min(step.replicas, replicas),
                        beside=True,
                        share_pct=step.weight or None,
                        bake_s=step.bake_s,
                        promote=canary.promote,
                    )
                    for step in canary.steps
                ),
                last,
            )
        case RolloutStrategy.BLUE_GREEN:
            asked = spec.update.blue_green
            gate, bake_s = (asked.promote, asked.bake_s) if asked else (Promotion.AUTO, 0.0)
            return (
                Stage(replicas=replicas, beside=True, share_pct=0, promote=gate),
                Stage(replicas=replicas, beside=True, share_pct=100, bake_s=bake_s),
                Stage(replicas=replicas, share_pct=100),
            )
        case RolloutStrategy.ROLLING:
            return (last,)


def stage_of(rollout: Rollout, spec: JobSpec, replicas: int) -> Stage:
    known = stages(rollout.strategy, spec, replicas)
    return known[min(rollout.step, len(known) - 1)]


def is_last(rollout: Rollout, spec: JobSpec, replicas: int) -> bool:
    return rollout.step >= len(stages(rollout.strategy, spec, replicas)) - 1


def policy_of(rollout: Rollout | None, wanted: JobSpec, left: JobSpec | None) -> UpdatePolicy:
    """How a rollout to `wanted` goes; back from `left` as that one says, since it is what was written last."""
    if rollout is None or not rollout.back:
        return wanted.update
    policy = (left.rollback if left else None) or wanted.rollback or wanted.update
    return msgspec.structs.replace(policy, canary=None, blue_green=None)


# --- beginnings and ends, as they stand in the job


def tracked(spec: JobSpec) -> bool:
    """Whether jobs of this spec have rollouts: what ends by itself, or is made by a schedule, is only begun anew."""
    return not spec.mode.ends and spec.schedule is None


def current(job: Job, spec: JobSpec) -> Rollout | None:
    """The rollout to the wanted version, also of a job that was stored before rollouts were."""
    if not tracked(spec):
        return None
    if job.rollout is not None and job.rollout.version == job.version:
        return job.rollout
    made = _made(job, job.version, RolloutStrategy.ROLLING, job.changed_at_s)
    return msgspec.structs.replace(made, phase=_P.DONE) if job.good_version == job.version else made


def begin(job: Job, spec: JobSpec, now_s: float) -> Job:
    """`job`, whose wanted version is another one since now, with its rollout to that. The one before is history."""
    if not tracked(spec):
        return job
    new = _made(job, job.version, _strategy(job, spec), now_s)
    return _next(job, new, Event.SUPERSEDED, f"version {job.version} was asked for", now_s)


def turn_back(job: Job, spec: JobSpec, version: int, cause: str, now_s: float) -> Job:
    """`job` with an earlier version wanted again. `spec` is that of the version wanted now; `cause` says why."""
    rollout = current(job, spec)
    known = msgspec.structs.replace(job, rollout=rollout, version=version, changed_at_s=now_s, paused="")
    new = msgspec.structs.replace(
        _made(known, version, RolloutStrategy.ROLLING, now_s), from_version=job.version, back=True, cause=cause
    )
    return _next(known, new, Event.REVERTED, cause, now_s)


def completed(job: Job, spec: JobSpec, now_s: float) -> Job:
    """`job`, every slot of which runs the wanted version well."""
    rollout = current(job, spec)
    done = after(rollout, Event.COMPLETED, now_s) if rollout is not None and not over(rollout) else rollout
    return msgspec.structs.replace(job, good_version=job.version, rollout=done)


def touched(job: Job, now_s: float) -> Job:
    """`job`, with which something was done that its rollout needs time for: its deadline counts from now."""
    if job.rollout is None or over(job.rollout):
        return job
    return msgspec.structs.replace(job, rollout=msgspec.structs.replace(job.rollout, advanced_at_s=now_s))


def _strategy(job: Job, spec: JobSpec) -> RolloutStrategy:
    """What the spec asks for, where something is there that the new version could run beside."""
    if job.good_version in (0, job.version):
        return RolloutStrategy.ROLLING
    if spec.update.canary is not None:
        return RolloutStrategy.CANARY
    return RolloutStrategy.BLUE_GREEN if spec.update.blue_green is not None else RolloutStrategy.ROLLING


def _made(job: Job, version: int, strategy: RolloutStrategy, now_s: float) -> Rollout:
    came_from = job.good_version if job.good_version != version else 0
    return Rollout(
        version=version,
        from_version=came_from,
        strategy=strategy,
        started_at_s=now_s,
        since_s=now_s,
        advanced_at_s=now_s,
    )


def _next(job: Job, new: Rollout, event: Event, reason: str, now_s: float) -> Job:
    last = job.rollout
    past = job.past_rollouts
    if last is not None:
        past = (last if over(last) else after(last, event, now_s, reason), *past)
    return msgspec.structs.replace(job, rollout=new, past_rollouts=past[: ROLLOUTS_KEPT - 1])


# --- what time and the tasks make of it


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a rollout now."""

    well: tuple[int, ...]
    """Slots of the step whose task of the new version is well."""
    held: bool = False
    """It has to wait for jobs that it depends on."""
    exact: bool = True
    """Each slot that is through counts from when it is; otherwise that is noted now and then, since it is written."""


def moved(rollout: Rollout, known: Sequence[Stage], seen: Seen, now_s: float) -> Rollout:
    """The rollout after what is seen now; the same object when that is no news. Not of one that is paused."""
    rollout = _dated(rollout, now_s)
    stage = known[min(rollout.step, len(known) - 1)]
    reached = bool(stage.replicas) and len(seen.well) >= stage.replicas
    match rollout.phase:
        case RolloutPhase.WAITING if not seen.held:
            return after(rollout, Event.BEGUN, now_s)
        case RolloutPhase.MOVING if seen.held:
            return after(rollout, Event.HELD, now_s)
        case RolloutPhase.MOVING:
            further = _further(rollout, seen, now_s)
            return after(further, Event.REACHED, now_s) if reached and stage.beside else further
        case RolloutPhase.BAKING | RolloutPhase.AWAITING if not reached:
            return after(rollout, Event.SLIPPED, now_s)
        case RolloutPhase.BAKING if now_s >= rollout.since_s + stage.bake_s:
            return after(rollout, Event.BAKED if stage.promote is Promotion.MANUAL else Event.NEXT, now_s)
        case _:
            return rollout


def _further(rollout: Rollout, seen: Seen, now_s: float) -> Rollout:
    if len(seen.well) <= rollout.most:
        return rollout
    if not seen.exact and rollout.most > 0 and now_s < rollout.advanced_at_s + PROGRESS_NOTED_S:
        return rollout
    return msgspec.structs.replace(
        rollout, most=len(seen.well), healthy=str(Spans().with_numbers(seen.well)), advanced_at_s=now_s
    )


def _dated(rollout: Rollout, now_s: float) -> Rollout:
    """Dates of a clock that was wrong would make it wait for years: they are taken for now."""
    if max(rollout.since_s, rollout.advanced_at_s, rollout.counts_from_s) <= now_s + CLOCKS_DIFFER_S:
        return rollout
    return msgspec.structs.replace(
        rollout,
        since_s=min(rollout.since_s, now_s),
        advanced_at_s=min(rollout.advanced_at_s, now_s),
        counts_from_s=min(rollout.counts_from_s, now_s),
    )


def deadline_at_s(rollout: Rollout, policy: UpdatePolicy, leads_since_s: float) -> float:
    """When it has failed unless it comes further before; infinite where it has no deadline, or waits for a person.

    While nobody led nothing could come further: a new leader gives it a moment of its own.
    """
    if rollout.phase is not RolloutPhase.MOVING or not policy.progress_deadline_s:
        return math.inf
    waits_s = policy.delay_s + policy.monitor_s
    moment_s = min(policy.progress_deadline_s, TAKEOVER_GRACE_S)
    return max(rollout.advanced_at_s + policy.progress_deadline_s, leads_since_s + moment_s) + waits_s


def baked_at_s(rollout: Rollout, stage: Stage) -> float:
    """When its step was watched for long enough; infinite while it is not."""
    return rollout.since_s + stage.bake_s if rollout.phase is RolloutPhase.BAKING else math.inf


def restless(rollout: Rollout) -> bool:
    """Whether what should be well fell back too often to be waited for any longer."""
    return rollout.phase is RolloutPhase.MOVING and rollout.slips > SLIPS_ALLOWED
