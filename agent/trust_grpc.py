"""The agent's calls of the `Trust` service over gRPC: implements `agent.membership.Trust`. Never decides."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from agent.membership import Certificate
from common.certificates import cluster_of
from common.grpc_trust import Shown, ask
from common.model.joining import Doors, FindDoorsRequest, Joined, JoinRequest, RecoverRequest, RenewRequest
from common.pinning import pinned_authority

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class GrpcTrust:
    """See the module."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def authority(self, address: str, pin: str) -> str:
        return await pinned_authority(address, pin, timeout_s=self._timeout_s)

    async def doors(self, address: str, own: Certificate) -> Doors:
        return await self._ask(address, "FindDoors", FindDoorsRequest(), Doors, own)

    async def join(self, address: str, authority: str, request: JoinRequest) -> Joined:
        cluster_id = cluster_of(authority)
        return await ask(
            address, "Join", request, Joined, cluster_id=cluster_id, authorities=(authority,), timeout_s=self._timeout_s
        )

    async def renew(self, address: str, own: Certificate, request: RenewRequest) -> Joined:
        return await self._ask(address, "Renew", request, Joined, own, shown=Shown(key=own.key, chain=own.chain))

    async def recover(self, address: str, own: Certificate, request: RecoverRequest) -> Joined:
        return await self._ask(address, "Recover", request, Joined, own)

    async def _ask(
        self,
        address: str,
        method: str,
        request: msgspec.Struct,
        answer: type[AnswerT],
        own: Certificate,
        shown: Shown | None = None,
    ) -> AnswerT:
        return await ask(
            address,
            method,
            request,
            answer,
            cluster_id=own.cluster_id,
            authorities=own.authorities,
            timeout_s=self._timeout_s,
            own=shown,
        )
