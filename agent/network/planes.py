"""Which data plane a node has: the built-in relay, or HAProxy with the relay beside it for UDP and names.

Whichever is chosen ends what the other one left behind on the same data directory: two programs cannot have one port.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from agent.network.haproxy.plane import HaproxyPlane
from agent.network.haproxy.program import find_program, version_problem
from agent.network.haproxy.site import Web
from agent.network.interface import NO_CERTIFICATES, Certificates, DataPlane, DataPlaneState
from agent.network.names.book import AddressBook
from agent.network.relay_plane import RelayPlane
from common.errors import Fault, Invalid
from common.model.endpoint import Service
from common.model.ids import Rng
from common.model.job import Protocol

log = logging.getLogger(__name__)

RELAY, HAPROXY = "relay", "haproxy"

_RELAY_DIRECTORY, _HAPROXY_DIRECTORY = "relay", "haproxy"


async def choose_plane(
    proxy: str,
    data_dir: Path,
    web: Web,
    certs: Path | None,
    rng: Rng,
    book: AddressBook | None = None,
    memory: Path | None = None,
) -> DataPlane:
    """`auto` is HAProxy where one is installed that takes servers at run time, else the relay. Nothing runs yet.
    Certificates lie in `certs`, and those that are secrets in `memory`.

    Raises `Invalid` when HAProxy was asked for by name and cannot be used.
    """
    directory = data_dir / _RELAY_DIRECTORY
    relay = RelayPlane(directory, web.address, rng, book)
    haproxy = HaproxyPlane(data_dir / _HAPROXY_DIRECTORY, web, certs, rng, book, memory)
    if proxy == RELAY:
        return AfterAnother(relay, haproxy)
    program = find_program()
    problem = await version_problem(program) if program else "HAProxy is not installed (apt-get install haproxy)"
    if not problem:
        beside = RelayPlane(directory, web.address, rng, book, datagrams_only=True)
        return BesideRelay(haproxy, beside, names=book is not None)
    if proxy == HAPROXY:
        raise Invalid([Fault(path="proxy", text=problem)])
    if program:
        log.warning("traffic is carried by the built-in relay: %s", problem)
    return AfterAnother(relay, haproxy)


class AfterAnother:
    """`plane`, in whose place `before` may have been."""

    def __init__(self, plane: DataPlane, before: DataPlane) -> None:
        self._plane = plane
        self._before = before

    @property
    def name(self) -> str:
        return self._plane.name

    @property
    def pid(self) -> int:
        return self._plane.pid

    async def start(self) -> None:
        await self._before.close(stop=True)
        await self._plane.start()

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        await self._plane.apply(revision, services, certificates)

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._plane.subscribe(changed)

    async def metrics(self) -> bytes:
        return await self._plane.metrics()

    async def close(self, *, stop: bool) -> None:
        await self._plane.close(stop=stop)


class BesideRelay:
    """`plane` for TCP and HTTP, the relay for UDP and, with `names`, for those; it runs only where there is some of
    that, or ran before."""

    def __init__(self, plane: DataPlane, relay: RelayPlane, *, names: bool = False) -> None:
        self._plane = plane
        self._relay = relay
        self._names = names
        self._relay_runs = False
        self._states = {False: DataPlaneState(revision=-1), True: DataPlaneState(revision=-1)}
        self._subscribers: list[Callable[[DataPlaneState], None]] = []
        self._lock = asyncio.Lock()
        plane.subscribe(lambda state: self._take(state, relay=False))
        relay.subscribe(lambda state: self._take(state, relay=True))

    @property
    def name(self) -> str:
        return self._plane.name

    @property
    def pid(self) -> int:
        return self._plane.pid

    async def start(self) -> None:
        async with self._lock:
            if self._names or await self._relay.found():
                await self._start_relay()
        await self._plane.start()

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        datagrams = tuple(service for service in services if service.protocol is Protocol.UDP)
        rest = tuple(service for service in services if service.protocol is not Protocol.UDP)
        async with self._lock:
            if datagrams and not self._relay_runs:
                await self._start_relay()
            if self._relay_runs:  # first: it may hold ports from when it was alone
                await self._relay.apply(revision, services if self._names else datagrams)
        await self._plane.apply(revision, rest, certificates)

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._subscribers.append(changed)

    async def metrics(self) -> bytes:
        return await self._plane.metrics()

    async def close(self, *, stop: bool) -> None:
        await self._plane.close(stop=stop)
        await self._relay.close(stop=stop)

    async def _start_relay(self) -> None:
        await self._relay.start()
        self._relay_runs = True

    def _take(self, state: DataPlaneState, *, relay: bool) -> None:
        self._states[relay] = state
        told = self._both()
        for subscriber in self._subscribers:
            subscriber(told)

    def _both(self) -> DataPlaneState:
        """As far as the one that is behind."""
        plane, relay = self._states[False], self._states[True]
        if not self._relay_runs:
            return plane
        return msgspec.structs.replace(
            plane,
            revision=min(plane.revision, relay.revision),
            draining=tuple(sorted({*plane.draining, *relay.draining})),
            problems=(*plane.problems, *relay.problems),
            connections=_added(plane.connections, relay.connections),
            open=_added(plane.open, relay.open),
            parked=_added(plane.parked, relay.parked),
            refused=_added(plane.refused, relay.refused),
            wanted=tuple(sorted({*plane.wanted, *relay.wanted})),
        )


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    sums = dict(one)
    for job, number in other.items():
        sums[job] = sums.get(job, 0) + number
    return sums
