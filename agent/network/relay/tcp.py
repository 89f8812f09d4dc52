"""TCP through the relay: two protocols back to back that pass bytes, ends and back-pressure on to each other."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from agent.network.relay.balancer import Member
from agent.network.relay.proxy_header import proxy_header
from agent.network.relay.service import PublishedService
from common.model.endpoint import Endpoint


class _Side(asyncio.Protocol):
    """One side of a relayed connection; `other` is set while both stand."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._early: list[bytes] = []
        self.ended = False
        """Nothing more comes from this side."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are not subclasses
        _keep_alive(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool:
        """Pass a half-close on and keep the other direction open, unless that has ended before."""
        self.ended = True
        if self.other is not None and self.other.transport is not None:
            self._pass_end(self.other.transport)
        return not self._over

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        other, self.other, self.transport = self.other, None, None
        if other is not None and other.transport is not None:
            other.transport.close()

    def join(self, other: _Side) -> None:
        """Pass what came early and everything after it to `other`; also the end, when that came early too."""
        assert other.transport is not None
        for data in self._early:
            other.transport.write(data)
        self._early.clear()
        if self.transport is None:
            other.transport.close()
            return
        self.other = other
        if self.ended:
            self._pass_end(other.transport)

    @property
    def _over(self) -> bool:
        """Both directions have ended: a transport whose end was read and written stays open until it is closed."""
        return self.ended and self.other is not None and self.other.ended

    def _pass_end(self, to: asyncio.Transport) -> None:
        to.write_eof()
        if self._over:
            to.close()
            if self.transport is not None:
                self.transport.close()


class Accepted(_Side):
    """The client's side: reads nothing until an endpoint has been reached, so that nothing is lost or hoarded."""

    def __init__(self, service: PublishedService) -> None:
        super().__init__()
        self._service = service
        self._reaching: asyncio.Task[None] | None = None
        self._member: Member | None = None
        self._has_place = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._service.accepted += 1
        self._service.open += 1
        self._has_place = self._service.places.take()
        if not self._has_place:
            cast("asyncio.Transport", transport).abort()
            return
        assert self.transport is not None
        self.transport.pause_reading()
        self._reaching = asyncio.get_running_loop().create_task(self._reach())

    async def _reach(self) -> None:
        reached = await self._service.reach(_connect)
        if reached is None:
            if self.transport is not None:
                self.transport.abort()
            return
        self._member, upstream = reached
        if self.transport is None:  # the client left while we connected
            if upstream.transport is not None:
                upstream.transport.abort()
            self._give_back()
            return
        if upstream.transport is not None:
            upstream.transport.write(self._introduction())
        upstream.join(self)
        if upstream.transport is not None:
            self.join(upstream)
            self.transport.resume_reading()

    def _introduction(self) -> bytes:
        assert self.transport is not None
        client, own = (self.transport.get_extra_info(name) for name in ("peername", "sockname"))
        return proxy_header(self._service.service.proxy_protocol, client[:2], own[:2]) if client and own else b""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._service.open -= 1
        if self._member is None and self._reaching is not None and not self._reaching.done():
            self._reaching.cancel()
        self._give_back()
        if self._has_place:
            self._has_place = False
            self._service.places.give_back()

    def _give_back(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            self._service.release(member)


async def _connect(endpoint: Endpoint) -> _Side:
    _, side = await asyncio.get_running_loop().create_connection(_Side, endpoint.address, endpoint.port)
    return side


def _keep_alive(transport: asyncio.Transport) -> None:
    """Find dead peers of idle connections within minutes; small writes must not wait for more (no Nagle)."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def listen(address: str, port: int, service: PublishedService) -> asyncio.Server:
    """Accept connections for the service. Raises `OSError` when the port cannot be had."""
    return await asyncio.get_running_loop().create_server(lambda: Accepted(service), address, port, backlog=1024)
