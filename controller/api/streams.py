"""How much each caller has open: a bound, so that one who opens without end takes nobody else's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Conflict, PodiumError


class Held:
    """`limit` counts for each caller alone, `total` for all of them together."""

    def __init__(self, limit: int, what: str, *, total: int | None = None, error: type[PodiumError] = Conflict) -> None:
        """`what` says in a refusal what there are too many of; `error` is what is raised then."""
        self._limit = limit
        self._what = what
        self._total = total
        self._error = error
        self._open: dict[str, int] = {}
        self.count = 0

    @contextmanager
    def held(self, caller: str) -> Iterator[None]:
        """One more of this caller, while the context lasts. Raises `Conflict`, or what else was said, when there are
        too many."""
        count = self._open.get(caller, 0)
        if count >= self._limit:
            raise self._error(f"{caller} has {count} {self._what}")
        if self._total is not None and self.count >= self._total:
            raise self._error(f"there are {self.count} {self._what}")
        self._open[caller] = count + 1
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            left = self._open[caller] - 1
            if left:
                self._open[caller] = left
            else:
                del self._open[caller]
