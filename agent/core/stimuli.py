"""What can happen to a task, as its state machine is told. Values only; `task_step` says what each one means.

Outcomes of operations name the attempt they belong to, so that what comes late is recognised.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from agent.core.attempt import Ending
from common.model.session import Assignment
from common.model.task import PortBinding


class Assigned(msgspec.Struct, frozen=True):
    """The controller's will, new or changed; `desired` says whether the task is to run or to stop."""

    assignment: Assignment


class ForgetRequested(msgspec.Struct, frozen=True):
    """The controller knows the task no more."""


class Fenced(msgspec.Struct, frozen=True):
    """The task is exclusive and this node's permission to run it is over."""

    reason: str


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Image present, ports set aside."""

    attempt: int
    bindings: tuple[PortBinding, ...] = ()


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far preparing has come, for people."""

    attempt: int
    text: str


class Created(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    container_id: str


class Started(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    runtime_id: str
    started_at_s: float = 0.0
    bindings: tuple[PortBinding, ...] = ()


class Exited(msgspec.Struct, frozen=True, kw_only=True):
    """The container has ended, by itself or because it was stopped."""

    attempt: int
    ending: Ending


class LogTail(msgspec.Struct, frozen=True, kw_only=True):
    """The last lines of an ended container; empty when they could not be read."""

    attempt: int
    lines: tuple[str, ...] = ()


class Removed(msgspec.Struct, frozen=True):
    container_id: str


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """A health check was run. `good` None: it could not be, which says nothing about the container."""

    attempt: int
    good: bool | None
    output: str = ""


class Hooked(msgspec.Struct, frozen=True, kw_only=True):
    """The programs beside a container that started were run. `failure` None: that could not be done, which says
    nothing about the container; empty: all succeeded."""

    attempt: int
    failure: str | None


class FailureKind(enum.Enum):
    """By what can be done about it; the kinds of `common.errors`."""

    INVALID = "invalid"
    """Can never work on this node."""
    NOT_FOUND = "not-found"
    """No such image (or container, when it was to be started)."""
    CONFLICT = "conflict"
    """Something else is in the way: may work the next time."""


class OperationFailed(msgspec.Struct, frozen=True, kw_only=True):
    """Preparing, creating or starting was refused."""

    attempt: int
    kind: FailureKind
    reason: str


class EngineAway(msgspec.Struct, frozen=True, kw_only=True):
    """An operation got no answer. Nothing is known about its outcome."""

    attempt: int
    reason: str


class EngineBack(msgspec.Struct, frozen=True):
    """The engine answers again."""


class TimerFired(msgspec.Struct, frozen=True):
    timer: int


Stimulus: TypeAlias = (
    Assigned
    | ForgetRequested
    | Fenced
    | Prepared
    | Progress
    | Created
    | Started
    | Exited
    | LogTail
    | Removed
    | Probed
    | Hooked
    | OperationFailed
    | EngineAway
    | EngineBack
    | TimerFired
)
