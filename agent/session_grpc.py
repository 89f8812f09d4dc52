"""The agent's end of a session over gRPC: implements `common.dispatch.Dialer`. Translates; never decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import grpc

from common import wire
from common.dispatch import AgentLink
from common.errors import Invalid, Unavailable
from common.grpc_channels import SESSION_OPTIONS, settled
from common.model.session import AgentMessage, ControllerMessage
from common.settings import LIMITS
from common.tls import TlsFiles, channel_credentials, check_dial
from protos.v1 import dispatcher_pb2, dispatcher_pb2_grpc

if TYPE_CHECKING:
    from agent.membership import Membership

logger = logging.getLogger(__name__)

_OPTIONS = (
    *SESSION_OPTIONS,
    ("grpc.max_receive_message_length", LIMITS.session_message_bytes),
    ("grpc.max_send_message_length", LIMITS.session_message_bytes),
    # Far below the time-outs of heartbeats, which are what notices a dead peer; this only frees its socket.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Redialling is ours, with the order of addresses and the jitter we want.
    ("grpc.enable_retries", 0),
    # Otherwise channels to one address share a connection and its back-off, and a fresh dial would wait for nothing.
    ("grpc.use_local_subchannel_pool", 1),
)

Call: TypeAlias = "grpc.aio.StreamStreamCall[dispatcher_pb2.AgentMessage, dispatcher_pb2.ControllerMessage]"


class GrpcDialer:
    """See the module."""

    def __init__(
        self, tls: TlsFiles | None, *, insecure: bool, timeout_s: float, member: Membership | None = None
    ) -> None:
        """`member` is of a cluster with an authority of its own: then controllers have a door for agents."""
        self._member = member
        self._tls = tls
        self._insecure = insecure
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[AgentLink]:
        """Raises `Unavailable` when nobody answers in time, `Invalid` when it must not be dialled in the clear."""
        if self._member is None:
            check_dial("controllers", address, self._tls, insecure=self._insecure)
        async with await self._channel(address) as channel:
            try:
                async with asyncio.timeout(self._timeout_s):
                    connected = await settled(channel)
            except TimeoutError:
                raise Unavailable(f"no connection within {self._timeout_s:g} s") from None
            if not connected:
                if self._member is not None:
                    self._member.forget_door(address)
                raise Unavailable("nobody listens there (or its TLS does not fit ours)")
            call: Call = dispatcher_pb2_grpc.DispatcherStub(channel).Session()
            try:
                yield _GrpcLink(call)
            finally:
                call.cancel()

    async def _channel(self, address: str) -> grpc.aio.Channel:
        if self._member is not None:
            from common.grpc_trust import Shown, secure_channel

            door, own = await self._member.door(address), self._member.own
            shown = Shown(key=own.key, chain=own.chain)
            return secure_channel(door, own.cluster_id, own.authorities, _OPTIONS, shown)
        if self._tls is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        return grpc.aio.secure_channel(address, channel_credentials(self._tls), options=_OPTIONS)


class _GrpcLink:
    """Implements `AgentLink` over one call."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def send(self, message: AgentMessage) -> None:
        encoded = wire.encode(message)
        assert isinstance(encoded, dispatcher_pb2.AgentMessage)
        try:
            await self._call.write(encoded)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise await self._ended(error) from None

    async def receive(self) -> ControllerMessage:
        while True:
            try:
                message = await self._call.read()
            except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
                raise await self._ended(error) from None
            if message is grpc.aio.EOF:
                raise Unavailable("it closed the session")
            assert isinstance(message, dispatcher_pb2.ControllerMessage)
            try:
                return wire.decode(ControllerMessage, message)
            except Invalid as error:
                # Most likely a newer controller. What it meant shows as a gap, which is asked about.
                logger.warning("a message of the controller is not understood and left out: %s", error)

    async def _ended(self, error: BaseException) -> Unavailable:
        if isinstance(error, grpc.aio.AioRpcError):
            return Unavailable(f"the session broke: {error.details() or error.code().name.lower()}")
        return Unavailable(f"the session broke: {error}")
