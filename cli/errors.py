"""The one table from errors to exit codes, and what a person is told about each. Nothing else ends the command."""

from __future__ import annotations

from common.errors import (
    Conflict,
    Fenced,
    Forbidden,
    Invalid,
    NotFound,
    OutcomeUnknown,
    PodiumError,
    Unauthenticated,
    Unavailable,
)

DONE = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells count."""

_TABLE: tuple[tuple[type[PodiumError], int, str], ...] = (
    # The first row an error is an instance of counts. The text is what to do about it, where there is something.
    (Invalid, USAGE, ""),
    (NotFound, FAILED, "`podium jobs`, `podium ps --all` and `podium nodes` list what there is"),
    (Conflict, FAILED, ""),
    (
        Unauthenticated,
        FAILED,
        "`podium context ls` shows as whom you ask; `podium context add` takes a new token",
    ),
    (Forbidden, FAILED, "`podium whoami` shows your rights"),
    (OutcomeUnknown, FAILED, "`podium jobs` shows whether it was done; repeating the command is safe"),
    (Unavailable, FAILED, "start one with `podium dev`, or name yours with --controller"),
    (Fenced, FAILED, "another controller leads by now; repeat the command"),
    (PodiumError, FAILED, ""),
)


def exit_code(error: PodiumError) -> int:
    return _row(error)[1]


def explain(error: PodiumError) -> list[str]:
    """The lines for stderr: every fault of an invalid input, else the error and what to do."""
    if isinstance(error, Invalid):
        return [f"error: {fault}" for fault in error.faults]
    advice = _row(error)[2]
    return [f"error: {error}: {advice}" if advice else f"error: {error}"]


def _row(error: PodiumError) -> tuple[type[PodiumError], int, str]:
    return next(row for row in _TABLE if isinstance(error, row[0]))
