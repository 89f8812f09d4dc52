"""How fast agents are taken in when they all come at once: a token bucket that tells each refused one when to return.

A new leader is dialled by every agent within a second. Taking in one costs it milliseconds (its inventory, a commit,
its complete sets), and the lease, the heartbeats and the engineers must not wait behind a thousand of them. The bucket
is kept as the time at which it will be full again (the generic cell rate algorithm of ATM's traffic control); those
that are refused are promised moments one after the other, so that the crowd comes back as a queue.
"""

from __future__ import annotations

import msgspec

RETRY_LIMIT_S = 10.0
"""Nobody is sent away for longer: an agent that waits is one that nobody hears of."""


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """Times by the clock of whoever asks."""

    full_at_s: float = 0.0
    """When all tokens would be back if nobody came any more."""
    promised_until_s: float = 0.0
    """The last moment that somebody was told to come back at."""


def knock(door: Door, now_s: float, *, per_s: float, burst: int) -> tuple[Door, float]:
    """The door after one more came, and how long that one has to wait before it tries again; 0: it may enter."""
    each_s = 1 / per_s
    full_at_s = max(door.full_at_s, now_s)
    opens_at_s = full_at_s - (burst - 1) * each_s
    if opens_at_s <= now_s:
        return msgspec.structs.replace(door, full_at_s=full_at_s + each_s), 0.0
    promised_s = max(door.promised_until_s + each_s, opens_at_s)
    wait_s = min(promised_s - now_s, RETRY_LIMIT_S)
    return msgspec.structs.replace(door, full_at_s=full_at_s, promised_until_s=now_s + wait_s), wait_s
