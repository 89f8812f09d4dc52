"""How a job goes from one version to the next: what the engineer asks for, and how far it has come.

The engineer (through the API) writes `Canary` and `BlueGreen`, as part of a spec; the controller alone writes
`Rollout`. What the phases mean and which follows which is decided in `controller.core.rollout_machine`.
"""

from __future__ import annotations

import enum

import msgspec


class Promotion(enum.Enum):
    """What lets a rollout go on when a step was watched for long enough."""

    AUTO = "auto"
    MANUAL = "manual"
    """`podium promote`."""


class CanaryStep(msgspec.Struct, frozen=True, kw_only=True):
    replicas: int = 1
    """Slots that run the new version beside the old one, from slot 1 on."""
    weight: int = 0
    """Percent of the traffic that they get together; 0: as much as their number brings."""
    bake_s: float = 60.0
    """They must have been well for this long."""


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """A few tasks of the new version run beside all of the old one first. The rest then follows slot by slot."""

    steps: tuple[CanaryStep, ...] = (CanaryStep(),)
    promote: Promotion = Promotion.AUTO


class BlueGreen(msgspec.Struct, frozen=True, kw_only=True):
    """All of the new version runs beside all of the old one, then gets all the traffic at once."""

    bake_s: float = 60.0
    """The old ones are kept for this long after the switch."""
    promote: Promotion = Promotion.AUTO
    """Of the switch."""


class RolloutStrategy(enum.Enum):
    ROLLING = "rolling"
    CANARY = "canary"
    BLUE_GREEN = "blue-green"


class RolloutPhase(enum.Enum):
    """Where a rollout stands within its step. A pause is none of these: it may come at any of them (`Job.paused`)."""

    WAITING = "waiting"
    """For jobs that it depends on; nothing of it was started."""
    MOVING = "moving"
    """Slots change, as many as the step asks for."""
    BAKING = "baking"
    """What the step asks for is well, and watched."""
    AWAITING = "awaiting"
    """... and was watched for long enough; `podium promote` is waited for."""
    DONE = "done"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"
    """It stands still, and there is nothing that it could go back to."""
    SUPERSEDED = "superseded"
    """Another version was asked for before it was through."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One way of a job to one version, stored with the job: whoever leads next goes on from here."""

    version: int
    from_version: int = 0
    """What it leaves; 0: nothing was there."""
    strategy: RolloutStrategy = RolloutStrategy.ROLLING
    back: bool = False
    """It goes back to a version that was there before: always rolling, by the spec's `rollback`."""
    phase: RolloutPhase = RolloutPhase.MOVING
    step: int = 0
    """Of the strategy's steps, from 0."""
    started_at_s: float = 0.0
    since_s: float = 0.0
    """When this phase of this step began."""
    advanced_at_s: float = 0.0
    """When it last came further; the deadline counts from here."""
    most: int = 0
    """Slots that were well at the same time in this step, at most: only more than that is progress."""
    healthy: str = ""
    """Slots whose task of this version was well when it last came further, as spans: `1-40,42`."""
    slips: int = 0
    """How often in this step something was no longer well that had been."""
    counts_from_s: float = 0.0
    """Failures that were seen before do not count: somebody looked at them and resumed."""
    cause: str = ""
    """Why it was begun, when it goes back."""
    reason: str = ""
    """Why it ended as it did, when not well."""
    ended_at_s: float = 0.0
