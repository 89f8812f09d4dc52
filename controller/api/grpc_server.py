"""The controller's one gRPC listener: limits, health and reflection around whatever services it is given.

Health says SERVING for the services on the leader only, and for the server as a whole ("") wherever it runs. Decides
nothing about requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from common.dispatch import Dispatcher
from common.errors import Invalid
from common.grpc_channels import SESSION_OPTIONS
from common.settings import LIMITS
from controller.api.public import Public
from controller.api.settings import SERVER_BOUNDS, ServerBounds
from controller.dispatcher.grpc_adapter import DispatcherServicer
from protos.v1 import dispatcher_pb2, dispatcher_pb2_grpc

Register: TypeAlias = Callable[[grpc.aio.Server], str]
"""Adds one service to the server; its full name."""


def _options(bounds: ServerBounds) -> list[tuple[str, int]]:
    return [
        *SESSION_OPTIONS,
        ("grpc.max_receive_message_length", LIMITS.session_message_bytes),
        ("grpc.max_send_message_length", LIMITS.session_message_bytes),
        # Two controllers on one port would each get some of the connections, and nobody would know why.
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", bounds.connections),
        ("grpc.max_concurrent_streams", bounds.calls_per_connection),
        ("grpc.max_connection_idle_ms", _ms(bounds.idle_s)),
        ("grpc.server_handshake_timeout_ms", _ms(bounds.handshake_s)),
        ("grpc.keepalive_time_ms", _ms(bounds.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(bounds.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(bounds.ping_interval_s)),
        ("grpc.http2.max_ping_strikes", bounds.ping_strikes),
    ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


class GrpcServer:
    """Bound to its port from the start, so that its address can be named; answers once `serving` is entered.

    Each address it listens on has a server of its own, with the whole of the bounds: who floods the engineers' door
    takes no place at the agents'.
    """

    def __init__(
        self,
        path: str,
        address: str,
        credentials: grpc.ServerCredentials | None,
        bounds: ServerBounds = SERVER_BOUNDS,
    ) -> None:
        """Without `credentials` in the clear. Raises `Invalid` naming the setting `path` when `address` cannot be
        listened on."""
        self._bounds = bounds
        self._servers: list[grpc.aio.Server] = []
        self.address = self.listen(path, address, credentials)
        self._health = health.aio.HealthServicer()
        self._services: tuple[str, ...] = ()

    def listen(self, path: str, address: str, credentials: grpc.ServerCredentials | None) -> str:
        """Serve at `address` too; what it is with the port that the system chose. Raises as the constructor does."""
        server = grpc.aio.server(options=_options(self._bounds), maximum_concurrent_rpcs=self._bounds.calls)
        self._servers.append(server)
        try:
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise Invalid(f"{path}: cannot listen on {address}: {error}") from None
        return f"{address.rpartition(':')[0]}:{port}"

    @asynccontextmanager
    async def serving(self, services: Sequence[Register], *, shutdown_s: float) -> AsyncIterator[None]:
        """Answer while the context lasts; leaving gives open calls `shutdown_s` to end."""
        for server in self._servers:
            self._services = tuple(register(server) for register in services)
            public = Public(self._bounds).on(server)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, public)
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), public)
        await self.set_leading(leading=False)
        for server in self._servers:
            await server.start()
        try:
            yield
        finally:
            await self._health.enter_graceful_shutdown()
            await asyncio.gather(*(server.stop(shutdown_s) for server in self._servers))

    async def set_leading(self, *, leading: bool) -> None:
        """What health says of every service from now on."""
        known = health_pb2.HealthCheckResponse
        status = known.SERVING if leading else known.NOT_SERVING
        async with asyncio.timeout(1.0):  # watchers that read nothing must not hold it up
            for service in self._services:
                await self._health.set(service, status)


def dispatcher_service(dispatcher: Dispatcher, admit: Callable[[Any], str | None]) -> Register:
    """The agents' sessions, for whom `admit` lets in."""

    def register(server: grpc.aio.Server) -> str:
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(DispatcherServicer(dispatcher, admit), server)
        return dispatcher_pb2.DESCRIPTOR.services_by_name["Dispatcher"].full_name

    return register
