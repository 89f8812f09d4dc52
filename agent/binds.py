"""Whether this node's files may be mounted into a task: links are followed here, where they lead somewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable

from common.errors import Fault, Invalid
from common.model.job import Mount, MountKind
from common.mounts import bind_allowed


def check_binds(mounts: Iterable[Mount], allowed: tuple[str, ...]) -> None:
    """Raises `Invalid` for bind mounts that the node's policy does not allow, wherever their links lead."""
    real = tuple(map(os.path.realpath, allowed))
    faults = [
        Fault(path="mounts", text=_refusal(mount.source, allowed))
        for mount in mounts
        if mount.kind is MountKind.BIND
        and not (bind_allowed(mount.source, allowed) and bind_allowed(os.path.realpath(mount.source), real))
    ]
    if faults:
        raise Invalid(faults)


def _refusal(path: str, allowed: tuple[str, ...]) -> str:
    where = os.path.realpath(path)
    leads = f" (which leads to {where})" if where != path else ""
    allows = f"allows only {', '.join(allowed)}" if allowed else "allows no bind mounts"
    return f"{path}{leads}: this node {allows}"
