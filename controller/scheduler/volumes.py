"""Where volumes are and who writes them: the scheduler's index over nodes' reports and the tasks that are placed.

A volume is wherever its node says it keeps one of that name, and wherever a task is placed that has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

from common.model.job import Mount, MountKind, TaskSpec
from controller.scheduler.attributes import Bools

_Counts: TypeAlias = dict[str, dict[int, int]]
"""By volume, by row."""


class VolumeTable:
    """Part of a `NodeTable`; rows are its rows."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[str, ...]] = {}
        """By row: what the node says."""
        self._keepers: _Counts = {}
        self._tasks: _Counts = {}
        self._writers: _Counts = {}
        """Tasks that must write it alone."""

    def copy(self) -> VolumeTable:
        twin = VolumeTable()
        twin._kept = dict(self._kept)
        twin._keepers, twin._tasks, twin._writers = (
            {name: dict(counts) for name, counts in each.items()}
            for each in (self._keepers, self._tasks, self._writers)
        )
        return twin

    def set_node(self, row: int, volumes: tuple[str, ...]) -> None:
        """What a node keeps now; nothing once it is forgotten."""
        if self._kept.get(row, ()) != volumes:
            for name in self._kept.pop(row, ()):
                _count(self._keepers, name, row, -1)
            for name in volumes:
                _count(self._keepers, name, row, 1)
            if volumes:
                self._kept[row] = volumes

    def account(self, row: int, spec: TaskSpec, change: int) -> None:
        """A task came to a node or left it."""
        for mount in volumes_of(spec):
            _count(self._tasks, mount.source, row, change)
            if mount.sole_writer:
                _count(self._writers, mount.source, row, change)

    def at(self, name: str) -> set[int]:
        """Rows of the nodes where the volume is."""
        return {*self._keepers.get(name, {}), *self._tasks.get(name, {})}

    def places(self, mount: Mount) -> set[int]:
        """Rows of the nodes where what a mount wants is: of an external volume those that say so themselves."""
        return set(self._keepers.get(mount.source, ())) if mount.external else self.at(mount.source)

    def written_at(self, mount: Mount) -> set[int]:
        """Rows where somebody has the volume who is in the way of this mount, or whom it is in the way of."""
        return set((self._tasks if mount.sole_writer else self._writers).get(mount.source, {}))

    def fits(self, mount: Mount, rows: int, wanted: int) -> Bools:
        """Rows that will do for one more task with this mount, of a job that is to have `wanted` tasks in all.

        A task goes where the volume is. A volume of one writer is many, one on each node: there is a new one only
        where fewer are than tasks are wanted, or a task would begin with nothing beside data that waits for it.
        One of an external volume goes only where a node says that it keeps it.
        """
        there = self.places(mount)
        fitting = np.zeros(rows, np.bool_)
        if not mount.external and (not there or (mount.sole_writer and len(there) < wanted)):
            fitting[:] = True
        else:
            fitting[list(there)] = True
        if mount.sole_writer or not mount.shared:
            fitting[list(self.written_at(mount))] = mount.read_only
        return fitting


def volumes_of(spec: TaskSpec) -> Iterator[Mount]:
    """Named volumes that a task has, each once: with the mount that asks for most."""
    found: dict[str, Mount] = {}
    for mount in spec.container.mounts:
        if mount.kind is MountKind.VOLUME and (mount.source not in found or mount.sole_writer):
            found[mount.source] = mount
    yield from found.values()


def _count(counts: _Counts, name: str, row: int, change: int) -> None:
    by_row: Mapping[int, int] = counts.get(name, {})
    left = {**by_row, row: by_row.get(row, 0) + change}
    if not left[row]:
        del left[row]
    if left:
        counts[name] = left
    else:
        counts.pop(name, None)
