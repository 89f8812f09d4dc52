"""Which processes live. One that has ended and waits for its parent does not: an orphan's may take its time to look."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil

PATIENCE_S = 30.0
_LOOK_S = 0.01


def lives(pid: int) -> bool:
    try:
        return runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def runs(process: psutil.Process) -> bool:
    """Whether it is still this very process, and has not ended."""
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def until_ended(processes: Iterable[psutil.Process], within_s: float = PATIENCE_S) -> None:
    left = [process for process in processes if runs(process)]
    deadline_s = time.monotonic() + within_s
    while left:
        assert time.monotonic() < deadline_s, f"within {within_s:g} s did not end: {left}"
        time.sleep(_LOOK_S)
        left = [process for process in left if runs(process)]
