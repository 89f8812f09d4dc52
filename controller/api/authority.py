"""The part of the `Trust` service about the cluster's own keys: how its authority and its cluster key are replaced.

Each call only takes the first step, which is in the store when it answers; `controller.loops.authority` takes the
others, whoever leads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import Conflict
from common.model import joining as asked
from common.model.trust import Authority
from controller.api.term import ApiFront, ApiTerm
from controller.api.trust import NO_AUTHORITY
from controller.core.turnover import turnover
from controller.state import Group, State, Write

if TYPE_CHECKING:
    from controller.trust import ClusterTrust  # with its libraries 11 MB, for clusters that have an authority

_STATUS = "; `podium ca rotate --status` says how far it is"


class AuthorityService:
    """Every method raises `NotLeader` where nobody leads, and `Conflict` in a cluster without an authority, or while
    what it begins is under way."""

    def __init__(self, front: ApiFront, trust: ClusterTrust | None) -> None:
        self._front = front
        self._trust = trust

    async def rotate(self, request: asked.RotateAuthorityRequest) -> asked.AuthorityView:
        """Begin to replace the authority; or, once that is done, forget those before it."""
        term, trust = self._front.term, self._known()
        name = f"{'forget' if request.forget else 'rotate'} authority {request.idempotency_key}"

        def transaction(state: State) -> list[Group]:
            authority = _authority(state)
            if len(authority.certificates) > 1:
                raise Conflict(f"the authority is being replaced already{_STATUS}")
            changed = trust.forgotten(authority) if request.forget else trust.next_authority(authority, term.clock())
            return [(Write(changed),)]

        async def write() -> asked.AuthorityView:
            await term.ledger.submit(transaction)
            return self._view(term)

        return await term.repeats.once(request.idempotency_key and name, request, write)

    async def status(self, _request: asked.AuthorityRequest) -> asked.AuthorityView:
        return self._view(self._front.term)

    async def rotate_key(self, request: asked.RotateKeyRequest) -> asked.AuthorityView:
        """Begin to replace the cluster key; or do it at once, and shut all other controllers out."""
        term, trust = self._front.term, self._known()

        def transaction(state: State) -> list[Group]:
            if state.next_keys:
                raise Conflict(f"the cluster key is being replaced already{_STATUS}")
            if request.by_token:
                return [(Write(trust.resealed(_authority(state))),)]
            return [(Write(trust.next_key(term.clock())),)]

        async def write() -> asked.AuthorityView:
            if request.by_token and not term.state.next_keys:
                trust.take_new_key()  # before: a leader that dies meanwhile opens what it finds by either
            await term.ledger.submit(transaction)
            return self._view(term)

        key = request.idempotency_key and f"rotate key {request.idempotency_key}"
        return await term.repeats.once(key, request, write)

    def _view(self, term: ApiTerm) -> asked.AuthorityView:
        authority, trust = _authority(term.state), self._known()
        current, now_s = trust.pin(authority), term.clock()
        known = turnover(term.state, current, now_s)
        nodes = term.state.nodes
        coming = next(iter(term.state.next_keys.values()), None)
        return asked.AuthorityView(
            cluster_id=authority.cluster_id,
            fingerprint=current,
            created_at_s=authority.created_at_s,
            believed=len(authority.certificates),
            retired=len(authority.retired),
            nodes=known.nodes,
            waiting=tuple(sorted(nodes[node_id].name if node_id in nodes else node_id for node_id in known.waiting)),
            key_id=authority.private_key.key_id,
            next_key_id="" if coming is None or coming.id == authority.private_key.key_id else coming.id,
        )

    def _known(self) -> ClusterTrust:
        if self._trust is None:
            raise Conflict(NO_AUTHORITY)
        return self._trust


def _authority(state: State) -> Authority:
    for authority in state.authorities.values():
        return authority
    raise Conflict("the cluster's authority is being made; ask again")
