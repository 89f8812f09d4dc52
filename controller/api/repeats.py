"""Answers of recent writes by idempotency key, so that a repeated write is answered like the first and done once.

Of one term; across terms the records themselves tell a repeat (`Job.write_key`, and comparison by content).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import msgspec

from common.errors import Conflict

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)

KEPT = 1_024
"""Keys; a client repeats within seconds."""


class _Known:
    def __init__(self, request: msgspec.Struct, answering: asyncio.Future[msgspec.Struct]) -> None:
        self.request = request
        self.answering = answering


class Repeats:
    """See the module."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def once(self, key: str, request: msgspec.Struct, write: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """The answer of `write`, carried out once for all calls with this key. A failed one may be tried again.

        The write goes on when its caller goes away: whoever repeats it waits for the same answer. Raises `Conflict`
        when the key was used for another request.
        """
        if not key:
            return await write()
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(
                request, cast("asyncio.Future[msgspec.Struct]", asyncio.ensure_future(write()))
            )
            known.answering.add_done_callback(lambda answered: self._answered(key, answered))
        elif known.request != request:
            raise Conflict(f"the idempotency key {key!r} was used for another request; use a new one for each")
        self._known.move_to_end(key)
        # The same request under the same key is always of the same kind, and so is its answer.
        return cast("AnswerT", await asyncio.shield(known.answering))

    def _answered(self, key: str, answering: asyncio.Future[msgspec.Struct]) -> None:
        if answering.cancelled() or answering.exception() is not None:
            self._known.pop(key, None)
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
