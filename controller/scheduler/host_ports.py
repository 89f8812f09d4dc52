"""Which jobs have which ports of which nodes: a port that a task binds on its node is there once. Never ranks nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.model.job import Protocol, PublishMode, TaskSpec

Bools: TypeAlias = npt.NDArray[np.bool_]
HostPort: TypeAlias = tuple[int, Protocol]


def host_ports(spec: TaskSpec) -> tuple[HostPort, ...]:
    """The ports of its node that a task of this spec binds."""
    return tuple(
        (port.published_port, port.protocol)
        for port in spec.ports
        if port.mode is PublishMode.HOST and port.published_port
    )


class HostPorts:
    """By port, the rows on which tasks have it. Ports that nobody has cost nothing."""

    def __init__(self) -> None:
        self._holders: dict[HostPort, dict[int, tuple[str, ...]]] = {}
        """Ids of the jobs whose tasks have a port on a row: one, but for what was placed before that was looked at."""

    def account(self, row: int, spec: TaskSpec, job_id: str, change: int) -> None:
        """A task is there (`change` 1), or is gone (-1)."""
        for port in host_ports(spec):
            rows = self._holders.setdefault(port, {})
            held = list(rows.get(row, ()))
            if change > 0:
                held.append(job_id)
            else:
                held.remove(job_id)
            if held:
                rows[row] = tuple(held)
            else:
                del rows[row]
            if not rows:
                del self._holders[port]

    def free(self, port: HostPort, rows: int) -> Bools | None:
        """Which of so many rows have a port free; None when all have."""
        taken = self._holders.get(port)
        if taken is None:
            return None
        mask = np.ones(rows, np.bool_)
        mask[list(taken)] = False
        return mask

    def holders(self, port: HostPort) -> Iterator[tuple[tuple[str, ...], list[int]]]:
        """Who has a port, with the rows on which it is them; the rest have it free."""
        by_jobs: dict[tuple[str, ...], list[int]] = {}
        for row, job_ids in self._holders.get(port, {}).items():
            by_jobs.setdefault(tuple(sorted(set(job_ids))), []).append(row)
        return iter(sorted(by_jobs.items()))

    def copy(self) -> HostPorts:
        twin = HostPorts()
        twin._holders = {port: rows.copy() for port, rows in self._holders.items()}
        return twin
