"""What this machine has and uses: capacity, attributes, usage. Limits of the agent's own cgroup count as the machine's.

Asks the operating system when told to; never decides how much may be used.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from common.model.resources import Resources, Usage

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""As images name them, so that constraints on `node.platform.arch` mean the same everywhere."""
_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 says "no limit" with a number near 2**63."""
_CGROUP = Path("/sys/fs/cgroup")


def capacity(*, cpus: float, memory_bytes: int) -> Resources:
    """What the scheduler may set aside here; an argument that is not 0 overrides what was found."""
    return Resources(
        cpu_millis=round(cpus * 1000) or _cpu_millis(),
        memory_bytes=memory_bytes or _memory_bytes(),
    )


def attributes() -> dict[str, str]:
    system = os.uname()
    return {
        "os": system.sysname.lower(),
        "arch": _ARCHITECTURES.get(system.machine, system.machine),
        "kernel": system.release,
        "cpus": f"{_cpu_millis() / 1000:g}",
        "python": platform.python_version(),
    }


class UsageMeter:
    """The machine's usage, measured between one reading and the next."""

    def __init__(self) -> None:
        psutil.cpu_percent(None)  # the first reading has nothing to compare with

    def read(self, tasks: int) -> Usage:
        cores = psutil.cpu_count() or 1
        memory = psutil.virtual_memory()
        return Usage(
            cpu_millis=round(psutil.cpu_percent(None) * cores * 10),
            memory_bytes=memory.total - memory.available,
            tasks=tasks,
        )


def _cpu_millis() -> int:
    cores = len(os.sched_getaffinity(0))
    return min([cores * 1000, *_cpu_limits()])


def _cpu_limits() -> list[int]:
    """Of the agent's cgroup, both versions."""
    quota, period = _words(_CGROUP / "cpu.max") or ("max", "0")
    if quota == "max":
        quota = (_words(_CGROUP / "cpu" / "cpu.cfs_quota_us") or ("-1",))[0]
        period = (_words(_CGROUP / "cpu" / "cpu.cfs_period_us") or ("0",))[0]
    if int(quota) <= 0 or int(period) <= 0:
        return []
    return [int(quota) * 1000 // int(period)]


def _memory_bytes() -> int:
    limits = [_words(_CGROUP / "memory.max"), _words(_CGROUP / "memory" / "memory.limit_in_bytes")]
    numbers = [int(words[0]) for words in limits if words and words[0].isdecimal()]
    return min([psutil.virtual_memory().total, *(number for number in numbers if number < _UNLIMITED_BYTES)])


def _words(path: Path) -> tuple[str, ...]:
    """The words of a small file of the kernel; empty when there is none."""
    try:
        return tuple(path.read_text().split())
    except OSError:
        return ()
