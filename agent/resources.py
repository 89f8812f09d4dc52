"""What this machine has and uses: capacity, attributes, usage. Limits of the agent's own cgroup count as the machine's.

Asks the operating system when told to; never decides how much may be used.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

import psutil

from common.model.node import RuntimeStatus
from common.model.resources import Resources, Usage

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""As images name them, so that constraints on `node.platform.arch` mean the same everywhere."""
_FEATURES = (
    "aes",
    "avx",
    "avx2",
    "avx512f",
    "fma",
    "sse4_2",
    "sha_ni",
    "vmx",
    "svm",
    "asimd",
    "sve",
    "crc32",
    "atomics",
)
"""Of amd64 and arm64, under the kernel's names: not all of a hundred, which every registration would carry."""
_LEVELS = (
    {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"},
    {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
)
"""What x86-64-v2, v3 and v4 have beyond the level before, under the kernel's names (System V ABI, AMD64 supplement)."""
_MODEL_CHARACTERS = 128
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
    """What constraints can ask for under `node.attributes.` (docs/scheduler.md has the list)."""
    system = os.uname()
    return {
        "os": system.sysname.lower(),
        "arch": _ARCHITECTURES.get(system.machine, system.machine),
        "kernel": system.release,
        "cpus": f"{_cpu_millis() / 1000:g}",
        "memory_gib": f"{_memory_bytes() / (1 << 30):.2f}",
        "python": platform.python_version(),
        **distribution(_os_release()),
        **processor(_text(Path("/proc/cpuinfo"))),
    }


def distribution(release: Mapping[str, str]) -> dict[str, str]:
    """`os.name` and `os.version`, as far as an os-release file says them: `debian`, `12`."""
    found = {"os.name": release.get("ID", ""), "os.version": release.get("VERSION_ID", "")}
    return {key: value for key, value in found.items() if value}


def processor(cpuinfo: str) -> dict[str, str]:
    """`cpu.model`, the features that programs are built for as `cpu.FEATURE`, and on amd64 the `cpu.level` (1 to 4 of
    x86-64-v1 to v4) that they make up; of the first processor that the kernel lists."""
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    said = {key.strip(): value.strip() for key, _, value in lines}
    flags = set((said.get("flags") or said.get("Features") or "").split())
    found = {f"cpu.{feature}": "yes" for feature in _FEATURES if feature in flags}
    if model := said.get("model name"):
        found["cpu.model"] = model[:_MODEL_CHARACTERS]
    if "flags" in said:
        found["cpu.level"] = str(_level(flags))
    return found


def versions(runtimes: Iterable[RuntimeStatus]) -> dict[str, str]:
    """`docker.version`, of an engine that has answered. That of plain processes is the kernel's."""
    return {f"{one.name}.version": one.version for one in runtimes if one.version and one.name != "process"}


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


def _level(flags: Set[str]) -> int:
    level = 1
    for needed in _LEVELS:
        if not needed <= flags:
            break
        level += 1
    return level


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _words(path: Path) -> tuple[str, ...]:
    """The words of a small file of the kernel; empty when there is none."""
    try:
        return tuple(path.read_text().split())
    except OSError:
        return ()
