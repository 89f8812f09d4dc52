"""How many streams each caller has open: a bound, so that one who opens them without end takes nobody else's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Conflict


class OpenStreams:
    """`limit` counts for each caller alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}

    @contextmanager
    def held(self, caller: str) -> Iterator[None]:
        """One more stream of this caller, while the context lasts. Raises `Conflict` when it has too many."""
        count = self._open.get(caller, 0)
        if count >= self._limit:
            raise Conflict(f"{caller} has {count} streams open already (watch, logs, events, exec): close one first")
        self._open[caller] = count + 1
        try:
            yield
        finally:
            left = self._open[caller] - 1
            if left:
                self._open[caller] = left
            else:
                del self._open[caller]
