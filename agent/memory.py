"""Where on this machine files are kept that no disk may ever have: a directory on a tmpfs, of the agent alone."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import psutil

from common.errors import Invalid, Unavailable

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def memory_directory(given: str) -> Path:
    """The directory that is given, or the first usual one that is in memory. Raises `Invalid` when there is none."""
    candidates = places_in_memory(given)
    for path in candidates:
        if _file_system(path) in _IN_MEMORY and os.access(_existing(path), os.W_OK):
            return path
    names = ", ".join(map(str, candidates))
    raise Invalid(
        f"configs and secrets are kept in memory only, and none of {names} is on a tmpfs that this agent may write: "
        "name one with podium agent --secrets-dir"
    )


def proxy_memory(given: str, data_dir: Path) -> Path | None:
    """Where the proxy of this data directory has the certificates that are secrets, beside the tasks' files; None when
    the machine has no such place. Not made yet."""
    try:
        place = memory_directory(given)
    except Invalid:
        return None
    return place / f"proxy-{hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()[:12]}"


def places_in_memory(given: str) -> list[Path]:
    """Where a node keeps them, the better place first; `given` by its operator, or empty."""
    if given:
        return [Path(given)]
    if os.geteuid() == 0:
        return [Path("/run/podium"), Path("/dev/shm/podium")]  # noqa: S108 - a directory of root's own
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    shared = Path(f"/dev/shm/podium-{os.geteuid()}")  # noqa: S108 - checked to be ours
    return [Path(own) / "podium", shared] if own else [shared]


def make_in_memory(root: Path, mode: int) -> None:
    """`root` with these permissions, below a directory through which, as root, others may pass to files that are
    theirs, but not look around. Raises `Unavailable`, or `Invalid` where somebody else has been there before."""
    passage = 0o711 if os.geteuid() == 0 else 0o700
    for path, own_mode in ((root.parent, passage), (root, mode)):
        try:
            path.mkdir(mode=own_mode, parents=path is root.parent, exist_ok=True)
            there = path.lstat()
        except OSError as error:
            raise Unavailable(f"{path} cannot be made: {error.strerror}") from None
        if there.st_uid != os.geteuid() or not path.is_dir() or path.is_symlink():
            raise Invalid(f"{path} belongs to somebody else: remove it, or name another one with --secrets-dir")


def leave_memory(root: Path) -> None:
    """Remove `root` if nothing is in it, and the usual place around it if nothing is in that; one that an operator gave
    is the operator's."""
    with suppress(OSError):
        root.rmdir()
        if root.parent in places_in_memory(""):
            root.parent.rmdir()


def _file_system(path: Path) -> str:
    """The type of what `path` is, or would be, on."""
    real = os.path.realpath(path)
    mounted = [one for one in psutil.disk_partitions(all=True) if _is_below(real, one.mountpoint)]
    return max(mounted, key=lambda one: len(one.mountpoint)).fstype if mounted else ""


def _is_below(path: str, mountpoint: str) -> bool:
    return path == mountpoint or path.startswith(mountpoint.rstrip("/") + "/")


def _existing(path: Path) -> Path:
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))
