"""Values with good defaults: a test names only what it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from common.constraints import parse_constraint
from common.model.api import JobStatus, JobView, TaskView
from common.model.job import (
    Affinity,
    Constraint,
    Container,
    Job,
    JobMode,
    JobSpec,
    JobVersion,
    Placement,
    Port,
    PublishMode,
    Strategy,
    TaskSpec,
)
from common.model.node import Availability, Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from common.model.task import Attempt, Health, Task, TaskState, TaskStatus

MIB = 1024 * 1024
GIB = 1024 * MIB


def resources(cpu: float = 0, memory_bytes: int = 0) -> Resources:
    """`cpu` in cores."""
    return Resources(cpu_millis=round(cpu * 1000), memory_bytes=memory_bytes)


def node(
    name: str = "n1",
    *,
    cpu: float = 4,
    memory_bytes: int = 8 * GIB,
    labels: Mapping[str, str] | None = None,
    attributes: Mapping[str, str] | None = None,
    availability: Availability = Availability.ACTIVE,
    runtimes: Sequence[str] = ("docker", "process"),
    address: str = "127.0.0.1",
) -> Node:
    """A node whose id is `id-` and its name."""
    description = NodeDescription(
        id=f"id-{name}",
        name=name,
        address=address,
        labels=dict(labels or {}),
        attributes={"os": "linux", "arch": "amd64", **(attributes or {})},
        capacity=resources(cpu, memory_bytes),
        runtimes=tuple(RuntimeStatus(name=runtime) for runtime in runtimes),
    )
    return Node(id=description.id, description=description, availability=availability)


def condition(
    of: Node, status: NodeStatus = NodeStatus.READY, *, runtimes: Sequence[RuntimeStatus] = ()
) -> NodeCondition:
    """What the leader knows of a node; its runtimes are those of its description unless given."""
    return NodeCondition(node_id=of.id, status=status, runtimes=tuple(runtimes) or of.description.runtimes)


def constraint(text: str) -> Constraint:
    """`node.labels.zone == eu`."""
    return parse_constraint(text)


def task_spec(
    *,
    image: str = "app:1",
    command: Sequence[str] = (),
    cpu: float = 0,
    memory_bytes: int = 0,
    constraints: Sequence[str] = (),
    spread: Sequence[str] = (),
    max_per_node: int = 0,
    strategy: Strategy = Strategy.CLUSTER,
    host_ports: Sequence[int] = (),
    affinities: Sequence[Affinity] = (),
) -> TaskSpec:
    return TaskSpec(
        container=Container(image=image, command=tuple(command)),
        ports=tuple(Port(container_port=port, published_port=port, mode=PublishMode.HOST) for port in host_ports),
        reservations=resources(cpu, memory_bytes),
        placement=Placement(
            constraints=tuple(constraint(text) for text in constraints),
            spread=tuple(spread),
            max_replicas_per_node=max_per_node,
            strategy=strategy,
            affinities=tuple(affinities),
        ),
    )


def job_spec(
    name: str = "shop/web", *, replicas: int = 1, mode: JobMode = JobMode.SERVICE, task: TaskSpec | None = None
) -> JobSpec:
    """`name` is `namespace/name`."""
    namespace, _, short = name.partition("/")
    return JobSpec(namespace=namespace, name=short, mode=mode, replicas=replicas, task=task or task_spec())


def job(spec: JobSpec | None = None, *, version: int = 1) -> tuple[Job, JobVersion]:
    """A job whose id is `job-` and its short name, and the version it is at."""
    spec = spec or job_spec()
    job_id = f"job-{spec.name}"
    record = Job(id=job_id, namespace=spec.namespace, name=spec.name, version=version, replicas=spec.replicas)
    record = replace(record, priority=spec.priority)
    return record, JobVersion(job_id=job_id, version=version, spec=spec)


def task(of: Job, slot: int = 1, *, node_id: str = "", state: TaskState = TaskState.RUNNING, suffix: str = "") -> Task:
    """A task whose id is made of its job's name, its slot and `suffix`; pending without a node."""
    return Task(
        id=f"{of.name}-{slot}{suffix}",
        job_id=of.id,
        namespace=of.namespace,
        job=of.name,
        version=of.version,
        slot=slot,
        node_id=node_id,
        status=TaskStatus(attempt=1, state=state, sequence=1) if node_id else TaskStatus(),
    )


# --- views, as the engineer's API answers them


def job_view(spec: JobSpec | None = None, status: JobStatus = JobStatus.RUNNING, **fields: Any) -> JobView:
    """A view of a job at version 1 (or `version=`), all of whose replicas are well unless said otherwise."""
    record, version = job(spec, version=fields.pop("version", 1))
    of_job = ("note", "paused", "created_at_s", "good_version")
    record = replace(
        record, **({"good_version": record.version} | {name: fields.pop(name) for name in of_job if name in fields})
    )
    desired = fields.pop("desired", record.replicas)
    defaults = {"desired": desired, "running": desired, "healthy": desired}
    return JobView(job=record, spec=version.spec, status=status, **(defaults | fields))


def task_view(of: Task, *, node: str = "n1", health: Health = Health.NONE, message: str = "") -> TaskView:
    return TaskView(task=of, state=of.state, health=health, node=node if of.node_id else "", message=message)


def attempt(of: Task, number: int = 1, **fields: Any) -> Attempt:
    """How one attempt of a task ended: with exit code 1 unless said otherwise."""
    return Attempt(task_id=of.id, number=number, node_id=of.node_id, version=of.version, **({"exit_code": 1} | fields))
