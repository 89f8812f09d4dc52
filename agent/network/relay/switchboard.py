"""Keeps the relay's listeners what the last feed says. Owns every published port, and nothing of the agent's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import msgspec

from agent.network.feed import Feed, RelayState
from agent.network.relay import tcp, udp
from agent.network.relay.service import PublishedService
from common.model.job import Protocol

RETRY_S = 2.0
"""Between attempts to get a port that another program holds."""

Listener = asyncio.Server | asyncio.DatagramTransport


class Switchboard:
    """`changed` is called whenever `state()` would answer differently."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._feed = Feed(revision=-1, address="")
        self._services: dict[str, PublishedService] = {}
        self._closing: list[PublishedService] = []
        self._listeners: dict[str, Listener] = {}
        self._problems: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def state(self) -> RelayState:
        self._closing = [service for service in self._closing if service.draining()]
        everything = [*self._services.values(), *self._closing]
        return RelayState(
            pid=os.getpid(),
            revision=self._feed.revision,
            draining=tuple(sorted({task_id for service in everything for task_id in service.draining()})),
            problems=tuple(text for _, text in sorted(self._problems.items())),
            connections=self._connections(),
        )

    async def carry_out(self, feed: Feed) -> None:
        """Make the listeners match the feed. A port that cannot be had is a problem in `state()`, and tried again."""
        if feed.address != self._feed.address:
            self._close_listeners(set(self._listeners))
        self._feed = feed
        wanted = {service.key: service for service in feed.services}
        self._close_listeners(set(self._services) - set(wanted))
        for key, service in wanted.items():
            if key in self._services:
                self._services[key].update(service)
            else:
                self._services[key] = PublishedService(service, self._changed)
        await self._open_missing()
        self._changed()

    async def retry(self) -> None:
        """Try again to get the ports that were taken; to be called every `RETRY_S`."""
        if self._problems:
            before = dict(self._problems)
            await self._open_missing()
            if before != self._problems:
                self._changed()

    def close(self) -> None:
        self._close_listeners(set(self._listeners))

    async def _open_missing(self) -> None:
        for key, service in self._services.items():
            if key in self._listeners:
                continue
            open_listener = tcp.listen if service.service.protocol is Protocol.TCP else udp.listen
            try:
                self._listeners[key] = await open_listener(self._feed.address, service)
                self._problems.pop(key, None)
            except OSError as error:
                self._problems[key] = (
                    f"port {key} on {self._feed.address} cannot be published: {error.strerror or error}"
                )

    def _close_listeners(self, keys: set[str]) -> None:
        for key in sorted(keys):
            listener = self._listeners.pop(key, None)
            if listener is not None:
                listener.close()
            self._problems.pop(key, None)
            service = self._services.pop(key, None)
            if service is not None:
                name = service.service.job_name
                self._counts[name] = self._counts.get(name, 0) + service.accepted
                service.update(msgspec.structs.replace(service.service, endpoints=()))
                self._closing.append(service)

    def _connections(self) -> dict[str, int]:
        counts = dict(self._counts)
        for service in self._services.values():
            name = service.service.job_name
            counts[name] = counts.get(name, 0) + service.accepted
        return counts
