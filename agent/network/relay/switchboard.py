"""Keeps the relay's listeners what the last feed says. Owns every port it listens on, and nothing of the agent's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping

import msgspec

from agent.network.feed import Feed, RelayState
from agent.network.interface import Listener
from agent.network.relay import tcp, udp
from agent.network.relay.service import Places, PublishedService
from agent.network.relay.slots import SlotAddresses, job_of
from common.model.endpoint import TrafficProblem
from common.model.job import Protocol

RETRY_S = 2.0
"""Between attempts to get a port that another program holds."""

Open = asyncio.Server | asyncio.DatagramTransport


class Switchboard:
    """`changed` is called whenever `state()` would answer differently."""

    def __init__(self, changed: Callable[[], None], places: Places) -> None:
        self._changed = changed
        self._places = places
        self._lock = asyncio.Lock()
        self._slots = SlotAddresses()
        self._fed = Feed(revision=-1)
        self._feed = self._fed
        """With what the slots add that were asked for."""
        self._services: dict[str, PublishedService] = {}
        self._closing: list[PublishedService] = []
        self._open: dict[Listener, Open] = {}
        self._problems: dict[Listener, str] = {}
        self._accepted: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        """Of services that are gone, by job."""

    def state(self) -> RelayState:
        self._closing = [service for service in self._closing if service.draining()]
        served = list(self._services.values())
        everything = [*served, *self._closing]
        problems = (TrafficProblem(service=listener.service, text=text) for listener, text in self._problems.items())
        return RelayState(
            pid=os.getpid(),
            revision=self._feed.revision,
            draining=tuple(sorted({task_id for service in everything for task_id in service.draining()})),
            problems=tuple(sorted(problems, key=lambda problem: problem.text)),
            connections=_sums(served, lambda service: service.accepted, self._accepted),
            open=_sums(everything, lambda service: service.open),
            parked=_sums(everything, lambda service: service.parked),
            refused=_sums(served, lambda service: service.refused, self._refused),
            wanted=tuple(sorted({job_of(service.service) for service in served if service.wanted})),
        )

    async def carry_out(self, feed: Feed) -> None:
        """Make the listeners match the feed. A port that cannot be had is a problem in `state()`, and tried again."""
        async with self._lock:
            self._fed = feed
            await self._offer()

    async def slot_address(self, job_name: str, number: int) -> str:
        """Where one slot of a job is reached, from now on; empty when there is no room."""
        slot = (job_name, number)
        if self._fed.names is None or (known := self._slots.known(slot)):
            return "" if self._fed.names is None else known
        async with self._lock:
            address = self._slots.known(slot) or self._slots.give(slot, self._fed.names)
            await self._offer()
        return address

    async def _offer(self) -> None:
        self._feed = self._slots.extend(self._fed)
        self._close_listeners({*self._open, *self._problems} - set(self._feed.listeners))
        wanted = {service.key: service for service in self._feed.services}
        for key in sorted(set(self._services) - set(wanted)):
            self._retire(key)
        for key, service in wanted.items():
            if key in self._services:
                self._services[key].update(service)
            else:
                self._services[key] = PublishedService(service, self._changed, self._places)
        await self._open_missing()
        self._changed()

    async def retry(self) -> None:
        """Try again to get the ports that were taken; to be called every `RETRY_S`."""
        if self._problems:
            before = dict(self._problems)
            async with self._lock:
                await self._open_missing()
            if before != self._problems:
                self._changed()

    def close(self) -> None:
        self._close_listeners(set(self._open))

    async def _open_missing(self) -> None:
        for listener in self._feed.listeners:
            if listener in self._open:
                continue
            try:
                self._open[listener] = await self._listen(listener)
                self._problems.pop(listener, None)
            except (OSError, ValueError, OverflowError) as error:  # the last two: no address, and no port
                text = getattr(error, "strerror", None) or error
                self._problems[listener] = f"{listener} cannot be published: {text}"

    async def _listen(self, listener: Listener) -> Open:
        service = self._services.get(listener.service)
        if service is None:
            raise ValueError(f"there is no service {listener.service}")
        listen = tcp.listen if listener.protocol is Protocol.TCP else udp.listen
        return await listen(listener.address, listener.port, service)

    def _close_listeners(self, listeners: set[Listener]) -> None:
        for listener in listeners:
            self._problems.pop(listener, None)
            if listener in self._open:
                self._open.pop(listener).close()

    def _retire(self, key: str) -> None:
        """What is offered no more still carries the connections it has."""
        service = self._services.pop(key)
        self._accepted = _sums((service,), lambda gone: gone.accepted, self._accepted)
        self._refused = _sums((service,), lambda gone: gone.refused, self._refused)
        service.update(msgspec.structs.replace(service.service, endpoints=()))
        self._closing.append(service)


def _sums(
    services: Iterable[PublishedService], amount: Callable[[PublishedService], int], before: Mapping[str, int] = {}
) -> dict[str, int]:
    """By job name, added to what was `before`; of a job with several services the sum."""
    sums = dict(before)
    for service in services:
        name = job_of(service.service)
        sums[name] = sums.get(name, 0) + amount(service)
    return sums
