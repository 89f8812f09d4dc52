"""The nodes' last reports of what tasks use and proxies carry, and what they mean for one job. Keeps no clock.

CPU is averaged over the window, so that a moment's peak moves nothing; requests are counted between the oldest and the
newest report of the window. Agents that share one proxy have one address and tell the same counts: they count once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise

import msgspec

from common.model.job import DesiredState, Job
from common.model.node import Node, NodeCondition, NodeStatus
from common.model.session import ServiceTraffic, TaskUsage, UsageReport
from common.model.task import Task
from controller.core.load import TaskLoad, Traffic
from controller.core.slots import good
from controller.state import State

REPORTS_KEPT = 64
"""Of a node: the window in the shortest period that may be set."""


class _Kept(msgspec.Struct, frozen=True):
    at_s: float
    interval_s: float
    tasks: Mapping[str, TaskUsage]
    traffic: Mapping[str, ServiceTraffic]


class AllTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """Of every job at one moment."""

    jobs: Mapping[str, Traffic]
    """By name, of those that have had any."""
    missing: str = ""

    def of(self, job: Job) -> Traffic:
        return self.jobs.get(job.full_name) or Traffic(missing=self.missing)


class LoadBook:
    """See the module. Times are of one clock that never runs back; `window_s` is what is averaged over, and a report
    older than `fresh_s` says nothing about now."""

    def __init__(self, *, window_s: float, fresh_s: float) -> None:
        self._window_s = window_s
        self._fresh_s = fresh_s
        self._nodes: dict[str, deque[_Kept]] = {}

    def take(self, node_id: str, report: UsageReport, at_s: float) -> None:
        kept = self._nodes.setdefault(node_id, deque(maxlen=REPORTS_KEPT))
        kept.append(
            _Kept(
                at_s,
                report.interval_s,
                {usage.task_id: usage for usage in report.tasks},
                {traffic.job: traffic for traffic in report.traffic},
            )
        )
        while len(kept) > 2 and kept[1].at_s <= at_s - self._window_s:  # the one before begins the window
            kept.popleft()

    def keep_only(self, node_ids: Iterable[str]) -> None:
        """Forget the other nodes."""
        wanted = set(node_ids)
        for node_id in [known for known in self._nodes if known not in wanted]:
            del self._nodes[node_id]

    # --- tasks

    def tasks(
        self, state: State, job: Job, conditions: Mapping[str, NodeCondition], now_s: float, steady_s: float
    ) -> dict[int, TaskLoad]:
        """Of the job's tasks that are well, by slot; of two in one slot the newer one."""
        found: dict[int, TaskLoad] = {}
        tasks = sorted(state.tasks_of_job(job.id).values(), key=lambda task: task.created_at_s)
        for task in tasks:
            if task.desired is DesiredState.RUN and good(task, state.spec_of_task(task), conditions, now_s):
                load = self._task(task, steady_s)
                if load is not None:
                    found[task.slot] = load
        return found

    def _task(self, task: Task, steady_s: float) -> TaskLoad | None:
        kept = self._fresh(task.node_id, steady_s)
        if kept is None or task.id not in kept[-1].tasks:
            return None
        within = [one for one in kept if one.at_s > steady_s - self._window_s and one.interval_s > 0]
        spans = [(one.tasks[task.id].cpu_millis, one.interval_s) for one in within if task.id in one.tasks]
        whole_s = sum(interval_s for _, interval_s in spans)
        if not whole_s:
            return None  # a first reading, which knows no CPU yet
        cpu = sum(cpu_millis * interval_s for cpu_millis, interval_s in spans) / whole_s
        return TaskLoad(cpu_millis=cpu, memory_bytes=kept[-1].tasks[task.id].memory_bytes)

    # --- traffic

    def traffic(self, nodes: Iterable[Node], conditions: Mapping[str, NodeCondition], steady_s: float) -> AllTraffic:
        """What the proxies of these nodes have had; what a node that is down still carries nobody can know."""
        by_address: dict[str, list[Node]] = {}
        for node in nodes:
            condition = conditions.get(node.id)
            if condition is None or condition.status is not NodeStatus.DOWN:
                by_address.setdefault(node.description.address or node.id, []).append(node)
        silent: list[str] = []
        per_second: dict[str, float] = {}
        still_open: dict[str, int] = {}
        for sharing in by_address.values():
            series = self._longest(sharing, steady_s)
            if series is None:
                silent.append(sharing[0].name)
                continue
            for name, one in series[-1].traffic.items():
                per_second[name] = per_second.get(name, 0.0) + _rate(series, name)
                still_open[name] = still_open.get(name, 0) + one.open
        missing = _missing(silent)
        jobs = {
            name: Traffic(per_second=per_second[name], open=still_open[name], missing=missing) for name in per_second
        }
        return AllTraffic(jobs=jobs, missing=missing)

    def _longest(self, sharing: Iterable[Node], steady_s: float) -> list[_Kept] | None:
        found = [list(kept) for node in sharing if (kept := self._fresh(node.id, steady_s)) is not None]
        longest = max(found, key=len, default=None)
        return longest if longest is not None and len(longest) > 1 else None

    def _fresh(self, node_id: str, steady_s: float) -> deque[_Kept] | None:
        kept = self._nodes.get(node_id)
        return kept if kept and kept[-1].at_s >= steady_s - self._fresh_s else None


def _rate(series: list[_Kept], name: str) -> float:
    """Connections per second; a count that falls is of a proxy that began anew."""
    counts = [one.traffic[name].connections if name in one.traffic else 0 for one in series]
    risen = sum(after - before if after >= before else after for before, after in pairwise(counts))
    return risen / max(series[-1].at_s - series[0].at_s, 0.001)


def _missing(silent: list[str]) -> str:
    if not silent:
        return ""
    more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
    return f"node {silent[0]}{more} has not told what its proxy carries"
