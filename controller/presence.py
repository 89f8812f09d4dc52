"""What the leader knows of its nodes at this moment: who is connected, when each was last heard, how each is judged.

One per term, in memory only. The dispatcher writes what it hears, the liveness loop writes its judgements; a node that
is connected and heard is ready without waiting for one. Never decides that a silent node is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from common.model.endpoint import TrafficProblem
from common.model.node import NodeCondition, NodeStatus, RuntimeStatus
from common.model.resources import Usage
from controller.core.liveness import Seen

ConditionSubscriber: TypeAlias = Callable[[NodeCondition | None, NodeCondition], None]
"""Called synchronously with the condition before (None: not known) and after; must be quick and must not raise."""

LATE_S = 0.3
"""After its period: a heartbeat is jittered to come earlier, never later. In seconds and not in periods, since it is
our own delay, and a long period would hide it until it has become a long one."""
LOST_PERIODS = 3.0
"""Of silence that is not lateness any more."""
BEHIND_SHARE = 0.05
"""Of the nodes, heard late at the same time."""
CROWD = 20
"""Of fewer nodes a single one that hangs would be a share; so few do not keep a leader busy either."""
CONTESTED_S = 60.0
"""A rival that was not seen for so long is told of no more."""


class Presence:
    """See the module. `clock` is Unix time, for people; silence is measured by the event loop's own clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._conditions: dict[str, NodeCondition] = {}
        self._seen: dict[str, Seen] = {}
        self._subscribers: list[ConditionSubscriber] = []
        self.conditions: Mapping[str, NodeCondition] = MappingProxyType(self._conditions)
        """By node id; of every node in the store and of every node that registered."""
        self.seen: Mapping[str, Seen] = MappingProxyType(self._seen)
        """What liveness judges by."""
        self._contested: dict[str, tuple[str, float]] = {}
        """By node: by whom, and when (loop time) that was last seen."""
        self.brake = ""
        """Why replacement stands still, as last judged; empty while it may go on."""

    def subscribe(self, subscriber: ConditionSubscriber) -> Callable[[], None]:
        """Tell of changes of status, runtimes, proxy, a rival or a long silence, until what this returns is called."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def expect(self, node_id: str) -> None:
        """A node of the store that may register: its silence counts from now. No change to tell anybody of."""
        if node_id not in self._seen:
            self._seen[node_id] = Seen(last_heard_s=_now_s(), connected=False)
            self._conditions[node_id] = NodeCondition(node_id=node_id)

    def forget(self, node_id: str) -> None:
        """The node was removed from the store."""
        self._seen.pop(node_id, None)
        self._conditions.pop(node_id, None)
        self._contested.pop(node_id, None)

    def connected(self, node_id: str, runtimes: Iterable[RuntimeStatus]) -> None:
        """A session of the node began."""
        self._hear(node_id, tuple(runtimes), self._known(node_id).usage)

    def heard(self, node_id: str, usage: Usage, runtimes: Iterable[RuntimeStatus]) -> None:
        """A heartbeat came. One that names no runtimes says nothing new about them."""
        known = self._known(node_id)
        given = tuple(runtimes) or known.runtimes
        if known.status is NodeStatus.READY and given == known.runtimes and not known.silent_s:
            # As nearly always: nobody has to be told.
            self._seen[node_id] = Seen(last_heard_s=_now_s(), connected=True)
            self._conditions[node_id] = msgspec.structs.replace(known, last_seen_s=self._clock(), usage=usage)
            return
        self._hear(node_id, given, usage)

    def relayed(self, node_id: str, traffic: tuple[TrafficProblem, ...]) -> None:
        """The node said what its proxy cannot do."""
        if node_id in self._seen:
            self._set(msgspec.structs.replace(self._known(node_id), traffic=traffic))

    def contested(self, node_id: str, rival: str) -> None:
        """Another process claims to be the node as well; in words."""
        if node_id in self._seen:
            self._contested[node_id] = rival, _now_s()
            self._set(msgspec.structs.replace(self._known(node_id), rival=rival))

    def disconnected(self, node_id: str) -> None:
        """The node's session ended. Not called for one that another session of the node has replaced."""
        seen = self._seen.get(node_id)
        if seen is None:
            return
        self._seen[node_id] = msgspec.structs.replace(seen, connected=False)
        if self._known(node_id).status is NodeStatus.READY:
            self.judged(node_id, NodeStatus.DISCONNECTED)

    def judged(self, node_id: str, status: NodeStatus) -> None:
        """What liveness made of the node's silence."""
        if node_id in self._seen:
            self._set(msgspec.structs.replace(self._known(node_id), status=status))

    def silent(self, node_id: str, silent_s: float) -> None:
        """Liveness found that a node which is down has been silent for so long that somebody wants to know."""
        if node_id in self._seen:
            self._set(msgspec.structs.replace(self._known(node_id), silent_s=silent_s))

    def behind(self, period_s: float) -> bool:
        """Whether so many nodes that beat every `period_s` should have been heard by now that it must be us who are
        late. Those that are silent for longer count no more: something else has happened to them."""
        if len(self._seen) < CROWD:
            return False
        now_s = _now_s()
        soon_s, long_s = now_s - period_s - LATE_S, now_s - LOST_PERIODS * period_s
        late = sum(long_s < seen.last_heard_s < soon_s for seen in self._seen.values() if seen.connected)
        return late > BEHIND_SHARE * len(self._seen)

    def _hear(self, node_id: str, runtimes: tuple[RuntimeStatus, ...], usage: Usage) -> None:
        self._seen[node_id] = Seen(last_heard_s=_now_s(), connected=True)
        self._set(
            NodeCondition(
                node_id=node_id,
                status=NodeStatus.READY,
                last_seen_s=self._clock(),
                runtimes=runtimes,
                usage=usage,
                traffic=self._known(node_id).traffic,
                rival=self._rival_of(node_id),
            )
        )

    def _rival_of(self, node_id: str) -> str:
        rival, at_s = self._contested.get(node_id, ("", 0.0))
        if rival and _now_s() - at_s >= CONTESTED_S:
            del self._contested[node_id]
            return ""
        return rival

    def _known(self, node_id: str) -> NodeCondition:
        return self._conditions.get(node_id) or NodeCondition(node_id=node_id)

    def _set(self, after: NodeCondition) -> None:
        before = self._conditions.get(after.node_id)
        self._conditions[after.node_id] = after
        if before is None or _said(before) != _said(after):
            for subscriber in tuple(self._subscribers):
                subscriber(before, after)


def _said(condition: NodeCondition) -> tuple[object, ...]:
    """What subscribers are told of; not the rest, which changes with every heartbeat."""
    return condition.status, condition.runtimes, condition.silent_s, condition.traffic, condition.rival


def _now_s() -> float:
    return asyncio.get_running_loop().time()
