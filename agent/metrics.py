"""What monitoring reads of an agent; names are promises of contract.md. Owns its registry: agents may share a process.

No task ids in labels: they would grow without end. Containers are labelled by namespace, job and slot under cAdvisor's
names, so that existing dashboards find them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from common.model.resources import Usage

START_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class ContainerUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One running container at one moment."""

    task_id: str
    namespace: str
    job: str
    slot: int
    usage: Usage


class Metrics:
    """See the module."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        Gauge("podium_build_info", "Which version runs", ["version"], registry=registry).labels(version).set(1)
        self._task_start = Histogram(
            "podium_task_start_seconds",
            "From a task's assignment to its first running container",
            buckets=START_BUCKETS_S,
            registry=registry,
        )
        self._restarts = Counter(
            "podium_task_restarts_total", "Attempts begun after a container ended", registry=registry
        )
        self._requests = Histogram(
            "podium_runtime_request_seconds",
            "Calls to container runtimes",
            ["op"],
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._connections = Counter(
            "podium_proxy_connections_total", "Connections accepted for a published job", ["service"], registry=registry
        )
        self._proxied = Counter(
            "podium_proxy_requests_total",
            "HTTP requests passed on to a job, where the proxy tells them apart",
            ["service"],
            registry=registry,
        )
        self._turned_away = Counter(
            "podium_proxy_refused_total",
            "Connections to a job that found no task in time, or one too many that waited",
            ["service"],
            registry=registry,
        )
        self._parked = Gauge(
            "podium_proxy_parked", "Connections to a job that wait for a task", ["service"], registry=registry
        )
        self._session = Gauge("podium_agent_connected", "Whether a controller has taken the node in", registry=registry)
        self._tasks = Gauge("podium_agent_tasks", "Tasks that have not ended", registry=registry)
        names = ["namespace", "job", "slot"]
        self._cpu = Counter("container_cpu_usage_seconds_total", "CPU time of a container", names, registry=registry)
        self._memory = Gauge("container_memory_usage_bytes", "Memory of a container", names, registry=registry)
        self._working_set = Gauge(
            "container_memory_working_set_bytes",
            "Memory of a container that cannot be taken back",
            names,
            registry=registry,
        )
        self._by_operation: dict[str, Histogram] = {}
        self._seen: dict[Counter, dict[str, int]] = {self._connections: {}, self._proxied: {}, self._turned_away: {}}
        self._labels_shown: dict[tuple[str, str, str], None] = {}

    def task_started(self, seconds: float) -> None:
        self._task_start.observe(max(0.0, seconds))

    def task_restarted(self) -> None:
        self._restarts.inc()

    def runtime_request(self, operation: str, seconds: float) -> None:
        observed = self._by_operation.get(operation)
        if observed is None:  # finding the one of a label costs as much as counting
            observed = self._by_operation[operation] = self._requests.labels(operation)
        observed.observe(seconds)

    def connected(self, connected: bool) -> None:
        self._session.set(connected)

    def tasks(self, count: Callable[[], int]) -> None:
        """How many there are is asked for when somebody reads it."""
        self._tasks.set_function(count)

    def traffic(self, connections: Mapping[str, int], requests: Mapping[str, int]) -> None:
        """Take over the data plane's counts by service; one that fell began anew with a restarted data plane."""
        self._count(self._connections, connections)
        self._count(self._proxied, requests)

    def waiting(self, parked: Mapping[str, int], refused: Mapping[str, int]) -> None:
        """Take over how many wait for each service, and how many were turned away so far."""
        for service, number in parked.items():
            self._parked.labels(service).set(number)
        self._count(self._turned_away, refused)

    def _count(self, counter: Counter, totals: Mapping[str, int]) -> None:
        seen = self._seen[counter]
        for service, total in totals.items():
            before = seen.get(service, 0)
            counter.labels(service).inc(total - before if total >= before else total)
        self._seen[counter] = dict(totals)

    def containers(self, usages: tuple[ContainerUsage, ...], elapsed_s: float) -> None:
        """Show these containers and no others. Their CPU is an average over the `elapsed_s` since the last reading."""
        shown: dict[tuple[str, str, str], None] = {}
        for seen in usages:
            labels = (seen.namespace, seen.job, str(seen.slot))
            shown[labels] = None
            self._cpu.labels(*labels).inc(seen.usage.cpu_millis / 1000 * elapsed_s)
            self._memory.labels(*labels).set(seen.usage.memory_bytes)
            self._working_set.labels(*labels).set(seen.usage.memory_bytes)
        for gone in self._labels_shown:
            if gone not in shown:
                for metric in (self._cpu, self._memory, self._working_set):
                    metric.remove(*gone)
        self._labels_shown = shown

    def text(self) -> bytes:
        """In Prometheus' exposition format."""
        return generate_latest(self.registry)
