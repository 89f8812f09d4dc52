"""How far a cluster is on its way from one authority to the next: whose certificate is still of an earlier one, and who
is asked to renew now.

Both authorities are believed meanwhile, so nothing is interrupted; nodes come in batches, since each renewal is a
signature and a commit.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from common.model.trust import Enrolment, Kind
from controller.state import State

AT_ONCE = 50
"""Nodes that are asked to renew at a time: a second's work for a leader that does everything else besides."""


class Turnover(msgspec.Struct, frozen=True, kw_only=True):
    nodes: int
    """Agents with a certificate that counts."""
    waiting: tuple[str, ...]
    """Their ids, of those whose latest one is of an earlier authority."""


def turnover(state: State, current: str, now_s: float) -> Turnover:
    """`current` is the fingerprint of the authority that signs. A node whose certificate has expired comes back by its
    key, whoever is believed by then."""
    agents = [one for one in state.enrolments.values() if one.kind is Kind.AGENT and one.latest.until_s > now_s]
    return Turnover(nodes=len(agents), waiting=tuple(sorted(one.id for one in agents if _earlier(one, current))))


def asked_now(waiting: tuple[str, ...], connected: Container[str]) -> frozenset[str]:
    """Of those that wait, whom to ask: the first of those that hear it."""
    return frozenset([node_id for node_id in waiting if node_id in connected][:AT_ONCE])


def _earlier(enrolment: Enrolment, current: str) -> bool:
    return enrolment.latest.authority != current
