"""Which endpoint takes the next connection: the least busy, in turn among equals, leaving out what just failed. PURE.

Where endpoints have different weights, the connections are first shared among those of each weight in proportion,
however busy they are: a canary of weight 5 beside 95 must get every twentieth, also when it is the idlest of all.

An endpoint that refuses a connection is left out for a moment, longer each time in a row. When all are left out, each
may be tried again after the shortest of these moments: who has nobody else to ask must not wait for the longest.
A withdrawn endpoint takes nothing new and is remembered until its last connection has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agent.network.ejection import EJECTION
from common.model.endpoint import DEFAULT_WEIGHT, Endpoint

SLOW_STEPS = 20
"""In which the share of a task grows that starts slowly. It begins with one: with nothing it would never warm up."""


class Member:
    """One endpoint with what the relay knows of it."""

    __slots__ = ("active", "ejected_until_s", "endpoint", "failed_s", "failures", "since_s", "turn", "withdrawn")

    def __init__(self, endpoint: Endpoint, since_s: float) -> None:
        self.endpoint = endpoint
        self.since_s = since_s
        """When it was added."""
        self.active = 0
        self.failures = 0
        self.ejected_until_s = 0.0
        self.failed_s = 0.0
        """When it last did."""
        self.turn = 0
        self.withdrawn = False

    def weight(self, now_s: float, slow_start_s: float) -> int:
        full = self.endpoint.weight or DEFAULT_WEIGHT
        age_s = now_s - self.since_s
        if age_s >= slow_start_s:
            return full
        return max(1, full * (1 + int(SLOW_STEPS * age_s / slow_start_s)) // SLOW_STEPS)


class Balancer:
    """The members of one service."""

    def __init__(self) -> None:
        self._members: dict[tuple[str, str, int], Member] = {}
        self._turn = 0
        self._credit: dict[int, int] = {}
        """What each weight is owed; only while there are several."""
        self._slow_start_s = 0.0

    def update(self, endpoints: Iterable[Endpoint], now_s: float = 0.0, slow_start_s: float = 0.0) -> None:
        """Serve exactly these from now on; members that stay keep their connections and their record.

        The share of those that are new grows for `slow_start_s`.
        """
        self._slow_start_s = slow_start_s
        wanted = {(endpoint.task_id, endpoint.address, endpoint.port): endpoint for endpoint in endpoints}
        for key, member in list(self._members.items()):
            member.withdrawn = key not in wanted
            self._drop_if_done(key, member)
        for key, endpoint in wanted.items():
            if key in self._members:
                self._members[key].endpoint = endpoint
            else:
                self._members[key] = Member(endpoint, now_s)

    def choose(self, now_s: float, tried: Collection[Member] = ()) -> Member | None:
        """The member for a new connection; None when all that are left were tried or have just failed."""
        present = [member for member in self._members.values() if not member.withdrawn and member not in tried]
        able = [member for member in present if member.ejected_until_s <= now_s]
        able = able or [member for member in present if _again_s(member) <= now_s]
        if not able:
            return None
        weights = {member: member.weight(now_s, self._slow_start_s) for member in able}
        weight = self._weight_in_turn(weights.values())
        member = min(
            (member for member in able if weights[member] == weight), key=lambda member: (member.active, member.turn)
        )
        self._turn += 1
        member.turn = self._turn
        return member

    def _weight_in_turn(self, weights: Iterable[int]) -> int:
        """Whose turn it is among the weights: smooth weighted round robin, as nginx does it among servers."""
        shares: dict[int, int] = {}
        for weight in weights:
            shares[weight] = shares.get(weight, 0) + weight
        if len(shares) == 1:
            self._credit.clear()
            return next(iter(shares))
        self._credit = {weight: self._credit.get(weight, 0) + share for weight, share in sorted(shares.items())}
        weight = max(self._credit, key=self._credit.__getitem__)
        self._credit[weight] -= sum(shares.values())
        return weight

    def opened(self, member: Member) -> None:
        """A connection to the member stands."""
        member.active += 1
        member.failures = 0

    def failed(self, member: Member, now_s: float) -> None:
        """The member refused a connection; many that failed at the same time are one failure."""
        member.failed_s = now_s
        if now_s >= member.ejected_until_s:
            member.failures += 1
            member.ejected_until_s = now_s + EJECTION.ceiling_s(member.failures)

    def closed(self, member: Member) -> bool:
        """A connection to the member ended; whether that drained a withdrawn one."""
        member.active -= 1
        endpoint = member.endpoint
        return self._drop_if_done((endpoint.task_id, endpoint.address, endpoint.port), member)

    def draining(self) -> list[str]:
        """Task ids of withdrawn members with connections."""
        return [member.endpoint.task_id for member in self._members.values() if member.withdrawn]

    def next_try_s(self, now_s: float) -> float:
        """Seconds until one of the members, which have all failed, may be tried again; 1 when there is none."""
        waits = [_again_s(member) - now_s for member in self._members.values() if not member.withdrawn]
        return max(0.01, min(waits, default=1.0))

    def _drop_if_done(self, key: tuple[str, str, int], member: Member) -> bool:
        done = member.withdrawn and member.active == 0
        if done and self._members.get(key) is member:
            del self._members[key]
        return done


def _again_s(member: Member) -> float:
    """When it may be tried if there is no other."""
    return min(member.ejected_until_s, member.failed_s + EJECTION.first_s)
