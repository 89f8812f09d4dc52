"""Control groups of this machine: where they are, limits for a process task, and the memory peak of any container.

Knows versions 1 and 2 and both side by side. Never moves the agent itself and never touches a group it did not make;
what the system does not allow is said in words and done without.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from pathlib import Path

import msgspec

from common.model.resources import Resources

CPU_PERIOD_US = 100_000
"""The kernel's default period of a CPU quota."""
CPU_QUOTA_MIN_US = 1_000
"""The kernel refuses a smaller quota."""

_CONTROLLERS = ("memory", "cpu")


class Hierarchy(msgspec.Struct, frozen=True, kw_only=True):
    """Where one controller's groups are made."""

    version: int
    root: Path
    """Where its file system is mounted."""
    own: Path
    """The group this process is in."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The control groups of one process task: one directory a controller, or one for all."""

    directories: tuple[str, ...] = ()
    problem: str = ""
    """Why limits are not enforced; empty when they are."""


@functools.cache
def hierarchies(mounts: str | None = None, membership: str | None = None) -> dict[str, Hierarchy]:
    """The hierarchy of each controller we use, from `/proc/self/mounts` and `/proc/self/cgroup`."""
    mounts = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    membership = Path("/proc/self/cgroup").read_text() if membership is None else membership
    paths = _membership(membership)
    found: dict[str, Hierarchy] = {}
    for line in mounts.splitlines():
        _, mounted, kind, options, *_ = line.split(" ")
        root = Path(mounted)
        if kind == "cgroup":
            for controller in set(options.split(",")) & set(_CONTROLLERS):
                found[controller] = Hierarchy(version=1, root=root, own=_own(root, paths.get(controller, "/")))
        elif kind == "cgroup2":
            for controller in _CONTROLLERS:
                found.setdefault(controller, Hierarchy(version=2, root=root, own=_own(root, paths.get("", "/"))))
    return found


def _membership(text: str) -> dict[str, str]:
    """Path of this process by controller; version 2 under the empty name."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _own(root: Path, path: str) -> Path:
    """Inside a container the path may be the host's; then what is mounted is the best one can have."""
    own = root / path.lstrip("/")
    return own if own.is_dir() else root


def create(name: str, limits: Resources) -> Group:
    """Groups called `name` that enforce `limits` and measure memory, as far as this system allows. Never raises."""
    made: list[str] = []
    problems = []
    for controller, wanted in (("memory", True), ("cpu", limits.cpu_millis > 0)):
        if not wanted:
            continue
        try:
            directory = _make(controller, name)
            if str(directory) not in made:
                made.append(str(directory))
            _limit(controller, directory, limits)
        except OSError as error:
            problems.append(f"{controller}: {error.strerror or error}")
    limited = limits.memory_bytes or limits.cpu_millis
    return Group(directories=tuple(made), problem="; ".join(problems) if limited else "")


def remove(group: Group) -> bool:
    """Remove empty groups; whether none is left. One that still has a process stays as it is."""
    for directory in map(Path, group.directories):
        with contextlib.suppress(OSError):
            directory.rmdir()
    return not any(Path(directory).exists() for directory in group.directories)


def processes(group: Group) -> list[int]:
    """Ids of the processes in the groups."""
    found: set[int] = set()
    for directory in group.directories:
        with contextlib.suppress(OSError):
            found |= {int(line) for line in (Path(directory) / "cgroup.procs").read_text().split()}
    return sorted(found)


def _make(controller: str, name: str) -> Path:
    hierarchy = hierarchies().get(controller)
    if hierarchy is None:
        raise OSError(0, "this system has no such control group")
    parent = hierarchy.own if hierarchy.version == 1 else _parent_with(controller, hierarchy)
    directory = parent / name
    directory.mkdir(exist_ok=True)
    return directory


def _parent_with(controller: str, hierarchy: Hierarchy) -> Path:
    """A group of version 2 whose children have the controller.

    The kernel allows that only to groups without processes of their own. So either ours is the very root, or the
    service manager has delegated its parent to us and put us into a leaf (systemd: `DelegateSubgroup=`).
    """
    parent = hierarchy.own if hierarchy.own == hierarchy.root or not _delegated(hierarchy.own.parent) else None
    parent = parent or hierarchy.own.parent
    enabled = parent / "cgroup.subtree_control"
    if controller not in enabled.read_text().split():
        enabled.write_text(f"+{controller}")
    return parent


def _delegated(directory: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def _limit(controller: str, directory: Path, limits: Resources) -> None:
    if controller == "memory" and limits.memory_bytes:
        _limit_memory(directory, limits.memory_bytes)
    if controller == "cpu" and limits.cpu_millis:
        quota_us = max(limits.cpu_millis * CPU_PERIOD_US // 1000, CPU_QUOTA_MIN_US)
        if (directory / "cpu.max").exists():
            (directory / "cpu.max").write_text(f"{quota_us} {CPU_PERIOD_US}")
        else:
            (directory / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
            (directory / "cpu.cfs_quota_us").write_text(str(quota_us))


def _limit_memory(directory: Path, memory_bytes: int) -> None:
    """Memory and swap together, so that the limit is the limit. Swap is not always accounted for."""
    if (directory / "memory.max").exists():
        (directory / "memory.max").write_text(str(memory_bytes))
        with contextlib.suppress(OSError):
            (directory / "memory.swap.max").write_text("0")
        return
    (directory / "memory.limit_in_bytes").write_text(str(memory_bytes))
    with contextlib.suppress(OSError):
        (directory / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))


def engine_memory_directory(container_id: str) -> Path | None:
    """The memory group of a container of a local engine; None when it is not to be found."""
    hierarchy = hierarchies().get("memory")
    if hierarchy is None:
        return None
    names = (
        f"docker/{container_id}",
        f"system.slice/docker-{container_id}.scope",
        f"machine.slice/libpod-{container_id}.scope",
    )
    usual = next((hierarchy.root / name for name in names if (hierarchy.root / name).is_dir()), None)
    return usual or next(hierarchy.root.glob(f"*/{container_id}"), None)  # an engine with a --cgroup-parent of its own


def end_engine_leftovers(container_id: str) -> int:
    """Kill what still runs of a container that its local engine holds for ended or gone; how many processes.

    An engine that starts a container while it shuts down forgets it, and its process lives on unseen.
    """
    directory = engine_memory_directory(container_id)
    ended = 0
    for pid in processes(Group(directories=(str(directory),))) if directory else ():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            ended += 1
    return ended


def memory_peak_bytes(directory: Path) -> int:
    """The most memory a group ever had; 0 when it is gone or the kernel does not say."""
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        with contextlib.suppress(OSError, ValueError):
            return int((directory / name).read_text())
    return 0
