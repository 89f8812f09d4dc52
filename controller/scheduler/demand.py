"""What tasks with devices look like on this cluster: how many there are of each kind of need, placed or waiting.

The scheduler takes what is there for what will come. Counts only; never looks at anything but the needs.
"""

from __future__ import annotations

from typing import NamedTuple

from common.model.device import DeviceRequest
from common.model.job import TaskSpec

CLASSES_USED = 256
"""Of the most frequent needs: rarer ones hardly weigh, and each costs time in every decision about devices."""


class Need(NamedTuple):
    """What tasks of one class take of a node."""

    cpu_millis: int
    memory_bytes: int
    devices: tuple[DeviceRequest, ...]


def need_of(spec: TaskSpec) -> Need:
    return Need(spec.reservations.cpu_millis, spec.reservations.memory_bytes, spec.devices)


class Demand:
    """See the module."""

    def __init__(self) -> None:
        self._counts: dict[Need, int] = {}

    def add(self, spec: TaskSpec, times: int = 1) -> None:
        """Count tasks of this spec; with negative `times` they are gone."""
        if spec.devices:
            need = need_of(spec)
            count = self._counts.get(need, 0) + times
            assert count >= 0, f"there was no task with {need}"
            self._counts[need] = count
            if not count:
                del self._counts[need]

    def of_kind(self, kind: str) -> list[tuple[Need, DeviceRequest, int]]:
        """The most frequent needs of one kind, with the part about that kind and their counts, in an order that does
        not depend on history."""
        found = [
            (need, request, count)
            for need, count in self._counts.items()
            for request in need.devices
            if request.kind == kind
        ]
        return sorted(found, key=lambda entry: (-entry[2], _ordered(entry[0])))[:CLASSES_USED]

    def copy(self) -> Demand:
        twin = Demand()
        twin._counts = self._counts.copy()
        return twin


def _ordered(need: Need) -> tuple[object, ...]:
    parts = tuple((part.kind, part.count, part.share_millis, part.models) for part in need.devices)
    return need.cpu_millis, need.memory_bytes, parts
