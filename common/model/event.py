"""What happened, for people and scripts that follow along."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    time_s: float
    kind: str
    """A stable dotted word: `job.created`, `task.running`, `node.down`, ..."""
    subject: str
    """Who it is about: `job shop/web`, `task shop/web.1 (id)`, `node n1`."""
    message: str
    cause: str = ""
    """What led to it, when something did."""
    sequence: int = 0
    """Rises by one with every event of one leader's term."""
