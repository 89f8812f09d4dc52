"""How a call begins: who asks is known before anything of its request is read, and for how long it may keep silent.

Every method is served as one whose requests are a stream, whatever it is for its caller: gRPC would read a single
request itself, before anybody was asked, and wait for it without end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext

from common.errors import Invalid, Unavailable
from controller.api.gate import Call, name_of
from controller.api.settings import ServerBounds
from controller.api.streams import Held
from controller.core.rights import Caller, Everybody, Nobody


class Openings:
    """The calls whose request has not come yet."""

    def __init__(self, bounds: ServerBounds) -> None:
        self._bounds = bounds
        said = "calls open that have not said what they ask for"
        self._callers = Held(bounds.unsaid_per_caller, said, error=Unavailable)
        self._strangers = Held(bounds.unsaid_per_address, said, total=bounds.unsaid_by_strangers, error=Unavailable)

    async def request(self, caller: Caller, call: Call, contents: AsyncIterator[bytes]) -> bytes:
        """The first request of a call. Raises `Unavailable` when too many have not said theirs, and `Invalid` for one
        that says nothing."""
        stranger = isinstance(caller, Nobody)
        within_s = self._bounds.request_of_strangers_s if stranger else self._bounds.request_s
        with self._place(caller, call):
            return await first_of(contents, within_s)

    def _place(self, caller: Caller, call: Call) -> AbstractContextManager[None]:
        """Where everybody may do everything, no share can be kept free for anybody."""
        match caller:
            case Everybody():
                return nullcontext()
            case Nobody():
                return self._strangers.held(address_of(call))
            case _:
                return self._callers.held(name_of(caller))


def address_of(call: Call) -> str:
    """Without its port."""
    return call.peer().rpartition(":")[0]


async def first_of(contents: AsyncIterator[bytes], within_s: float) -> bytes:
    """Raises `Invalid` for a call that says nothing: it is not to be kept."""
    try:
        async with asyncio.timeout(within_s):
            return await anext(contents)
    except TimeoutError:
        raise Invalid(f"the call said nothing for {within_s:g} s") from None
    except StopAsyncIteration:
        raise Invalid("the call ended before it said anything") from None
