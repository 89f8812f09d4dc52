"""Fetches the certificates of the routes that this node serves, where they are secrets, and keeps them in memory.

Knows nothing of proxies: who serves the routes is handed what has come, and lays it down where it needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from agent.asset_requests import AssetAsker, ContentAway
from common.backoff import Backoff
from common.errors import Invalid
from common.model.asset import AssetKind
from common.model.endpoint import Service
from common.model.ids import Rng
from common.model.session import AssetRequest

logger = logging.getLogger(__name__)

AGAIN = Backoff(first_s=0.5, limit_s=10.0)
"""While no controller answers, or none will have it: a moment later the route may show another one."""


class RouteCertificates:
    """See the module. `changed` is called when more have come."""

    def __init__(self, asker: AssetAsker, changed: Callable[[], None], rng: Rng) -> None:
        self._asker = asker
        self._changed = changed
        self._rng = rng
        self._wanted: dict[str, AssetRequest] = {}
        """By digest."""
        self._contents: dict[str, bytes] = {}
        self._news = asyncio.Event()

    @property
    def contents(self) -> Mapping[str, bytes]:
        """What has come of those that are wanted, by digest."""
        return dict(self._contents)

    def want(self, services: Iterable[Service]) -> None:
        """These are served from now on; what none of them shows any more is forgotten."""
        wanted = {
            service.certificate: AssetRequest(
                task_id="",
                kind=AssetKind.SECRET,
                name=service.http.tls,
                digest=service.certificate,
                route=service.key,
            )
            for service in services
            if service.http is not None and service.certificate
        }
        if wanted != self._wanted:
            self._wanted = wanted
            self._contents = {digest: content for digest, content in self._contents.items() if digest in wanted}
            self._news.set()

    async def run(self) -> None:
        """Fetch what is wanted and not there, for as long as the agent lives."""
        failures = 0
        while True:
            self._news.clear()
            missing = [request for digest, request in self._wanted.items() if digest not in self._contents]
            came = [await self._fetch(request, again=failures > 0) for request in missing]
            if any(came):
                self._changed()
            failures = 0 if all(came) else failures + 1
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN.full_jitter_s(failures, self._rng) if failures else None):
                    await self._news.wait()

    async def _fetch(self, request: AssetRequest, *, again: bool) -> bool:
        """Whether it came, or is wanted no more."""
        try:
            content = await self._asker.fetch(request)
        except (ContentAway, Invalid) as error:
            level = logging.DEBUG if again else logging.WARNING
            logger.log(level, "route %s cannot show its certificate yet: %s", request.route, error)
            return request.digest not in self._wanted
        if request.digest in self._wanted:
            self._contents[request.digest] = content
        return True
