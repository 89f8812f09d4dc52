"""What a machine asks of the `Trust` service before it belongs to the cluster, and about its own certificate after.

Over gRPC, to a controller known by its cluster's authority, whatever its address. Translates; never decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import grpc
import grpc.aio
import msgspec

from common import wire
from common.errors import Unavailable
from common.grpc_errors import error_of
from common.identity import server_name
from common.settings import LIMITS

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)

_OPTIONS = (
    ("grpc.max_receive_message_length", LIMITS.message_bytes),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine shows of itself; PEM."""

    key: str
    chain: str

    def __repr__(self) -> str:
        return "Shown(...)"


def secure_channel(
    address: str,
    cluster_id: str,
    authorities: Sequence[str],
    options: Sequence[tuple[str, object]],
    own: Shown | None,
) -> grpc.aio.Channel:
    """A channel to a controller of that cluster, whatever its address; with `own` also it knows us."""
    shown = (None, None) if own is None else (own.key.encode(), own.chain.encode())
    credentials = grpc.ssl_channel_credentials("".join(authorities).encode(), *shown)
    named = ("grpc.ssl_target_name_override", server_name(cluster_id))
    return grpc.aio.secure_channel(address, credentials, options=(*options, named))


async def ask(
    address: str,
    method: str,
    request: msgspec.Struct,
    answer: type[AnswerT],
    *,
    cluster_id: str,
    authorities: Sequence[str],
    timeout_s: float,
    own: Shown | None = None,
) -> AnswerT:
    """One call over a connection of its own: they are rare. Raises `Unavailable` when nobody answers in time, and what
    the service refuses with."""
    async with secure_channel(address, cluster_id, authorities, _OPTIONS, own) as channel:
        call = channel.unary_unary(
            f"/podium.v1.Trust/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=wire.message_type(answer).FromString,
        )
        try:
            return wire.decode(answer, await call(wire.encode(request), timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Unavailable(f"no answer within {timeout_s:g} s") from None
            raise error_of(error) from None
