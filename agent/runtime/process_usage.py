"""What a process task uses at the moment, from /proc: the sum over everything below its supervisor."""

from __future__ import annotations

import os
from pathlib import Path

from agent.runtime.shim import descendants
from common.model.resources import Usage

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class CpuMeter:
    """Remembers the last sample: processor time only means something between two."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def measure(self, supervisor_pid: int, now_s: float) -> Usage:
        """Of all processes below the supervisor; CPU since the last call, 0 at the first."""
        seconds, memory_bytes, count = 0.0, 0, 0
        for pid in descendants(supervisor_pid):
            used = _used(pid)
            if used is not None:
                seconds, memory_bytes, count = seconds + used[0], memory_bytes + used[1], count + 1
        before_s, before = self._last or (now_s, seconds)
        self._last = now_s, seconds
        elapsed_s = now_s - before_s
        # A process that ended took its time with it: the sum may fall.
        cpu_millis = round(1000 * max(seconds - before, 0.0) / elapsed_s) if elapsed_s > 0 else 0
        return Usage(cpu_millis=cpu_millis, memory_bytes=memory_bytes, tasks=count)


def _used(pid: int) -> tuple[float, int] | None:
    """Seconds of processor time, its buried children's included, and resident bytes; None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS_PER_S, int(fields[21]) * _PAGE_BYTES
