"""What monitoring reads of a controller: one registry per controller, with the names that docs promise.

Counts what it is told and, when scraped, what the term's state says. Never the global registry: tests and `podium dev`
run several parts in one process.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from common.model.api import JobStatus
from common.model.job import Job, JobVersion
from common.model.node import NodeCondition, NodeStatus
from common.model.task import Slot, Task, TaskState
from controller.core.decisions import Decision, Fail, Lose
from controller.core.views import job_view
from controller.ledger import Committed
from controller.presence import Presence
from controller.state import State

MemberT = TypeVar("MemberT", NodeStatus, TaskState, JobStatus)

_SETTLED = frozenset({JobStatus.RUNNING, JobStatus.COMPLETE, JobStatus.STOPPED, JobStatus.FAILED})
"""Such a job's status does not change by the mere passing of time."""
_TASKS_PER_SCRAPE = 2_000
"""Looked at for the statuses of jobs that changed, about 10 ms; the others' are as of an earlier scrape."""
_COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WAKE_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SCHEDULE_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
_LATENESS_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


class Metrics:
    """The metrics of one controller; what belongs to a term is there while it leads (`follow`)."""

    def __init__(self, version: str, late_s: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._census: Census | None = None
        registry.register(_TermCollector(lambda: self._census))
        Info("podium_build", "Version of this controller.", registry=registry).info({"version": version})
        lag = Gauge("podium_loop_lag_seconds", "How late the event loop turned lately, at worst.", registry=registry)
        lag.set_function(late_s)
        self.leader = Gauge("podium_leader", "1 while this controller leads.", registry=registry)
        self.transitions = Counter("podium_leader_transitions", "Terms begun by this controller.", registry=registry)
        self.term = Gauge("podium_epoch_term", "Term of this controller's present or last lead.", registry=registry)
        self.heartbeats = Counter("podium_heartbeats", "Heartbeats received.", registry=registry)
        self.lateness = Histogram(
            "podium_heartbeat_lateness_seconds",
            "How much later than its period each heartbeat came.",
            buckets=_LATENESS_BUCKETS_S,
            registry=registry,
        )
        self.deferred = Counter(
            "podium_registrations_deferred", "Agents told to come back because too many came.", registry=registry
        )
        self.node_failures = Counter("podium_node_failures", "Nodes judged down.", registry=registry)
        self.replaced = Counter("podium_tasks_replaced", "Tasks given up, by reason.", ["reason"], registry=registry)
        self.placements = Counter("podium_placements", "Tasks placed on a node.", registry=registry)
        self.schedule = Histogram(
            "podium_schedule_seconds", "Time to choose nodes, per pass.", buckets=_SCHEDULE_BUCKETS_S, registry=registry
        )
        self.scalings = Counter(
            "podium_autoscale_changes", "Changes of jobs' numbers by their load.", ["direction"], registry=registry
        )
        self.woke = Histogram(
            "podium_wake_seconds",
            "From a waiting connection's call to a task that takes it.",
            buckets=_WAKE_BUCKETS_S,
            registry=registry,
        )
        self.commit = Histogram(
            "podium_store_commit_seconds",
            "Time until the store acknowledged a commit.",
            buckets=_COMMIT_BUCKETS_S,
            registry=registry,
        )
        self.commits = Counter("podium_store_commits", "Commits acknowledged.", registry=registry)
        self.operations = Counter("podium_store_operations", "Writes and deletions in them.", registry=registry)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def term_begins(self, term: int, census: Census) -> None:
        self.transitions.inc()
        self.leader.set(1)
        self.term.set(term)
        self._census = census

    def term_ends(self) -> None:
        self.leader.set(0)
        self._census = None

    # --- observers for the rooms that do the work

    def committed(self, seconds: float, operations: int) -> None:
        self.commit.observe(seconds)
        self.commits.inc()
        self.operations.inc(operations)

    def placed(self, tasks: int, seconds: float) -> None:
        self.placements.inc(tasks)
        self.schedule.observe(seconds)

    def decided(self, decision: Decision) -> None:
        match decision:
            case Lose():
                self.replaced.labels(reason="node-down").inc()
            case Fail(task=task):
                self.replaced.labels(reason=task.status.state.value).inc()
            case _:
                pass

    def scaled(self, before: int, after: int) -> None:
        self.scalings.labels(direction="up" if after > before else "down").inc()

    def heard(self, late_s: float) -> None:
        self.heartbeats.inc()
        self.lateness.observe(max(0.0, late_s))

    def node_failed(self, _node_id: str) -> None:
        self.node_failures.inc()


class Census:
    """Numbers of tasks and jobs by state, kept up to date by what changed; a scrape must not walk over every task."""

    def __init__(
        self,
        state: State,
        presence: Presence,
        *,
        clock: Callable[[], float],
        sessions: Callable[[], int],
        pending: Callable[[], int],
        survives: Callable[[], bool | None],
        tasks_per_scrape: int = _TASKS_PER_SCRAPE,
    ) -> None:
        self.survives = survives
        self._tasks_per_scrape = tasks_per_scrape
        self.presence = presence
        self.sessions = sessions
        self.pending = pending
        self._state = state
        self._clock = clock
        self._tasks: Tally[TaskState] = Tally(task.state for task in state.tasks.values())
        self._statuses: dict[str, JobStatus] = {}
        self._stale: dict[str, None] = dict.fromkeys(state.jobs)

    def committed(self, committed: Committed) -> None:
        """A subscriber of the ledger."""
        for applied in committed.applied:
            if isinstance(applied.before, Task):
                self._tasks[applied.before.state] -= 1
            if isinstance(applied.after, Task):
                self._tasks[applied.after.state] += 1
            match applied.after or applied.before:
                case Job(id=job_id) | JobVersion(job_id=job_id) | Task(job_id=job_id) | Slot(job_id=job_id):
                    self._stale[job_id] = None
                case _:
                    pass

    def condition_changed(self, _before: NodeCondition | None, after: NodeCondition) -> None:
        """A subscriber of the presence."""
        self._stale.update(dict.fromkeys(task.job_id for task in self._state.tasks_of_node(after.node_id).values()))

    def tasks(self) -> Tally[TaskState]:
        return self._tasks

    def nodes(self) -> Tally[NodeStatus]:
        return Tally(condition.status for condition in self.presence.conditions.values())

    def jobs(self) -> Tally[JobStatus]:
        room = self._tasks_per_scrape
        for job_id in tuple(self._stale):
            if room <= 0:
                break  # the rest has its turn next time
            del self._stale[job_id]
            job = self._state.jobs.get(job_id)
            if job is None:
                self._statuses.pop(job_id, None)
                continue
            room -= len(self._state.tasks_of_job(job_id))
            status = job_view(self._state, job, self.presence.conditions, self._clock()).status
            self._statuses[job_id] = status
            if status not in _SETTLED:
                self._stale[job_id] = None
        return Tally(self._statuses.values())


class _TermCollector(Collector):
    def __init__(self, census: Callable[[], Census | None]) -> None:
        self._census = census

    def collect(self) -> Iterator[GaugeMetricFamily]:
        census = self._census()
        if census is None:
            return
        yield _family("podium_nodes", "Nodes, by status.", "status", NodeStatus, census.nodes())
        yield _family("podium_tasks", "Tasks on record, by state.", "state", TaskState, census.tasks())
        yield _family("podium_jobs", "Jobs, by status.", "status", JobStatus, census.jobs())
        yield GaugeMetricFamily("podium_agent_sessions", "Connected agents.", value=census.sessions())
        yield GaugeMetricFamily("podium_pending_tasks", "Tasks that wait for a node.", value=census.pending())
        survives = census.survives()
        if survives is not None:
            text = "1 while the tasks of any one node would find room on the others."
            yield GaugeMetricFamily("podium_survives_loss_of_any_node", text, value=float(survives))
        brake = float(bool(census.presence.brake))
        yield GaugeMetricFamily("podium_brake", "1 while silent nodes are not replaced.", value=brake)


def _family(name: str, text: str, label: str, members: Iterable[MemberT], counts: Tally[MemberT]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for member in members:
        family.add_metric([member.value], counts[member])
    return family
