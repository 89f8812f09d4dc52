"""The configs and secrets of the node's tasks as files in memory: made before a container is, gone when its task ends.

Nothing of them is ever written to a disk, the journal included: it has only their digests. So an agent that was
restarted finds them where they are, and after a reboot of the machine asks a controller again. Each task has a
directory of its own, laid out as the container sees it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from agent.asset_requests import AssetAsker
from agent.memory import leave_memory, make_in_memory, memory_directory, places_in_memory
from agent.runtime.interface import Owner
from common.errors import Invalid, Unavailable
from common.model.asset import AssetMount
from common.model.session import AssetRequest, Assignment

logger = logging.getLogger(__name__)

_OTHERS_READ = 0o004
_UNFINISHED = ".new-"
OwnerOf = Callable[[], Awaitable[Owner | None]]


class AssetKeeper:
    """`directory` is this node's own; empty: chosen among those of the machine that are in memory."""

    def __init__(self, directory: str, node_id: str, asker: AssetAsker) -> None:
        self.asker = asker
        self._given = directory
        self._node_id = node_id
        self._root: Path | None = None

    async def ensure(self, assignment: Assignment, owner_of: OwnerOf) -> Path | None:
        """Where the task's files are, all of them; None when it has none.

        Raises `ContentAway` while no controller says what is in them, `Invalid` when the node cannot have them, and
        `Unavailable` when the machine has no memory left for them.
        """
        mounts = assignment.task.container.assets
        if not mounts:
            return None
        place = self._place() / assignment.task_id
        if not place.is_dir():
            owner = await owner_of() if any(_needs_owner(mount) for mount in mounts) else None
            contents = {}
            for mount in mounts:
                if (mount.kind, mount.name) not in contents:
                    contents[mount.kind, mount.name] = await self.asker.fetch(_request(assignment.task_id, mount))
            _write_all(place, [(mount, contents[mount.kind, mount.name]) for mount in mounts], owner)
        return place

    def place_of(self, assignment: Assignment) -> Path | None:
        """Where the task's files are, when it has any and they were made."""
        place = None if self._root is None else self._root / assignment.task_id
        return place if assignment.task.container.assets else None

    def forget(self, task_id: str) -> None:
        """The task has ended."""
        if self._root is not None and task_id:
            shutil.rmtree(self._root / task_id, ignore_errors=True)

    def sweep(self, live: Iterable[str]) -> None:
        """Delete what an earlier agent left of tasks that are over."""
        kept = frozenset(live)
        roots = [path / self._node_id for path in places_in_memory(self._given)]
        self._root = next((root for root in roots if root.is_dir()), None)
        for path in self._root.iterdir() if self._root is not None else ():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Leave no empty directory behind."""
        if self._root is not None:
            leave_memory(self._root)

    def _place(self) -> Path:
        if self._root is None:
            self._root = memory_directory(self._given) / self._node_id
        make_in_memory(self._root, 0o711 if os.geteuid() == 0 else 0o700)
        return self._root


def _request(task_id: str, mount: AssetMount) -> AssetRequest:
    return AssetRequest(task_id=task_id, kind=mount.kind, name=mount.name, digest=mount.digest)


def _needs_owner(mount: AssetMount) -> bool:
    """Whether it matters whose it is."""
    return mount.uid is None and not mount.mode & _OTHERS_READ


def _write_all(place: Path, files: Iterable[tuple[AssetMount, bytes]], owner: Owner | None) -> None:
    """Whole or not at all: the directory has its name when everything is in it."""
    unfinished = place.with_name(_UNFINISHED + place.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(mode=0o711)
        for mount, content in files:
            _write(unfinished, mount, content, owner)
        unfinished.rename(place)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, PermissionError):
            raise Invalid("only an agent that runs as root can give a config or secret to another user") from None
        raise Unavailable(f"a config or secret cannot be kept in memory: {error.strerror}") from None


def _write(folder: Path, mount: AssetMount, content: bytes, owner: Owner | None) -> None:
    path = folder / mount.target.lstrip("/")
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        uid = mount.uid if mount.uid is not None else owner.uid if owner else -1
        gid = mount.gid if mount.gid is not None else owner.gid if owner and mount.uid is None else -1
        if (uid, gid) != (-1, -1):
            os.fchown(file.fileno(), uid, gid)
        os.fchmod(file.fileno(), mount.mode)
