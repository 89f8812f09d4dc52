"""What may be mounted: paths that a node's policy allows, and names of volumes. Never touches a file system."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}")


def volume_name(namespace: str, name: str) -> str:
    """What a volume of a namespace is called on its node. No namespace has an underscore, so none reaches another."""
    return f"{namespace}_{name}"


def volume_fault(name: str) -> str:
    """What is wrong with the name of a volume; empty when it can be one."""
    if _VOLUME.fullmatch(name):
        return ""
    return f"{name[:80]!r} is no name of a volume: use 1 to 100 of a-z, A-Z, 0-9, '_', '.' and '-', the first no sign"


def mount_path_fault(path: str) -> str:
    """What is wrong with a path to mount; empty when it is absolute and plain."""
    if not path.startswith("/"):
        return f"{path[:80]!r} is no absolute path"
    if any(part in (".", "..") for part in path.split("/")) or not path.isprintable():
        return f"{path[:80]!r} is no plain path: write it without `.`, `..` and signs that cannot be seen"
    return ""


def bind_allowed(path: str, allowed: Iterable[str]) -> bool:
    """Whether a path is one of the allowed directories, or below one. As written: links are the agent's to follow."""
    plain = posixpath.normpath(path)
    return any(plain == one or plain.startswith(one.rstrip("/") + "/") for one in map(posixpath.normpath, allowed))
