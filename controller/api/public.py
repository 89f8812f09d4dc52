"""Health and reflection, which anybody may ask: so many calls of one address, and none that keeps silent.

Wraps the handlers of those services as they are registered; what they answer is theirs.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

import grpc

from common.errors import PodiumError, Unavailable
from common.grpc_errors import abort
from controller.api.opening import address_of, first_of
from controller.api.settings import ServerBounds
from controller.api.streams import Held


class Public:
    """What such services are added to instead of a server, whose places they share."""

    def __init__(self, bounds: ServerBounds) -> None:
        self._bounds = bounds
        what = "calls of health and reflection open"
        self._open = Held(bounds.public_per_address, what, total=bounds.public, error=Unavailable)

    def on(self, server: grpc.aio.Server) -> grpc.aio.Server:
        return cast("grpc.aio.Server", _Registering(server, self))

    def bounded(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """The same method, as one whose requests are a stream (see `controller.api.opening`)."""

        async def handle(contents: AsyncIterator[bytes], context: Any) -> Any:
            try:
                with self._open.held(address_of(context)):
                    return await self._answered(handler, contents, context)
            except PodiumError as error:
                await abort(context, error)

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(handle, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(handle, None, handler.response_serializer)

    async def _answered(
        self, handler: grpc.RpcMethodHandler[Any, Any], contents: AsyncIterator[bytes], context: Any
    ) -> Any:
        read = handler.request_deserializer or (lambda content: content)
        if handler.request_streaming:
            answers = handler.stream_stream(self._requests(contents, read), context)
            async for answer in answers:
                await context.write(answer)
            return None
        request = read(await first_of(contents, self._bounds.request_of_strangers_s))
        serve = handler.unary_stream if handler.response_streaming else handler.unary_unary
        answered = serve(request, context)
        return await answered if inspect.isawaitable(answered) else answered

    async def _requests(self, contents: AsyncIterator[bytes], read: Any) -> AsyncIterator[Any]:
        yield read(await first_of(contents, self._bounds.request_of_strangers_s))
        while True:
            try:
                async with asyncio.timeout(self._bounds.public_s):
                    content = await anext(contents)
            except (StopAsyncIteration, TimeoutError):
                return
            yield read(content)


class _Registering:
    """As much of a server as generated code registers with."""

    def __init__(self, server: grpc.aio.Server, public: Public) -> None:
        self._server = server
        self._public = public

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(tuple(_Bounded(handler, self._public) for handler in handlers))

    def add_registered_method_handlers(self, name: str, handlers: object) -> None:
        """The same handlers once more, for servers that look them up so."""


class _Bounded(grpc.GenericRpcHandler):  # type: ignore[misc]  # the stubs have no types
    def __init__(self, handler: grpc.GenericRpcHandler, public: Public) -> None:
        self._handler = handler
        self._public = public

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        found = self._handler.service(call)
        return None if found is None else self._public.bounded(found)
