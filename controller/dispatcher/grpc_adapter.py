"""The dispatcher on the wire: turns one gRPC stream into a link of values. Decides nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError

from common import wire
from common.dispatch import Dispatcher
from common.errors import Forbidden, Invalid, PodiumError, Unavailable
from common.grpc_errors import abort
from common.model.session import AgentMessage, ControllerMessage, Register
from controller.dispatcher.callers import Callers
from protos.v1 import dispatcher_pb2, dispatcher_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[dispatcher_pb2.AgentMessage, dispatcher_pb2.ControllerMessage]"

logger = logging.getLogger(__name__)


class GrpcLink:
    """A `ControllerLink` over a stream's context. `admit` tells whose certificate was shown, None where nobody asks; it
    is asked again when the node registers, which may be a while after the stream began."""

    def __init__(self, context: Context, admit: Callable[[Context], str | None]) -> None:
        self._context = context
        self._admit = admit

    async def send(self, message: ControllerMessage) -> None:
        encoded = wire.encode(message)
        assert isinstance(encoded, dispatcher_pb2.ControllerMessage)
        try:
            await self._context.write(encoded)
        except (grpc.RpcError, grpc.aio.BaseError) as error:
            raise Unavailable(f"the stream broke: {error}") from None

    async def receive(self) -> AgentMessage:
        while True:
            message = await self._read()
            if message.WhichOneof("body") is not None or not message.ByteSize():
                return self._own(wire.decode(AgentMessage, message))
            # A newer agent says what this version has no word for; ending its session would only bring it back.
            logger.warning("a message of the agent %s is not understood and left out", self._context.peer())

    def _own(self, message: AgentMessage) -> AgentMessage:
        """Who an agent is, its certificate says; a message that says otherwise is refused."""
        body = message.body
        if isinstance(body, Register):
            node_id = self._admit(self._context)
            if node_id is not None and body.node.id != node_id:
                raise Forbidden(f"this is the certificate of node {node_id}: it cannot register as {body.node.id!r}")
        return message

    async def _read(self) -> dispatcher_pb2.AgentMessage:
        try:
            message = await self._context.read()
        except (grpc.RpcError, grpc.aio.BaseError) as error:
            raise Unavailable(f"the stream broke: {error}") from None
        except DecodeError:
            raise Invalid("what came is not a message AgentMessage") from None
        if not isinstance(message, dispatcher_pb2.AgentMessage):
            raise Unavailable("the agent closed the stream")
        return message


class DispatcherServicer(dispatcher_pb2_grpc.DispatcherServicer):
    """Serves `podium.v1.Dispatcher`. `admit` tells whose certificate a caller showed, None where nobody asks for one;
    it raises `Unauthenticated` or `Forbidden`."""

    def __init__(self, dispatcher: Dispatcher, admit: Callable[[Context], str | None]) -> None:
        self._dispatcher = dispatcher
        self._admit = admit
        self._callers = Callers(time.monotonic)

    async def Session(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[dispatcher_pb2.AgentMessage], context: Context
    ) -> None:
        """Never swallows its cancellation: a stream that does leaks (grpc issue 43360)."""
        try:
            with self._callers.held(self._admit(context)):
                await self._dispatcher.serve(GrpcLink(context, self._admit), context.peer())
        except PodiumError as error:
            await abort(context, error)
