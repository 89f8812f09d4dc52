"""Asks whoever leads for what is in the configs and secrets of a task, and in certificates of routes, across sessions:
an answer that did not come in one is asked for in the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from common.errors import Invalid, Unavailable
from common.model.session import AssetContent, AssetRequest

ANSWER_S = 5.0
"""As long as a failover takes; then the task says what it waits for, and asks again."""
AT_ONCE = 4
"""Answers are up to 1 MB each and share the session with heartbeats."""

Send = Callable[[AssetRequest], Awaitable[None]]


class ContentAway(Unavailable):
    """Nobody who could say what is in a config or secret has answered."""


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    request: AssetRequest
    answer: asyncio.Future[AssetContent]


class AssetAsker:
    """See the module."""

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._asked: dict[AssetRequest, _Asked] = {}
        self._new = asyncio.Event()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def fetch(self, request: AssetRequest) -> bytes:
        """Raises `ContentAway`, and `Invalid` when the controller refuses it for good."""
        what = f"{request.kind.value} {request.name}"
        try:
            async with asyncio.timeout(self._answer_s), self._room:
                answer = await self._answered(request)
        except TimeoutError:
            raise ContentAway(f"waits for {what}: no controller has answered") from None
        if answer.refusal and answer.later:
            raise ContentAway(f"waits for {what}: {answer.refusal}")
        if answer.refusal:
            raise Invalid(f"{what}: {answer.refusal}")
        return answer.content

    async def _answered(self, request: AssetRequest) -> AssetContent:
        asked = self._asked[request] = _Asked(request=request, answer=asyncio.get_running_loop().create_future())
        self._new.set()
        try:
            return await asked.answer
        finally:
            if self._asked.get(request) is asked:
                del self._asked[request]

    def take(self, content: AssetContent) -> None:
        """What a controller said. An answer that nobody waits for any more is dropped."""
        request = AssetRequest(
            task_id=content.task_id, kind=content.kind, name=content.name, digest=content.digest, route=content.route
        )
        asked = self._asked.get(request)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(content)

    async def run(self, send: Send) -> None:
        """Within one session: everything that waits, and what comes."""
        sent: set[_Asked] = set()
        while True:
            self._new.clear()
            for asked in tuple(self._asked.values()):
                if asked not in sent:
                    sent.add(asked)
                    await send(asked.request)
            sent &= set(self._asked.values())
            await self._new.wait()
