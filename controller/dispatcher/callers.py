"""Keeps one machine that opens session after session from taking the turn of all others. Decides nothing else.

Every session costs a place and a moment of the leader's, and registrations are let in at a rate that all nodes share
(`doorkeeper`). So before that each certificate has a rate and a number of its own, more than an honest agent needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import Conflict, Unavailable
from controller.core.admission import Door, knock
from controller.dispatcher.settings import SETTINGS, DispatcherSettings


class Callers:
    """`clock` never runs back."""

    def __init__(self, clock: Callable[[], float], settings: DispatcherSettings = SETTINGS) -> None:
        self._clock = clock
        self._settings = settings
        self._open: dict[str, int] = {}
        self._doors: dict[str, Door] = {}

    @contextmanager
    def held(self, node_id: str | None) -> Iterator[None]:
        """A session of this certificate, while the context lasts. None where nobody shows one: nothing is counted.

        Raises `Conflict` when it has too many, `Unavailable` when it came too often.
        """
        if node_id is None:
            yield
            return
        self._check(node_id)
        self._open[node_id] = self._open.get(node_id, 0) + 1
        try:
            yield
        finally:
            left = self._open[node_id] - 1
            if left:
                self._open[node_id] = left
            else:
                del self._open[node_id]

    def _check(self, node_id: str) -> None:
        settings, now_s = self._settings, self._clock()
        if self._open.get(node_id, 0) >= settings.sessions_per_node:
            raise Conflict(f"node {node_id} has {settings.sessions_per_node} sessions under way already")
        if len(self._doors) >= settings.callers_known:
            self._doors = {known: door for known, door in self._doors.items() if door.full_at_s > now_s}
        door, wait_s = knock(
            self._doors.get(node_id, Door()), now_s, per_s=settings.sessions_per_s, burst=settings.sessions_burst
        )
        self._doors[node_id] = door
        if wait_s:
            raise Unavailable(f"node {node_id} comes more often than {settings.sessions_per_s:g} times a second")
