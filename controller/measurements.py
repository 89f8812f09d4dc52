"""What agents say their tasks use, and which jobs connections wait for: in the leader's memory, never in the store.

Whoever wants figures says so again and again; agents are asked through the acknowledgements of their heartbeats, and
nothing is measured when nobody has asked for a while. What is old is not shown. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from common.model.session import ServiceTraffic, TaskUsage, UsageReport

WANTED_S = 30.0
"""So long a question keeps measuring going: a program that asks every few seconds finds fresh answers."""
EVERY_S = 2.0
"""Between two reports of a node: what people can follow, and long enough to average CPU over."""
ReportObserver: TypeAlias = Callable[[str, UsageReport, float], None]
"""Told the node's id, its report, and when (`now_s`) it came."""

WantObserver: TypeAlias = Callable[[str], None]
"""Told the id of a node at which connections wait for a job."""

FRESH_S = 10.0
"""A figure this old says nothing about now: its task has ended, or its node is silent."""


class Measured(msgspec.Struct, frozen=True):
    """One task's figures, and when (`now_s`) they came."""

    usage: TaskUsage
    at_s: float


class NodeMeasurement(msgspec.Struct, frozen=True):
    """A node's last report."""

    tasks: Mapping[str, Measured]
    """By task id."""
    traffic: tuple[ServiceTraffic, ...]
    at_s: float


class Measurements:
    """See the module. `now_s` is a clock that never runs back."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._wanted_until_s = 0.0
        self._nodes: dict[str, NodeMeasurement] = {}
        self.nodes: Mapping[str, NodeMeasurement] = MappingProxyType(self._nodes)
        """By node id: the last reports, fresh or not."""
        self._steadily: Mapping[str, float] = {}
        self._waited_for: dict[str, tuple[str, ...]] = {}
        self.waited_for: Mapping[str, tuple[str, ...]] = MappingProxyType(self._waited_for)
        """By node id: the jobs without an endpoint that connections there wait for."""
        self.reported: ReportObserver = lambda _node_id, _report, _at_s: None
        self.wanted: WantObserver = lambda _node_id: None

    def want(self) -> None:
        """Somebody wants to know what tasks use."""
        self._wanted_until_s = self._now_s() + WANTED_S

    def want_steadily(self, every_s: Mapping[str, float]) -> None:
        """From these nodes, by id, so often, whoever else wants to know; in place of what was wanted so before."""
        self._steadily = every_s

    def every_s(self, node_id: str) -> float:
        """How often an agent is asked to report; 0 while nobody wants it."""
        steadily_s = self._steadily.get(node_id, 0.0)
        if self._now_s() < self._wanted_until_s:
            return min(EVERY_S, steadily_s or EVERY_S)
        if not steadily_s:
            self._nodes.pop(node_id, None)
        return steadily_s

    def report(self, node_id: str, report: UsageReport) -> None:
        """A node's figures came. They replace what it said before."""
        now_s = self._now_s()
        tasks = {usage.task_id: Measured(usage, now_s) for usage in report.tasks}
        self._nodes[node_id] = NodeMeasurement(tasks, report.traffic, now_s)
        self.reported(node_id, report, now_s)

    def waits(self, node_id: str, jobs: tuple[str, ...]) -> None:
        """Connections at a node wait for these jobs, `namespace/name`, and for no others."""
        if jobs:
            self._waited_for[node_id] = jobs
            self.wanted(node_id)
        else:
            self._waited_for.pop(node_id, None)

    def forget(self, node_id: str) -> None:
        """The node is connected no more."""
        self._nodes.pop(node_id, None)
        self._waited_for.pop(node_id, None)

    def fresh(self, node_id: str) -> NodeMeasurement | None:
        """The node's last report, unless it is too old to mean anything."""
        found = self._nodes.get(node_id)
        return found if found is not None and self.age_s(found.at_s) <= FRESH_S else None

    def age_s(self, at_s: float) -> float:
        return self._now_s() - at_s
