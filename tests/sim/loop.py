"""The simulator's event loop: virtual time, and nothing that depends on where objects lie in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.virtual_time import VirtualLoop

ResultT = TypeVar("ResultT")


class _NumberedTask(asyncio.Task[ResultT]):
    """A task group cancels its tasks in the order of a set, which by default is that of their addresses in memory."""

    def __init__(self, coro: Coroutine[Any, Any, ResultT], *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class SimLoop(VirtualLoop):
    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)
        self.set_task_factory(self._new_task)

    def _new_task(
        self, _loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, ResultT], **options: Any
    ) -> asyncio.Task[ResultT]:
        return _NumberedTask(coro, number=next(self._numbers), loop=self, **options)
