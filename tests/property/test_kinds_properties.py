"""For all kinds of jobs: looking only at what something happened to leaves nothing that a look at everything would
change; and when calm returns, each is as its kind should be."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.model.api import JobsRequest, JobStatus, ScaleRequest, ScaleTarget
from common.model.job import (
    BatchPolicy,
    Constraint,
    ConstraintOperator,
    Dependency,
    DesiredState,
    JobMode,
    JobSpec,
    Placement,
    RestartCondition,
    RestartPolicy,
)
from common.model.node import Availability, Node, NodeCondition, NodeStatus
from common.model.task import Task, TaskState
from controller.core.apply import restart, scale, stop
from controller.core.concern import Concerns
from controller.core.pending import requests_for
from controller.core.reconcile import reconcile
from controller.core.views import job_view
from controller.spans import Spans
from controller.state import Applied, Change, Erase, State, Write
from tests.world import NODES, World, web, with_task

ZONE = Placement(
    constraints=(Constraint(attribute="node.labels.zone", operator=ConstraintOperator.NOT_EQUAL, value="off"),)
)
ONCE = RestartPolicy(condition=RestartCondition.ON_FAILURE)
JOBS: tuple[JobSpec, ...] = (
    web(),
    with_task(web(name="agent", replicas=1, mode=JobMode.DAEMON), placement=ZONE),
    with_task(
        web(
            name="batch", replicas=4, mode=JobMode.BATCH, batch=BatchPolicy(parallelism=2, attempts=2, deadline_s=60.0)
        ),
        restart=ONCE,
    ),
    with_task(web(name="each", replicas=1, mode=JobMode.DAEMON_BATCH), restart=ONCE, placement=ZONE),
    web(name="gang", replicas=3, gang=True),
    with_task(web(name="mpi", replicas=2, gang=True, mode=JobMode.BATCH, batch=BatchPolicy(attempts=3)), restart=ONCE),
    web(name="api", replicas=2, depends_on=(Dependency(job="web"), Dependency(job="none", optional=True))),
)
NAMES = tuple(spec.name for spec in JOBS)

happening = st.tuples(
    st.sampled_from(
        [
            *("scale", "update", "restart", "stop", "up", "down", "back", "silent", "fail", "complete", "act", "act"),
            *("drain", "cordon", "uncordon", "join", "leave", "label", "wait"),
        ]
    ),
    st.integers(min_value=0, max_value=11),
)


class Marking(State):
    """Keeps what changed, as the ledger tells it to the convergence loop after each commit."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: list[Applied] = []

    def apply(self, change: Change) -> Applied:
        self.changed.append(super().apply(change))
        return self.changed[-1]


class Cluster(World):
    """Some jobs of every kind, reconciled only as far as something happened to them or their time has come."""

    def __init__(self, *specs: JobSpec) -> None:
        super().__init__()
        self.marking = Marking.of(self.state.records())
        assert isinstance(self.marking, Marking)
        self.state = self.marking
        self.concerns = Concerns(self.marking)
        self.marked: dict[str, None] = {}
        self.wakes: dict[str, float] = {}
        self.up(*specs)

    def node(self, name: str, status: NodeStatus) -> None:
        before = self.conditions.get(name)
        super().node(name, status)
        self.marked.update(dict.fromkeys(self.concerns.of_condition(before, self.conditions[name])))

    def mark(self) -> None:
        for applied in self.marking.changed:
            self.marked.update(dict.fromkeys(self.concerns.of_change(applied)))
        self.marking.changed.clear()

    def converge(self) -> None:
        """Until nothing is marked and nothing is due."""
        for _ in range(200):
            self.mark()
            due = {job_id for job_id, at_s in self.wakes.items() if at_s <= self.now_s} | self.marked.keys()
            if not due:
                return
            for job_id in sorted(due):
                self.marked.pop(job_id, None)
                self.wakes.pop(job_id, None)
                job = self.state.jobs.get(job_id)
                if job is None:
                    continue
                found = reconcile(self.state, job, self.conditions, self.now_s, self.rng)
                self.wakes[job_id] = found.wake_at_s
                for change in [change for group in found.groups for change in group]:
                    self.state.apply(change)
        raise AssertionError("it does not come to rest")

    def overlooked(self) -> list[object]:
        """What a look at everything would decide now."""
        looks = (reconcile(self.state, job, self.conditions, self.now_s, self.rng) for job in self.state.jobs.values())
        return [decision for look in looks for decision in look.decisions]

    def happen(self, kind: str, number: int) -> None:  # noqa: C901 - one short case for each thing
        name, node = NAMES[number % len(NAMES)], NODES[number % len(NODES)]
        job = self.state.job_named("shop", name)
        there = [task for task in self.state.tasks.values() if task.node_id and not task.ended]
        match kind:
            case "scale" if job is not None and not self.state.spec_of(job).mode.per_node:
                targets = (ScaleTarget(job=name, replicas=number % 5),)
                self.write(scale(self.state, ScaleRequest(namespace="shop", targets=targets), self.now_s))
            case "update":
                spec = JOBS[number % len(JOBS)]
                spec = with_task(spec, container=msgspec.structs.replace(spec.task.container, image=f"app:{number}"))
                self.up(spec)
            case "up":
                self.up(JOBS[number % len(JOBS)])
            case "restart":
                self.write(restart(self.state, JobsRequest(namespace="shop", jobs=(name,)), self.now_s))
            case "stop":
                self.write(stop(self.state, JobsRequest(namespace="shop", jobs=(name,))))
            case "down" | "back" | "silent" if node in self.state.nodes:
                status = {"down": NodeStatus.DOWN, "back": NodeStatus.READY, "silent": NodeStatus.UNREACHABLE}[kind]
                self.node(node, status)
            case "drain" | "cordon" | "uncordon" if node in self.state.nodes:
                wanted = {"drain": Availability.DRAINING, "cordon": Availability.CORDONED}
                self.availability(node, wanted.get(kind, Availability.ACTIVE))
            case "join" if node not in self.state.nodes:
                self.join(node)
            case "leave" if node in self.state.nodes and len(self.state.nodes) > 1:
                self.state.apply(Erase(self.state.nodes[node]))
                self.conditions.pop(node)
            case "label" if node in self.state.nodes:
                self.label(node, zone="off" if number % 2 else "on")
            case "fail" if there:
                self.see(there[number % len(there)], TaskState.FAILED, attempt=9, message="exit 1")
            case "complete":
                for task in [task for task in there if self.state.spec_of_task(task).mode.ends][: number % 3]:
                    self.see(task, TaskState.COMPLETE)
            case "act":
                self.act(number)
            case _:
                self.now_s += number

    def join(self, name: str) -> None:
        template = World().state.nodes[name]
        self.state.apply(Write(template))
        self.node(name, NodeStatus.READY)

    def label(self, name: str, **labels: str) -> None:
        node = self.state.nodes[name]
        description = msgspec.structs.replace(node.description, labels=labels)
        self.state.apply(Write(msgspec.structs.replace(node, description=description)))

    def calm(self) -> None:
        """Faults stop: every node is there and every agent does what it is told."""
        for name in NODES:
            if name not in self.state.nodes:
                self.join(name)
            self.node(name, NodeStatus.READY)
            self.availability(name, Availability.ACTIVE)
        self.now_s += 1_000
        self.settle()

    def act(self, number: int) -> None:
        """Place what waits, and let one agent do one thing."""
        open_nodes = sorted(node.id for node in self.state.nodes.values() if _open(node, self.conditions.get(node.id)))
        pending = [task.id for task in self.state.tasks.values() if not task.node_id]
        for request in requests_for(self.state, pending):
            place = request.only or (open_nodes[number % len(open_nodes)] if open_nodes else "")
            for task_id in request.task_ids if place in open_nodes else ():
                self.assign(self.state.tasks[task_id], place)
        moving = [task for task in self.state.tasks.values() if task.node_id and not task.ended]
        for task in moving[number % (len(moving) or 1) :][:3]:
            if task.desired is DesiredState.STOP:
                self.see(task, TaskState.STOPPED)
            elif task.status.state is not TaskState.RUNNING:
                self.see(task, TaskState.RUNNING)


def _open(node: Node, condition: NodeCondition | None) -> bool:
    return node.availability is Availability.ACTIVE and condition is not None and condition.status is NodeStatus.READY


@settings(max_examples=150, deadline=None)
@given(st.lists(happening, max_size=40))
def test_looking_at_what_changed_leaves_nothing_that_a_look_at_everything_would_change(
    events: list[tuple[str, int]],
) -> None:
    cluster = Cluster(*JOBS)
    for kind, number in events:
        cluster.happen(kind, number)
        cluster.converge()
        assert cluster.overlooked() == []


@settings(max_examples=100, deadline=None)
@given(st.lists(happening, max_size=40))
def test_of_a_job_that_ends_no_more_run_than_may_and_each_slot_counts_once(events: list[tuple[str, int]]) -> None:
    cluster = Cluster(*JOBS)
    for kind, number in events:
        cluster.happen(kind, number)
        cluster.converge()
        job = cluster.state.job_named("shop", "batch")
        assert job is not None
        live = {task.slot for task in cluster.tasks("batch") if task.version == job.version and not task.lost_at_s}
        assert len([slot for slot in live if slot <= job.replicas]) <= 2
        assert not set(Spans.of(job.progress.succeeded)) & set(Spans.of(job.progress.failed))
    cluster.calm()
    view = job_view(cluster.state, cluster.job("batch"), cluster.conditions, cluster.now_s)
    if cluster.job("batch").desired is DesiredState.RUN:
        assert view.status in (JobStatus.COMPLETE, JobStatus.FAILED)
        assert view.succeeded + view.failed == view.desired or cluster.job("batch").progress.expired_at_s
    assert cluster.tasks("batch") == []


@settings(max_examples=150, deadline=None)
@given(st.lists(happening, max_size=40))
def test_a_gang_is_never_partly_placed_and_starts_only_when_nothing_of_it_is_left(
    events: list[tuple[str, int]],
) -> None:
    cluster = Cluster(*JOBS)
    for kind, number in events:
        cluster.happen(kind, number)
        cluster.converge()
        for name in ("gang", "mpi"):
            job = cluster.state.job_named("shop", name)
            assert job is not None
            tasks = cluster.tasks(name, live=False)
            placed = {
                (task.version, task.slot)
                for task in tasks
                if task.node_id and task.desired is DesiredState.RUN and not task.lost_at_s and _member(task)
            }
            counted = set(Spans.of(job.progress.succeeded)) | set(Spans.of(job.progress.failed))
            versions = {version for version, _ in placed}
            whole = {slot for _, slot in placed} == set(range(1, job.replicas + 1))
            assert not placed or counted or (whole and len(versions) == 1), (name, placed)
    cluster.calm()
    job = cluster.job("gang")
    expected = job.replicas if job.desired is DesiredState.RUN else 0
    assert [task.slot for task in cluster.tasks("gang")] == list(range(1, expected + 1))


def _member(task: Task) -> bool:
    return not task.ended or task.status.state is TaskState.COMPLETE


@settings(max_examples=100, deadline=None)
@given(st.lists(happening, max_size=40))
def test_when_calm_returns_a_global_job_has_one_task_on_each_node_that_fits(events: list[tuple[str, int]]) -> None:
    cluster = Cluster(*JOBS)
    for kind, number in events:
        cluster.happen(kind, number)
        cluster.converge()
    cluster.calm()
    job = cluster.job("agent")
    zones = {node.id: node.description.labels.get("zone") for node in cluster.state.nodes.values()}
    expected = sorted(name for name in NODES if zones[name] != "off") if job.desired is DesiredState.RUN else []
    assert sorted(task.node_id for task in cluster.tasks("agent")) == expected
    assert {task.version for task in cluster.tasks("agent")} <= {job.version}
