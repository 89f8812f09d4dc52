"""Which requests of a pass find their node on a ladder, and the ladders for them. Never ranks nodes itself."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from common.model.job import Strategy
from common.model.resources import Resources
from controller.scheduler.filters import asked_of_nodes, standing
from controller.scheduler.host_ports import host_ports
from controller.scheduler.ladder import Ladder
from controller.scheduler.node_table import NodeTable
from controller.scheduler.values import Request
from controller.scheduler.volumes import volumes_of

WORTH_BUILDING = 256
"""Requests in a pass that a ladder must be for: it takes as long to build as about a hundred passes over all rows."""
LADDERS_LIMIT = 4
"""Each ladder follows all placements of a pass, also those of requests that are not for it."""
OTHERS_LIMIT = 64
"""Rows with tasks of the same job that are looked past."""
_NOTHING_PLAIN = -1


class Ladders:
    """Those of a pass: one for each thing that many of its requests ask of nodes. Tell it of every placement."""

    def __init__(self, table: NodeTable, requests: Sequence[Request]) -> None:
        self._table, self._requests = table, requests
        self._asked: list[int] = []
        """By request, a number for what it asks of nodes; `_NOTHING_PLAIN` where more tells nodes apart."""
        self._least: dict[int, Resources] = {}
        """By that number, the least that such requests need. Those that are worth a ladder only."""
        self._ladders: dict[int, Ladder] = {}
        self._followed: dict[int, int] = {}
        """How many of the changes each has followed."""
        self._changes: list[int] = []
        if len(requests) >= WORTH_BUILDING:
            self._count()

    def best_row(self, place: int, salt: int) -> int | None:
        """Where the single task of a request, by its place in the pass, goes; None where a ladder cannot tell."""
        asked = self._asked[place] if self._asked else _NOTHING_PLAIN
        if asked not in self._least:
            return None
        request = self._requests[place]
        others = self._table.rows_of_job(request.job_id)
        if others and (len(others) > OTHERS_LIMIT or request.spec.task.placement.spread):
            return None
        if self._table.neighbours.rules_about(request.spec.full_name):
            return None
        return self._ladder(asked, request).best_row(request.spec.task.reservations, salt, others)

    def placed(self, rows: Iterable[int]) -> None:
        """Something was set aside on rows, or given back."""
        if self._ladders:
            self._changes += rows

    def _count(self) -> None:
        numbers: dict[Hashable, int] = {}
        needs: dict[int, list[Resources]] = {}
        for request in self._requests:
            asked = _NOTHING_PLAIN
            if _plain(request):
                asked = numbers.setdefault(self._asks(request), len(numbers))
                needs.setdefault(asked, []).append(request.spec.task.reservations)
            self._asked.append(asked)
        most = sorted(needs, key=lambda asked: -len(needs[asked]))[:LADDERS_LIMIT]
        self._least = {asked: _least(needs[asked]) for asked in most if len(needs[asked]) >= WORTH_BUILDING}

    def _asks(self, request: Request) -> Hashable:
        return asked_of_nodes(request), self._strategy(request) is Strategy.BINPACK

    def _strategy(self, request: Request) -> Strategy:
        return self._table.strategy_of(request.spec.task.placement)

    def _ladder(self, asked: int, request: Request) -> Ladder:
        ladder = self._ladders.get(asked)
        if ladder is None:
            among = standing(self._table, request)
            ladder = self._ladders[asked] = Ladder(self._table, among, self._strategy(request), self._least[asked])
        else:
            for row in self._changes[self._followed[asked] :]:
                ladder.changed(row)
        self._followed[asked] = len(self._changes)
        return ladder


def _plain(request: Request) -> bool:
    """Whether only load tells nodes apart for it, as far as it says itself."""
    task = request.spec.task
    return (
        len(request.task_ids) == 1
        and not (request.avoid or request.only or task.devices or task.placement.affinities)
        and not (task.ports and host_ports(task))
        and not (task.container.mounts and any(volumes_of(task)))
    )


def _least(needs: Sequence[Resources]) -> Resources:
    return Resources(
        cpu_millis=min(need.cpu_millis for need in needs), memory_bytes=min(need.memory_bytes for need in needs)
    )
