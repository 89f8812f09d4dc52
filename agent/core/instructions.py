"""What a task's state machine wants done. Values only; the task runner carries them out and answers with stimuli.

`Prepare` to `ReadLogTail` are the one operation a phase waits for: a new one takes the place of the one before.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from common.model.job import HealthCheck, Hook
from common.model.task import PortBinding


class Prepare(msgspec.Struct, frozen=True, kw_only=True):
    """Make the image present and set the host ports aside."""

    attempt: int


class Create(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    bindings: tuple[PortBinding, ...] = ()


class Start(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    container_id: str


class WaitExit(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    container_id: str


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    container_id: str
    signal: str
    grace_s: float
    hooks: tuple[Hook, ...] = ()
    """Run before the signal; the time they take is part of the grace."""


class ReadLogTail(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    container_id: str


class Abort(msgspec.Struct, frozen=True):
    """Give the present operation up; nothing it does is needed any more."""


class Remove(msgspec.Struct, frozen=True):
    """Remove an ended container, trying until it is gone."""

    container_id: str


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Run the health check in `delay_s`; takes the place of a probe that was due before."""

    attempt: int
    container_id: str
    check: HealthCheck
    delay_s: float


class RunHooks(msgspec.Struct, frozen=True, kw_only=True):
    """Run what is to be run beside a container that has just started, in `delay_s`; answer with `Hooked`."""

    attempt: int
    container_id: str
    hooks: tuple[Hook, ...]
    delay_s: float = 0.0


class SetTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer with `TimerFired(timer)` in `delay_s`; takes the place of the timer before."""

    timer: int
    delay_s: float


class Finish(msgspec.Struct, frozen=True):
    """Nothing is left of the task: drop it from the journal."""


Operation: TypeAlias = Prepare | Create | Start | WaitExit | Stop | ReadLogTail
Instruction: TypeAlias = Operation | Abort | Remove | Probe | RunHooks | SetTimer | Finish
