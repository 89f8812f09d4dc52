"""What one node was told of the endpoints, and how far its word goes.

A node hears only of the services that concern it (`controller.core.audience`), in a chain of messages numbered for it
alone. A node that carries out everything it was told is as far as the whole board, whatever others still wait for.
"""

from __future__ import annotations

from collections import deque

from common.model.endpoint import Service
from common.model.session import Endpoints
from controller.core.audience import Interests, concerns
from controller.dispatcher.endpoint_board import Change, EndpointBoard


class EndpointMessages:
    """See the module. Created empty: begin with `complete`. `after` is the number that the node had last."""

    def __init__(self, board: EndpointBoard, interests: Interests, after: int = 0) -> None:
        self._board = board
        self._interests = interests
        self.number = after
        """Of the last message."""
        self._unconfirmed: deque[tuple[int, int]] = deque()
        """Numbers of messages, and the board's revision before each."""

    def complete(self) -> Endpoints:
        """Everything that concerns the node, as of the board's last publication."""
        inner = self._board.inner_services(self._interests)
        services = (*self._board.public_services(), *(one for one in inner if concerns(one, self._interests)))
        self.number = max(self.number + 1, self._board.revision)
        self._unconfirmed = deque([(self.number, 0)])
        return Endpoints(complete=True, revision=self.number, services=services)

    def changed(self, change: Change) -> Endpoints | None:
        """What the node must learn of a publication; None when nothing of it concerns it."""
        if not change.public and change.inner.isdisjoint(self._interests):
            return None
        changed = tuple(one for one in change.changed if concerns(one, self._interests))
        removed = tuple(one.key for one in change.removed if concerns(one, self._interests))
        return self._next(changed, removed, change.revision - 1)

    def interested(self, whom: Interests) -> Endpoints | None:
        """The node's tasks may call others than before: what it must learn and forget; None when that is nothing."""
        before, self._interests = self._interests, whom
        changed, removed = [], []
        for service in self._board.inner_services(before ^ whom):
            if concerns(service, whom) and not concerns(service, before):
                changed.append(service)
            elif concerns(service, before) and not concerns(service, whom):
                removed.append(service.key)
        if not changed and not removed:
            return None
        return self._next(tuple(changed), tuple(removed), self._board.revision)

    def serves(self, job: str) -> bool:
        """Whether the node is told of anything of the job, `namespace/name`: of no other its proxy has connections."""
        namespace, _, name = job.partition("/")
        return any(concerns(service, self._interests) for service in self._board.services_of(namespace, name))

    def lacks(self, whom: Interests) -> bool:
        """Whether there are some among these that the node is not told of yet."""
        return not whom <= self._interests

    def carried_out(self, number: int) -> int:
        """The board's revision that a node is at which carries out message `number`; 0 for one it was never sent."""
        if number > self.number:
            return 0  # an old one of a cluster since restored: it says nothing about ours
        while self._unconfirmed and self._unconfirmed[0][0] <= number:
            self._unconfirmed.popleft()
        return self.reached

    @property
    def reached(self) -> int:
        """The board's revision that the node has carried out, as far as it said."""
        return self._unconfirmed[0][1] if self._unconfirmed else self._board.revision

    def _next(self, services: tuple[Service, ...], removed: tuple[str, ...], before: int) -> Endpoints:
        self.number += 1
        self._unconfirmed.append((self.number, before))
        return Endpoints(complete=False, revision=self.number, services=services, removed=removed)
