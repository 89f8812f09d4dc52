"""Whether the tasks of a node would find room on the others if it were lost. Decides nothing.

Most clusters have so many nodes with room that one look at each job's nodes says yes; only where it does not, the loss
is tried out with the scheduler on a copy of the table.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.model.job import JobSpec
from controller.scheduler.filters import feasible
from controller.scheduler.node_table import Bools, NodeTable
from controller.scheduler.schedule import schedule
from controller.scheduler.values import Request, Unplaced


class Survival:
    """Answers for one table as it is; to be thrown away when that has changed."""

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self._able: dict[tuple[str, int], tuple[JobSpec, Bools, int]] = {}
        """Nodes that could take a task, and how many they are, by job and the identity of its version's spec (which is
        kept here, so that no other spec can take its place)."""

    def of(self, node_id: str, requests: Sequence[Request]) -> bool:
        """`requests` are what would have to be placed anew: the node's tasks."""
        return not self.unplaced(node_id, requests)

    def unplaced(self, node_id: str, requests: Sequence[Request]) -> tuple[Unplaced, ...]:
        """What of them would have no place."""
        return () if self._plenty(node_id, requests) else self._tried(node_id, requests)

    def _plenty(self, node_id: str, requests: Sequence[Request]) -> bool:
        """Whether each task could even have a node of its own: then none takes another one's room. No answer about jobs
        that must be beside others or apart: where they could go depends on where those go."""
        if any(one.required for request in requests for one in request.spec.task.placement.affinities):
            return False
        tasks = sum(len(request.task_ids) for request in requests)
        return all(self._others(node_id, request) >= tasks for request in requests)

    def _others(self, node_id: str, request: Request) -> int:
        key = (request.job_id, id(request.spec))
        found = self._able.get(key)
        if found is None:
            nodes = feasible(self._table, request)
            found = self._able[key] = request.spec, nodes, int(nodes.sum())
        _, nodes, count = found
        row = self._table.row_of(node_id)
        return count - (row is not None and row < len(nodes) and bool(nodes[row]))

    def _tried(self, node_id: str, requests: Sequence[Request]) -> tuple[Unplaced, ...]:
        without = self._table.copy()
        without.remove_node(node_id)
        return schedule(without, requests).unplaced
