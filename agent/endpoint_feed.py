"""Feeds the node's data plane with the endpoints the controller publishes, in order, and says what has been applied.

Owns the last known services, also across restarts of the agent; cut off from every controller it holds on to them.
Which endpoints a service has is decided by the controller.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from agent.asset_requests import AssetAsker
from agent.core.elsewhere import connectable
from agent.journal import Journal, KnownServices
from agent.metrics import Metrics
from agent.network.interface import DataPlane, DataPlaneState
from agent.route_certificates import RouteCertificates
from common.backoff import Backoff
from common.errors import PodiumError, Unavailable
from common.model.endpoint import Service
from common.model.ids import Rng
from common.model.node import ROUTES_HTTP
from common.model.session import Endpoints, EndpointsApplied, ServiceTraffic

logger = logging.getLogger(__name__)

AGAIN = Backoff(first_s=0.1, limit_s=5.0)
"""While the data plane does not answer."""
APPLY_TIMEOUT_S = 15.0
"""A data plane that takes longer to carry out a change is stuck; it is asked again."""

Send: TypeAlias = Callable[[EndpointsApplied], Awaitable[None]]


class EndpointFeed:
    """See the module. `address` is the node's own; `asker` asks for the certificates of routes."""

    def __init__(
        self, data_plane: DataPlane, journal: Journal, metrics: Metrics, rng: Rng, address: str, asker: AssetAsker
    ) -> None:
        self._data_plane = data_plane
        self._address = address
        self._journal = journal
        self._metrics = metrics
        self._rng = rng
        self._services: dict[str, Service] = {}
        self._revision = -1
        self._chained = False
        self._state = DataPlaneState(revision=-1)
        self._unapplied = asyncio.Event()
        self._news = asyncio.Event()
        self._certificates = RouteCertificates(asker, self._unapplied.set, rng)
        known = journal.services
        if known is not None:
            self._services = {service.key: service for service in known.services}
            self._revision = known.revision
        data_plane.subscribe(self._state_changed)

    @property
    def services(self) -> tuple[Service, ...]:
        """As last heard of."""
        return self._known()

    @property
    def problems(self) -> tuple[str, ...]:
        """What the data plane cannot do at the moment, for people."""
        return tuple(problem.text for problem in self._state.problems)

    # --- what the controller says

    def begin_session(self) -> None:
        """The next message must be a complete set."""
        self._chained = False
        self._news.set()  # a new controller has not heard yet what is applied

    def take(self, endpoints: Endpoints) -> str:
        """Take a message over. Answers why complete sets must be asked for; empty when all is well."""
        if endpoints.complete:
            self._services = {service.key: service for service in endpoints.services}
        elif not self._chained:
            return ""  # a complete set was asked for already
        elif endpoints.revision != self._revision + 1:
            self._chained = False
            return f"endpoints {endpoints.revision} came after {self._revision}"
        else:
            self._services.update((service.key, service) for service in endpoints.services)
            for key in endpoints.removed:
                self._services.pop(key, None)
        self._chained = True
        self._revision = endpoints.revision
        self._remember()
        self._unapplied.set()
        return ""

    def _remember(self) -> None:
        """For a restarted agent. A disk that takes nothing is no reason to send traffic where it should not go."""
        try:
            self._journal.remember_services(KnownServices(revision=self._revision, services=self._known()))
        except Unavailable as error:
            logger.warning("endpoints %d are applied but not remembered: %s", self._revision, error)

    # --- what the data plane does

    async def run(self) -> None:
        """Start the data plane and keep it at the last known services, for as long as the agent lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._certificates.run(), name="certificates of routes")
            await self._keep()

    async def _keep(self) -> None:
        await self._start()
        if self._revision > self._state.revision:
            self._unapplied.set()  # the data plane is younger than our knowledge: it lost what it knew
        failures = 0
        while True:
            await self._unapplied.wait()
            self._unapplied.clear()
            revision = self._revision
            problem = await self._apply(revision)
            if not problem:
                failures = 0
                continue
            failures += 1
            level = logging.WARNING if failures == 1 else logging.DEBUG
            logger.log(level, "data plane: revision %d of the endpoints is not applied: %s", revision, problem)
            self._unapplied.set()
            await asyncio.sleep(AGAIN.full_jitter_s(failures, self._rng))

    async def report(self, send: Send) -> None:
        """Within one session: tell the controller what is applied, at every change."""
        told: EndpointsApplied | None = None
        while True:
            await self._news.wait()
            self._news.clear()
            state = self._state
            now = EndpointsApplied(
                revision=state.revision, draining=state.draining, problems=state.problems, wanted=state.wanted
            )
            if now != told and now.revision >= 0:
                await send(now)
                told = now

    @property
    def traffic(self) -> tuple[ServiceTraffic, ...]:
        """By job, as the data plane counts it."""
        state = self._state
        return tuple(
            ServiceTraffic(job=job, connections=total, open=state.open.get(job, 0))
            for job, total in state.connections.items()
        )

    async def _start(self) -> None:
        """Tasks run without a data plane too, so one that does not start must not keep the agent from its work."""
        for failures in itertools.count(1):
            try:
                return await self._data_plane.start()
            except PodiumError as error:
                level = logging.WARNING if failures == 1 else logging.DEBUG
                logger.log(level, "the data plane does not start, published ports do not answer: %s", error)
            await asyncio.sleep(AGAIN.full_jitter_s(failures, self._rng))
        raise AssertionError("unreachable: the count has no end")

    async def _apply(self, revision: int) -> str:
        """Why it did not work; empty when it did."""
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                services = connectable(self._known(), self._journal.node_id, self._address)
                if self._data_plane.name in ROUTES_HTTP:
                    self._certificates.want(services)
                await self._data_plane.apply(revision, services, self._certificates.contents)
        except TimeoutError:
            return f"no answer within {APPLY_TIMEOUT_S:g} s"
        except PodiumError as error:
            return str(error)
        return ""

    def _state_changed(self, state: DataPlaneState) -> None:
        if state.problems != self._state.problems:
            for problem in state.problems:
                if problem not in self._state.problems:
                    logger.warning("data plane: %s", problem.text)
        self._state = state
        self._metrics.traffic(state.connections, state.requests)
        self._metrics.waiting(state.parked, state.refused)
        self._news.set()

    def _known(self) -> tuple[Service, ...]:
        return tuple(self._services[key] for key in sorted(self._services))
