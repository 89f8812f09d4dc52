"""The client's transport over gRPC: one channel per address, values encoded by `common.wire`, errors by one table.

Never decides whom to ask or whether to ask again; it says precisely what happened: nobody there (nothing was asked), or
asked and no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
from google.protobuf.message import Message

from client.settings import ClientSettings
from client.transport import AnswerT, Method, RequestT
from common import wire
from common.errors import Fenced, NotLeader, OutcomeUnknown, PodiumError, Unavailable
from common.grpc_channels import settled
from common.grpc_errors import error_of
from common.identity import server_name
from common.pieces import join
from common.settings import LIMITS
from common.tls import channel_credentials
from common.tokens import USER, Token, parse_token

_OPTIONS = (
    # A list of all tasks of a large cluster is longer than any request.
    ("grpc.max_receive_message_length", LIMITS.session_message_bytes),
    ("grpc.max_send_message_length", LIMITS.message_bytes),
    # Otherwise a refused connection is remembered, with its back-off, across the channels of this process.
    ("grpc.use_local_subchannel_pool", 1),
    # Nothing else tells that a machine has vanished or a leader is frozen; another one leads 3 to 4 s later.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    # The client alone decides what is repeated.
    ("grpc.enable_retries", 0),
)


class _Line:
    """A channel and the number of calls that need it: closing it cancels them, and their callers with them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.calls = 0


class GrpcTransport:
    """`client.transport.Transport` over grpc.aio. Use it within one event loop."""

    def __init__(self, settings: ClientSettings) -> None:
        self._connect_timeout_s = settings.connect_timeout_s
        self._credentials = channel_credentials(settings.tls) if settings.tls else None
        self._options: tuple[tuple[str, int | str], ...] = _OPTIONS
        self._token = parse_token(settings.token, USER) if settings.token else None
        self._authority = settings.authority
        self._metadata = (("authorization", f"Bearer {self._token}"),) if self._token else ()
        self._lines: dict[str, _Line] = {}

    async def ask(
        self, address: str, method: Method[RequestT, AnswerT], request: RequestT, *, timeout_s: float
    ) -> AnswerT:
        async with self._connected(address) as channel:
            make = channel.unary_stream if method.in_pieces else channel.unary_unary
            call = make(
                method.path,
                request_serializer=_serialize,
                response_deserializer=wire.message_type(method.answer).FromString,
            )(wire.encode(request), timeout=timeout_s, metadata=self._metadata)
            try:
                answers: list[Message] = [one async for one in call] if method.in_pieces else [await call]
            except grpc.aio.AioRpcError as error:
                raise _after_asking(address, error) from None
        if not answers:
            raise OutcomeUnknown(f"{address}: the answer to {method.name} has no piece")
        return join([wire.decode(method.answer, answer) for answer in answers])

    async def follow(
        self, address: str, method: Method[RequestT, AnswerT], request: RequestT
    ) -> AsyncGenerator[AnswerT, None]:
        async with self._connected(address) as channel:
            call = channel.unary_stream(
                method.path,
                request_serializer=_serialize,
                response_deserializer=wire.message_type(method.answer).FromString,
            )(wire.encode(request), metadata=self._metadata)
            try:
                async for answer in call:
                    yield wire.decode(method.answer, answer)
            except grpc.aio.AioRpcError as error:
                raise _after_asking(address, error) from None
            finally:
                call.cancel()

    async def converse(
        self, address: str, method: Method[RequestT, AnswerT], requests: AsyncIterator[RequestT]
    ) -> AsyncGenerator[AnswerT, None]:
        async def encoded() -> AsyncIterator[Message]:
            async for request in requests:
                yield wire.encode(request)

        async with self._connected(address) as channel:
            call = channel.stream_stream(
                method.path,
                request_serializer=_serialize,
                response_deserializer=wire.message_type(method.answer).FromString,
            )(encoded(), metadata=self._metadata)
            try:
                async for answer in call:
                    yield wire.decode(method.answer, answer)
            except grpc.aio.AioRpcError as error:
                raise _after_asking(address, error) from None
            finally:
                call.cancel()

    async def close(self) -> None:
        for line in self._lines.values():
            await line.channel.close()
        self._lines.clear()

    @asynccontextmanager
    async def _connected(self, address: str) -> AsyncGenerator[grpc.aio.Channel, None]:
        """A channel with a connection. So what fails afterwards may have been asked, and what fails here was not."""
        if self._token is not None and self._credentials is None:
            await self._believe(address, self._token)
        line = self._lines.get(address) or _Line(self._channel(address))
        self._lines[address] = line
        line.calls += 1
        try:
            if reason := await self._wrong_with(line.channel):
                # A fresh channel tries again at once; this one would wait for its own back-off.
                if self._lines.get(address) is line:
                    del self._lines[address]
                raise Unavailable(f"{address}: {reason}")
            yield line.channel
        finally:
            line.calls -= 1
            if not line.calls and self._lines.get(address) is not line:
                await line.channel.close()

    async def _wrong_with(self, channel: grpc.aio.Channel) -> str:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return "" if await settled(channel) else "nobody listens there (or its TLS does not fit ours)"
        except TimeoutError:
            return f"no connection within {self._connect_timeout_s:g} s"

    async def _believe(self, address: str, token: Token) -> None:
        """Know the cluster by the authority that the context has, or else by the digest that the token pins."""
        from common.certificates import cluster_of  # with what they need a tenth of a second
        from common.pinning import pinned_authority

        authority = self._authority or await pinned_authority(address, token.pin, timeout_s=self._connect_timeout_s)
        self._options = (*_OPTIONS, ("grpc.ssl_target_name_override", server_name(cluster_of(authority))))
        self._credentials = grpc.ssl_channel_credentials(authority.encode())

    def _channel(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=self._options)
        return grpc.aio.secure_channel(address, self._credentials, options=self._options)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _after_asking(address: str, error: grpc.aio.AioRpcError) -> PodiumError:
    """What an error means once the request was on its way: a plain "unavailable" may have been done by then."""
    meaning = error_of(error)
    if isinstance(meaning, Fenced):
        return NotLeader("")  # its term ended while it served us; who leads next answers
    if isinstance(meaning, Unavailable) and not isinstance(meaning, NotLeader):
        return OutcomeUnknown(f"{address}: {meaning}")
    return meaning
