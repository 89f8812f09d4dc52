"""Notices two agents that claim to be one node: the one that is turned away, while the other goes on answering.

An agent that was restarted is turned away too, until the session it left behind is found dead. The difference is
whether the node was heard of since: from then on two processes live. Decides nothing; the alarm is the presence's.
"""

from __future__ import annotations

import msgspec

REMEMBERED_S = 60.0
"""A rival that was not back for so long has given up."""


class _TurnedAway(msgspec.Struct, frozen=True):
    instance: str
    first_s: float
    last_s: float


class Rivals:
    """See the module. Times are those of one clock that never runs back."""

    def __init__(self) -> None:
        self._turned_away: dict[str, _TurnedAway] = {}
        """By node, the last one."""

    def turned_away(self, node_id: str, instance: str, now_s: float, heard_s: float) -> bool:
        """An agent was turned away since another one answers for the node, which was last heard at `heard_s`.

        Answers whether both are certain to live.
        """
        known = self._turned_away.get(node_id)
        again = known is not None and known.instance == instance and now_s - known.last_s < REMEMBERED_S
        first_s = known.first_s if known is not None and again else now_s
        self._turned_away[node_id] = _TurnedAway(instance, first_s, now_s)
        return again and heard_s > first_s

    def settled(self, node_id: str) -> None:
        """The node registered anew: who was turned away before may be who is in now."""
        self._turned_away.pop(node_id, None)
