"""For how long an endpoint that failed connections is left out, whatever program carries the traffic. PURE."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

from common.backoff import Backoff

EJECTION = Backoff(first_s=0.25, limit_s=5.0)
"""Doubled with each failure in a row. A crashed task is back or withdrawn within seconds; trying it four times a second
costs nothing."""

FORGIVEN_S = 10.0
"""An endpoint that has not failed for so long after it was let in again begins anew."""

Key = TypeVar("Key", bound=Hashable)


class Ejections(Generic[Key]):
    """Who is left out, for a program that only counts failures."""

    def __init__(self) -> None:
        self._failures: dict[Key, int] = {}
        self._until_s: dict[Key, float] = {}

    @property
    def any(self) -> bool:
        """Whether anybody's time has to be watched."""
        return bool(self._until_s)

    def failed(self, key: Key, now_s: float) -> None:
        """It failed connections since it was last looked at; while it is left out that says nothing new."""
        if now_s >= self._until_s.get(key, 0.0):
            self._failures[key] = self._failures.get(key, 0) + 1
            self._until_s[key] = now_s + EJECTION.ceiling_s(self._failures[key])

    def left_out(self, among: Collection[Key], now_s: float) -> set[Key]:
        """Those of one service that are to get nothing now. Never all: who has nobody else to ask must go on asking."""
        for key in [key for key, until_s in self._until_s.items() if now_s >= until_s + FORGIVEN_S]:
            del self._failures[key], self._until_s[key]
        out = {key for key in among if now_s < self._until_s.get(key, 0.0)}
        return out if len(out) < len(among) else set()
