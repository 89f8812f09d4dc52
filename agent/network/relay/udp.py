"""UDP through the relay: datagrams of one client go to one endpoint, and its answers back, while they keep coming."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from agent.network.relay.balancer import Member
from agent.network.relay.service import PublishedService

IDLE_S = 60.0
"""A client silent this long is forgotten; its next datagram may go to another endpoint."""

CLIENTS_LIMIT = 10_000
"""Clients of one port remembered at a time; datagrams of more are dropped, as a full socket would."""

EARLY_LIMIT = 64
"""Datagrams of one client kept while its endpoint is being reached."""


class _Upstream(asyncio.DatagramProtocol):
    """The socket that speaks to an endpoint on behalf of one client."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._client.answer(data)


class _Client:
    """One client address: its endpoint, its socket, and when it was last heard."""

    def __init__(self, port: PublishedDatagrams, address: tuple[str | Any, int]) -> None:
        self._port = port
        self._address = address
        self._early: list[bytes] = []
        self._upstream: asyncio.DatagramTransport | None = None
        self._member: Member | None = None
        self._loop = asyncio.get_running_loop()
        self._reaching = self._loop.create_task(self._reach())
        self._idle = self._loop.call_later(IDLE_S, self.close)

    def send(self, data: bytes) -> None:
        self._heard()
        if self._upstream is not None:
            self._upstream.sendto(data)
        elif len(self._early) < EARLY_LIMIT:
            self._early.append(data)

    def answer(self, data: bytes) -> None:
        self._heard()
        self._port.send(data, self._address)

    def close(self) -> None:
        self._idle.cancel()
        self._reaching.cancel()
        if self._port.forget(self._address):
            self._port.service.open -= 1
        if self._upstream is not None:
            self._upstream.close()
        if self._member is not None:
            self._port.service.release(self._member)
            self._member = None

    async def _reach(self) -> None:
        reached = await self._port.service.reach(
            lambda endpoint: self._loop.create_datagram_endpoint(
                lambda: _Upstream(self), remote_addr=(endpoint.address, endpoint.port)
            )
        )
        if reached is None:
            self.close()
            return
        self._member, (self._upstream, _) = reached
        for data in self._early:
            self._upstream.sendto(data)
        self._early.clear()

    def _heard(self) -> None:
        self._idle.cancel()
        self._idle = self._loop.call_later(IDLE_S, self.close)


class PublishedDatagrams(asyncio.DatagramProtocol):
    """The published UDP port."""

    def __init__(self, service: PublishedService) -> None:
        self.service = service
        self._clients: dict[tuple[str | Any, int], _Client] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's are not subclasses

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        client = self._clients.get(addr)
        if client is None:
            if len(self._clients) >= CLIENTS_LIMIT:
                return
            self.service.accepted += 1
            self.service.open += 1
            client = self._clients[addr] = _Client(self, addr)
        client.send(data)

    def send(self, data: bytes, address: tuple[str | Any, int]) -> None:
        if self._transport is not None:
            self._transport.sendto(data, address)

    def forget(self, address: tuple[str | Any, int]) -> bool:
        """Whether it was known."""
        return self._clients.pop(address, None) is not None

    def connection_lost(self, exc: Exception | None) -> None:
        for client in list(self._clients.values()):
            client.close()


async def listen(address: str, port: int, service: PublishedService) -> asyncio.DatagramTransport:
    """Receive datagrams for the service. Raises `OSError` when the port cannot be had."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: PublishedDatagrams(service), local_addr=(address, port)
    )
    return transport
