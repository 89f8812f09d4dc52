"""Holds back the stop of a task until the nodes' relays have let go of it, or its time is up.

Every published task that is to stop leaves the endpoints first. Its own node hears of the stop when every node that is
connected carries out a revision without the task and has no connection to it left; at the latest when
`core.endpoints.drain_s` says so. Nodes that do not carry it out within `apply_limit_s` are waited for no longer than
that. The wait is in memory only: a new leader holds again, for as long as the deadline leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from common.model.job import DesiredState
from common.model.task import Task
from controller.core.endpoints import Relay, drain_s, gated, has_let_go
from controller.state import State


class _Hold:
    """One stop that waits: for which nodes, and from which revision on their word counts."""

    def __init__(self, task: Task, timer: asyncio.TimerHandle) -> None:
        self.task_id = task.id
        self.node_id = task.node_id
        self.timer = timer
        self.revision: int | None = None
        self.waiting: dict[str, None] = {}
        self.deaf: dict[str, None] = {}
        """Those of `waiting` that have not carried out the revision."""
        self.patience: asyncio.TimerHandle | None = None
        """When those are given up."""

    def cancel(self) -> None:
        self.timer.cancel()
        if self.patience is not None:
            self.patience.cancel()


class TrafficGate:
    """See the module. `opened` is called with (node id, task id) when a stop may go out."""

    def __init__(
        self,
        state: State,
        clock: Callable[[], float],
        opened: Callable[[str, str], None],
        apply_limit_s: float,
    ) -> None:
        self._state = state
        self._clock = clock
        self._opened = opened
        self._apply_limit_s = apply_limit_s
        self._holds: dict[str, _Hold] = {}
        self._passed: dict[str, None] = {}

    def held(self, task_id: str) -> bool:
        return task_id in self._holds

    @property
    def waits(self) -> bool:
        """Whether a stop is held that no published revision lacks yet."""
        return any(hold.revision is None for hold in self._holds.values())

    def take_over(self, revision: int) -> None:
        """Hold the stops that the term before left under way.

        Nodes that have not come back yet may still send connections: they are waited for until the deadline.
        """
        for task in self._state.tasks.values():
            self.task_changed(task)
        self.withdrawn(revision, dict.fromkeys(self._state.nodes, Relay()))

    def task_changed(self, task: Task) -> None:
        """Hold the stop of `task` if it is new and needs it; let go of one that needs it no more."""
        if task.desired is DesiredState.RUN or not gated(task, self._state.spec_of_task(task)):
            self.task_gone(task.id)
        elif task.id not in self._holds and task.id not in self._passed:
            self._hold(task)

    def task_gone(self, task_id: str) -> None:
        """There is nothing (left) to wait for."""
        self._passed.pop(task_id, None)
        hold = self._holds.pop(task_id, None)
        if hold is not None:
            hold.cancel()
            self._opened(hold.node_id, hold.task_id)

    def withdrawn(self, revision: int, relays: Mapping[str, Relay]) -> None:
        """`revision` was published: it lacks every task that is held by now."""
        for hold in list(self._holds.values()):
            if hold.revision is None:
                hold.revision = revision
                hold.waiting = {
                    node_id: None for node_id, relay in relays.items() if not has_let_go(relay, hold.task_id, revision)
                }
                hold.deaf = {node_id: None for node_id in hold.waiting if relays[node_id].revision < revision}
                self._be_patient(hold)
                self._open_if_free(hold)

    def relay_changed(self, node_id: str, relay: Relay) -> None:
        """A node said how far its relay is."""
        for hold in list(self._holds.values()):
            if hold.revision is not None and relay.revision >= hold.revision:
                hold.deaf.pop(node_id, None)
                if has_let_go(relay, hold.task_id, hold.revision):
                    hold.waiting.pop(node_id, None)
                    self._open_if_free(hold)

    def node_joined(self, node_id: str) -> None:
        """A node connected, and its relay may serve what it knew before: wait for its word too."""
        for hold in self._holds.values():
            if hold.revision is not None:
                hold.waiting[node_id] = None
                hold.deaf[node_id] = None
                self._be_patient(hold)

    def node_left(self, node_id: str) -> None:
        """A node's session ended: it cannot be asked."""
        for hold in list(self._holds.values()):
            hold.waiting.pop(node_id, None)
            self._open_if_free(hold)

    def close(self) -> None:
        for hold in self._holds.values():
            hold.cancel()
        self._holds.clear()

    def _hold(self, task: Task) -> None:
        wait_s = drain_s(task, self._state.spec_of_task(task), self._clock())
        if not wait_s:
            self._passed[task.id] = None
            return
        timer = asyncio.get_running_loop().call_later(wait_s, self._open, task.id)
        self._holds[task.id] = _Hold(task, timer)

    def _be_patient(self, hold: _Hold) -> None:
        if hold.patience is not None:
            hold.patience.cancel()
        hold.patience = asyncio.get_running_loop().call_later(self._apply_limit_s, self._give_up_the_deaf, hold)

    def _give_up_the_deaf(self, hold: _Hold) -> None:
        for node_id in hold.deaf:
            hold.waiting.pop(node_id, None)
        self._open_if_free(hold)

    def _open_if_free(self, hold: _Hold) -> None:
        if hold.revision is not None and not hold.waiting:
            self._open(hold.task_id)

    def _open(self, task_id: str) -> None:
        hold = self._holds.pop(task_id, None)
        if hold is not None:
            hold.cancel()
            self._passed[task_id] = None
            self._opened(hold.node_id, task_id)
