"""Watches the numbers of autoscaled jobs as they are committed, and holds what no load and no fault excuses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from common.model.job import DesiredState, Job
from tests.sim.record import Record

COMMIT_S = 6.0
"""What lies between a decision and its commit, at most: a leader that waits longer for the store steps down."""


class Scalings:
    """See the module."""

    def __init__(self, record: Record) -> None:
        self.away_since_s: Callable[[], float] = lambda: math.inf
        """When Prometheus ceased to answer; infinity while it does."""
        self.steps = 0
        """Changes of a number that the product decided."""
        self._record = record
        self._raised: dict[str, list[tuple[float, int]]] = {}
        """By job id: when its number rose, and to what."""

    def changed(self, before: Job, after: Job) -> None:
        autoscale = after.autoscale
        if autoscale is None:
            return
        if after.desired is DesiredState.RUN and not autoscale.least <= after.replicas <= autoscale.most:
            self._record.violated(
                f"I11: {after.name} has {after.replicas} replicas of {autoscale.least} to {autoscale.most}"
            )
        if after.replicas == before.replicas:
            return
        now_s = asyncio.get_running_loop().time()
        if after.write_key == before.write_key:  # nobody's order
            self.steps += 1
            self._check(before, after, now_s)
        if after.replicas > before.replicas:
            self._raised.setdefault(after.id, []).append((now_s, after.replicas))

    def _check(self, before: Job, after: Job, now_s: float) -> None:
        assert after.autoscale is not None
        text = f"{after.name} goes from {before.replicas} to {after.replicas} ({after.scaling.reason})"
        window_s = after.autoscale.down.stabilise_s - COMMIT_S
        flaps = [
            (at_s, to)
            for at_s, to in self._raised.get(after.id, ())
            if to > after.replicas and after.replicas < before.replicas and now_s - at_s < window_s
        ]
        if flaps:
            at_s, to = flaps[-1]
            self._record.violated(f"I11: it flaps: {text}, {now_s - at_s:.1f} s after it was raised to {to}")
        queried = after.autoscale.query is not None and not after.autoscale.cpu_percent
        if queried and now_s - self.away_since_s() > COMMIT_S:
            self._record.violated(f"I11: {text} although nobody has known its figure for a while")
