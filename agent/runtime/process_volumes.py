"""Named volumes of process tasks: a directory each below the agent's own, kept until somebody has it removed.

A program finds a volume by a variable, `PODIUM_VOLUME_<NAME>`: it sees the node's files, so no path can be promised.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec

from agent.core.environment import expand
from agent.runtime.process_files import User
from agent.runtime.process_users import FIRST
from common.errors import Unavailable
from common.model.job import Container
from common.mounts import volume_fault

PREFIX = "PODIUM_VOLUME_"
NOBODY = 65_534


class ProcessVolumes:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self) -> tuple[str, ...]:
        """Raises `Unavailable`."""
        try:
            return tuple(sorted(path.name for path in self._directory.iterdir() if not volume_fault(path.name)))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise Unavailable(f"the volumes in {self._directory} cannot be listed: {error.strerror}") from None

    def make(self, names: tuple[str, ...], owner: User | None) -> dict[str, str]:
        """Where each is, by its variable. A new one belongs to the task's user; one that is there stays as it is, but
        that what was everybody's (`nobody`, as tasks ran before they had users of their own) becomes its own."""
        places = {}
        try:
            for name in names:
                path = self._directory / name
                self._directory.mkdir(mode=0o711, parents=True, exist_ok=True)
                if not path.is_dir():
                    path.mkdir(mode=0o700)
                    if owner is not None:
                        os.chown(path, owner.uid, owner.gid)
                elif owner is not None and owner.uid >= FIRST and path.stat().st_uid == NOBODY:
                    _hand_over(path, owner)
                places[variable(name)] = str(path)
        except OSError as error:
            raise Unavailable(f"a volume cannot be made: {error}") from None
        return places

    def remove(self, name: str) -> None:
        if not volume_fault(name):
            shutil.rmtree(self._directory / name, ignore_errors=True)


def _hand_over(path: Path, owner: User) -> None:
    """The directory last: what is begun is done to its end by the next start. Links are not followed."""
    for inside in (*path.rglob("*"), path):
        if inside.lstat().st_uid == NOBODY:
            os.lchown(inside, owner.uid, owner.gid)
    path.chmod(0o700)


def variable(name: str) -> str:
    """Of a volume `namespace_name`: `PODIUM_VOLUME_NAME`."""
    own = name.partition("_")[2] or name
    return PREFIX + re.sub(r"[^A-Z0-9]", "_", own.upper())


def expanded(container: Container, places: dict[str, str]) -> Container:
    """With the places of its volumes in its command."""
    return msgspec.structs.replace(container, command=tuple(expand(argument, places) for argument in container.command))
