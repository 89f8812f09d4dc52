"""Judges nodes by their silence: who is ready, disconnected, unreachable or down, and when to stop believing oneself.

Silence is an accrual of missed heartbeats with fixed thresholds. Two doubts come first: a controller whose own loop
was late, and a silence of so many nodes at once that the fault is more likely its own (the brake).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set

import msgspec

from common.model.node import NodeStatus

LOOKS_PER_PERIOD = 4
"""Judging thousands of nodes costs milliseconds: more often than this gains no detection worth having."""


class LivenessTimers(msgspec.Struct, frozen=True, kw_only=True):
    period_s: float = 1.0
    """Of heartbeats, as the agents were told."""
    unreachable_periods: float = 2.5
    """Silent this long, its endpoints leave the balancers: two beats may be lost or late."""
    down_periods: float = 5.0
    """Silent this long, its tasks are replaced."""
    brake_share: float = 1 / 3
    """More than this share of the nodes silent at once is a fault of ours or of the network, not of theirs."""
    brake_nodes: int = 3
    """And at least this many."""
    small_cluster_nodes: int = 4
    """In clusters up to this size only the silence of all nodes brakes. Nodes long down do not count."""

    @property
    def unreachable_s(self) -> float:
        return self.period_s * self.unreachable_periods

    @property
    def down_s(self) -> float:
        return self.period_s * self.down_periods


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader remembers of a node. Times by its own monotonic clock."""

    last_heard_s: float
    """Of a node not heard in this term: when the term began, which gives it one `down` period of grace."""
    connected: bool


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    statuses: Mapping[str, NodeStatus]
    silence_s: Mapping[str, float]
    """By node: for how long it was not heard while the leader was able to hear."""
    brake: str
    """Why replacement stands still; empty while it may go on."""
    wake_at_s: float
    """When silence alone would change this judgement next; infinite when there are no nodes."""


def judge(
    seen: Mapping[str, Seen],
    before: Mapping[str, NodeStatus],
    now_s: float,
    timers: LivenessTimers,
    *,
    loop_late_s: float = 0.0,
    brake_released: bool = False,
    braked_s_ago: float = math.inf,
    strangers: Set[str] = frozenset(),
) -> Judgement:
    """The status of every node in `seen`.

    `loop_late_s` is how late the leader's own loop just was: silence that it may have slept through does not count.
    `braked_s_ago`: when the brake last held. Nodes come back one by one, and the brake ends with the first few of them:
    the others have one `down` period more.
    `strangers`: nodes that this term never heard and that run nothing. Most were down before it began, maybe for good:
    that they are silent says nothing about us, nor does it endanger anything.
    """
    silence = {node_id: max(0.0, now_s - node.last_heard_s - loop_late_s) for node_id, node in seen.items()}
    brake = _distrust(loop_late_s, timers) or ("" if brake_released else _brake(silence, before, timers, strangers))
    braked = bool(brake) or (braked_s_ago < timers.down_s and not brake_released)
    statuses = {
        node_id: _status(seen[node_id], silent_s, before.get(node_id), timers, braked=braked)
        for node_id, silent_s in silence.items()
    }
    return Judgement(statuses=statuses, silence_s=silence, brake=brake, wake_at_s=now_s + _until_next(silence, timers))


def _status(
    node: Seen, silent_s: float, before: NodeStatus | None, timers: LivenessTimers, *, braked: bool
) -> NodeStatus:
    if silent_s >= timers.down_s and (before is NodeStatus.DOWN or not braked):
        return NodeStatus.DOWN
    if silent_s >= timers.unreachable_s:
        return NodeStatus.UNREACHABLE
    return NodeStatus.READY if node.connected else NodeStatus.DISCONNECTED


def _distrust(loop_late_s: float, timers: LivenessTimers) -> str:
    """A leader that was so late itself that a node would have been out of the balancers by then."""
    if loop_late_s < timers.unreachable_s:
        return ""
    return (
        f"this controller itself was {loop_late_s:.1f} s late, its event loop or its lease: it believes no silence now"
    )


def _brake(
    silence: Mapping[str, float], before: Mapping[str, NodeStatus], timers: LivenessTimers, strangers: Set[str]
) -> str:
    """Counts nodes that fell silent lately: those already down were judged before and say nothing about us."""
    standing = [
        node_id for node_id in silence if before.get(node_id) is not NodeStatus.DOWN and node_id not in strangers
    ]
    silent = sum(silence[node_id] >= timers.unreachable_s for node_id in standing)
    if len(standing) <= timers.small_cluster_nodes:
        braked = silent == len(standing) and silent > 0
    else:
        braked = silent >= timers.brake_nodes and silent > timers.brake_share * len(standing)
    if not braked:
        return ""
    return f"{silent} of {len(standing)} nodes fell silent together, which looks like a fault of the network or our own"


def _until_next(silence: Mapping[str, float], timers: LivenessTimers) -> float:
    """Seconds until the next threshold is crossed if everything stays silent, bounded below against spinning.

    Where all have crossed both, one of them may be heard at any moment, and be silent again: so never longer than that
    takes to show.
    """
    waits = [
        threshold_s - silent_s
        for silent_s in silence.values()
        for threshold_s in (timers.unreachable_s, timers.down_s)
        if silent_s < threshold_s
    ]
    return max(min(waits, default=timers.unreachable_s if silence else math.inf), timers.period_s / 10)
