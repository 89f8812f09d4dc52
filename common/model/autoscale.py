"""How a service's number of replicas follows its load: what an engineer asks for, and what became of it so far."""

from __future__ import annotations

import msgspec

WAKE_WAIT_S = 60.0
"""How long a connection waits for a job that is being started for it: an image that has to be pulled first takes most
of a minute."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast the number may change in one direction: within `period_s` by the greater of the two, like Kubernetes."""

    stabilise_s: float = 0.0
    """Only as far as everything within this time asked for."""
    replicas: int = 0
    percent: int = 100
    """Of the number at the beginning of the period. With `replicas` 0 too, 0 lets nothing change."""
    period_s: float = 15.0


UP = Pace(replicas=4)
DOWN = Pace(stabilise_s=300.0)
"""The defaults are those of Kubernetes' horizontal autoscaler, which its users have lived with for years."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A number that the cluster's Prometheus knows."""

    prometheus: str
    """An expression with one value."""
    target: float
    """How much of it one replica should have."""


class ScheduledReplicas(msgspec.Struct, frozen=True, kw_only=True):
    """From each of these moments to the next one of any entry the job has at least so many; 0 puts it to sleep."""

    at: str
    """As in `Schedule.cron`."""
    replicas: int


class Autoscale(msgspec.Struct, frozen=True, kw_only=True):
    """What moves the number of replicas, and between which ends. 0 stands for a target that is not given."""

    least: int = 1
    most: int
    cpu_percent: int = 0
    """Of what a task reserves, or else of its limit."""
    memory_percent: int = 0
    requests_per_second: float = 0.0
    """For each replica: connections to published ports, and HTTP requests that are routed by host."""
    query: Query | None = None
    up: Pace = UP
    down: Pace = DOWN
    schedule: tuple[ScheduledReplicas, ...] = ()
    timezone: str = "UTC"
    """By whose clocks the schedule goes."""
    wake: bool = True
    """Without any replica, the next connection starts one and waits for it."""
    wake_wait_s: float = WAKE_WAIT_S
    """How long a connection waits for that."""

    @property
    def measures(self) -> bool:
        """Whether anything that is measured says how many there should be."""
        return bool(self.cpu_percent or self.memory_percent or self.requests_per_second or self.query)

    @property
    def sleeps(self) -> bool:
        """Whether it may come to have no replica at all."""
        return self.least == 0 or any(entry.replicas == 0 for entry in self.schedule)

    @property
    def wakes(self) -> bool:
        """Whether connections wait for it longer than for others, and start it."""
        return self.wake and self.sleeps


class ScalingStep(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the number."""

    at_s: float
    before: int
    after: int


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a job's autoscaling: written with each change of the number, so that a new leader goes on."""

    reason: str = ""
    """Why the number last changed, for people."""
    steps: tuple[ScalingStep, ...] = ()
    """The last changes, newest last: they count against the pace."""
    schedule_from_s: float = 0.0
    """Since when the schedule counts: what was due before is not its business."""
    taken_s: float = 0.0
    """When that entry of the schedule was due which was carried out last; 0: none was."""
    floor: int = 0
    """The number of that entry; means nothing before the first."""
    woken_at_s: float = 0.0
    """Since when it is being started for a connection; 0: it is not."""
    woke: str = ""
    """How the last cold start went, for people: `woke in 0.41 s: ...`."""
