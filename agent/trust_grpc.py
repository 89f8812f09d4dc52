"""The agent's calls of the `Trust` service over gRPC: implements `agent.membership.Trust`. Never decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import grpc
import grpc.aio
import msgspec

from agent.membership import Certificate
from common import wire
from common.certificates import cluster_of
from common.errors import Unavailable
from common.grpc_errors import error_of
from common.identity import server_name
from common.model.joining import Doors, FindDoorsRequest, Joined, JoinRequest, RecoverRequest, RenewRequest
from common.pinning import pinned_authority
from common.settings import LIMITS

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


def secure_channel(
    address: str,
    cluster_id: str,
    authorities: Sequence[str],
    options: Sequence[tuple[str, object]],
    own: Certificate | None,
) -> grpc.aio.Channel:
    """A channel to a controller of that cluster, whatever its address; with `own` also it knows us."""
    shown = (None, None) if own is None else (own.key.encode(), own.chain.encode())
    credentials = grpc.ssl_channel_credentials("".join(authorities).encode(), *shown)
    named = ("grpc.ssl_target_name_override", server_name(cluster_id))
    return grpc.aio.secure_channel(address, credentials, options=(*options, named))


class GrpcTrust:
    """See the module. Each call has a connection of its own: they are rare."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def authority(self, address: str, pin: str) -> str:
        return await pinned_authority(address, pin, timeout_s=self._timeout_s)

    async def doors(self, address: str, own: Certificate) -> Doors:
        return await self._ask(address, "FindDoors", FindDoorsRequest(), Doors, own.cluster_id, own.authorities)

    async def join(self, address: str, authority: str, request: JoinRequest) -> Joined:
        return await self._ask(address, "Join", request, Joined, cluster_of(authority), (authority,))

    async def renew(self, address: str, own: Certificate, request: RenewRequest) -> Joined:
        return await self._ask(address, "Renew", request, Joined, own.cluster_id, own.authorities, own)

    async def recover(self, address: str, own: Certificate, request: RecoverRequest) -> Joined:
        return await self._ask(address, "Recover", request, Joined, own.cluster_id, own.authorities)

    async def _ask(
        self,
        address: str,
        method: str,
        request: msgspec.Struct,
        answer: type[AnswerT],
        cluster_id: str,
        authorities: Sequence[str],
        own: Certificate | None = None,
    ) -> AnswerT:
        options = (
            ("grpc.max_receive_message_length", LIMITS.message_bytes),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
        )
        async with secure_channel(address, cluster_id, authorities, options, own) as channel:
            call = channel.unary_unary(
                f"/podium.v1.Trust/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=wire.message_type(answer).FromString,
            )
            try:
                return wire.decode(answer, await call(wire.encode(request), timeout=self._timeout_s))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise Unavailable(f"no answer within {self._timeout_s:g} s") from None
                raise error_of(error) from None
