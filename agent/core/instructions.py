"""What a task's state machine wants done. Values only; the task runner carries them out and answers with stimuli.

`Prepare` to `ReadLogTail` are the one operation a phase waits for: a new one takes the place of the one before.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from common.model.job import HealthCheck
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


class SetTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer with `TimerFired(timer)` in `delay_s`; takes the place of the timer before."""

    timer: int
    delay_s: float


class Finish(msgspec.Struct, frozen=True):
    """Nothing is left of the task: drop it from the journal."""


Operation: TypeAlias = Prepare | Create | Start | WaitExit | Stop | ReadLogTail
Instruction: TypeAlias = Operation | Abort | Remove | Probe | SetTimer | Finish
