"""Requests and answers of the engineer's API (services Jobs, Nodes and Cluster)."""

from __future__ import annotations

import enum

import msgspec

from common.model.device import DeviceGrant
from common.model.epoch import Epoch
from common.model.event import Event
from common.model.job import Job, JobSpec
from common.model.node import Availability, Node, NodeCondition
from common.model.resources import Resources
from common.model.session import LogLine
from common.model.task import Health, Slot, Task, TaskState
from common.model.verdict import Verdict


class JobStatus(enum.Enum):
    RUNNING = "running"
    PROGRESSING = "progressing"
    DEGRADED = "degraded"
    """Fewer healthy tasks than desired, and nothing under way would mend it by itself soon."""
    FAILED = "failed"
    COMPLETE = "complete"
    STOPPED = "stopped"


# --- what one reads


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a job with a schedule."""

    name: str
    due_s: float
    status: JobStatus
    message: str = ""


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """When a job with a schedule runs next, and what became of its runs."""

    next_s: float = 0.0
    """0: not while it is stopped."""
    runs: tuple[RunView, ...] = ()
    """Those that are kept, newest first."""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    job: Job
    spec: JobSpec
    """Of `job.version`."""
    status: JobStatus
    desired: int
    running: int
    healthy: int
    message: str = ""
    """Why it is not simply running; empty when it is."""
    succeeded: int = 0
    failed: int = 0
    """Of a job whose tasks end: slots that are through, well or badly."""
    schedule: ScheduleView | None = None
    """Of a job with a schedule."""
    rollout: str = ""
    """Where its rollout stands and what it waits for, for people; empty when none is under way and the last went
    well."""
    rollout_steps: tuple[str, ...] = ()
    """What the strategy of the rollout does, step by step, for people; empty when none is under way."""
    autoscale: str = ""
    """Between which numbers it is scaled, by what, and what it does now, for people."""


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as people are shown it: `state` and `health` include what only the leader knows (lost, unknown)."""

    task: Task
    state: TaskState
    health: Health
    node: str = ""
    """Name of its node; empty while pending."""
    message: str = ""

    @property
    def order(self) -> tuple[int, float, str]:
        """Among the tasks of its job: by slot, then by age."""
        return self.task.slot, self.task.created_at_s, self.task.id


class DeviceHolder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a unit of a node, or a share of it."""

    grant: DeviceGrant
    task_id: str
    job: str
    """`namespace/name`."""
    slot: int


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    node: Node
    condition: NodeCondition
    reserved: Resources = Resources()
    tasks: int = 0
    """Tasks that are meant to run there."""
    device_holders: tuple[DeviceHolder, ...] = ()
    """Only of a single node that was inspected: lists are long."""


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    leader: str
    epoch: Epoch
    controllers: tuple[str, ...] = ()
    store: str = ""
    """Kind and place, e.g. `sqlite`; without credentials."""
    timers: dict[str, float] = {}
    """Seconds by name."""
    nodes: dict[str, int] = {}
    """Number of nodes by status."""
    brake: bool = False
    survives_loss_of_any_node: bool = False
    version: str = ""
    brake_reason: str = ""
    """Why replacement stands still; empty while it goes on."""
    store_health: str = ""
    """What its last answer was, for people."""
    detection: str = ""
    """How long what takes after a node or the leader falls silent, for people."""
    strays: int = 0
    """Tasks that nodes run and a restored state does not know."""
    losses: tuple[Loss, ...] = ()
    """Nodes whose loss could not be absorbed: the first few."""
    suggested_moves: tuple[PlannedMove, ...] = ()
    """That would make the cluster more even: `podium rebalance`."""
    rebalances: str = ""
    """What becomes of them, for people; empty where nothing is suggested."""


class JobDetail(msgspec.Struct, frozen=True, kw_only=True):
    view: JobView
    tasks: tuple[TaskView, ...] = ()
    slots: tuple[Slot, ...] = ()


class TaskDetail(msgspec.Struct, frozen=True, kw_only=True):
    view: TaskView
    spec: JobSpec
    slot: Slot


# --- what one asks


class JobRef(msgspec.Struct, frozen=True, kw_only=True):
    """One job by name within a namespace, or by id (a unique prefix is enough)."""

    namespace: str
    name: str


class ListJobs(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str = ""
    """Empty: all."""


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    jobs: tuple[JobView, ...] = ()


class ListTasks(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str = ""
    job: str = ""
    include_ended: bool = False


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    tasks: tuple[TaskView, ...] = ()
    slots: tuple[Slot, ...] = ()
    """Of the jobs listed, when `include_ended`: their ended attempts."""


class TaskRef(msgspec.Struct, frozen=True, kw_only=True):
    """One task by id (a unique prefix is enough) or as `job.slot` within a namespace."""

    namespace: str
    name: str


class WhyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is a job or a task, as in `JobRef` and `TaskRef`."""

    namespace: str
    name: str


class ListNodes(msgspec.Struct, frozen=True, kw_only=True):
    pass


class NodeList(msgspec.Struct, frozen=True, kw_only=True):
    nodes: tuple[NodeView, ...] = ()


class NodeRef(msgspec.Struct, frozen=True, kw_only=True):
    """One node by name or id (a unique prefix of the id is enough)."""

    name: str


class NodesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes by name or id (a unique prefix of the id is enough)."""

    nodes: tuple[str, ...]
    idempotency_key: str = ""


class RemoveNodesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Remove nodes for good; as in `NodesRequest`."""

    nodes: tuple[str, ...]
    force: bool = False
    """Also those that have tasks: they are replaced elsewhere."""
    idempotency_key: str = ""


class LeftTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task on a node that is being drained."""

    job: str
    """`namespace/name`."""
    slot: int
    task_id: str
    stuck: bool = False
    """Waiting alone will not help: no other node can take it."""
    text: str = ""
    """What its leaving waits for."""


class DrainedNode(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    node_id: str
    availability: Availability
    left: tuple[LeftTask, ...] = ()


class DrainView(msgspec.Struct, frozen=True, kw_only=True):
    """How far the emptying of nodes has come."""

    nodes: tuple[DrainedNode, ...] = ()


class ClusterRequest(msgspec.Struct, frozen=True, kw_only=True):
    quick: bool = False
    """Leave out what takes a large cluster some seconds: whether it survives the loss of any node."""


class EventsRequest(msgspec.Struct, frozen=True, kw_only=True):
    since_s: float = 0.0
    follow: bool = False
    namespace: str = ""
    """Empty: all, also those of nodes and the cluster."""


class EventBatch(msgspec.Struct, frozen=True, kw_only=True):
    events: tuple[Event, ...]


class WatchJobs(msgspec.Struct, frozen=True, kw_only=True):
    """Follow jobs of one namespace: them whole, then what changes about them (changes within a moment come as one)."""

    namespace: str
    jobs: tuple[str, ...] = ()
    """Empty: all of the namespace."""


class JobDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job since it was last told of. Tasks and slots are whole, and only those that look different."""

    view: JobView
    tasks: tuple[TaskView, ...] = ()
    gone: tuple[str, ...] = ()
    """Ids of tasks that are no more."""
    slots: tuple[Slot, ...] = ()


class WatchedJobs(msgspec.Struct, frozen=True, kw_only=True):
    jobs: tuple[JobDetail, ...] = ()
    """Jobs that were not told of yet, and the last word on one that was removed."""
    deltas: tuple[JobDelta, ...] = ()
    """Of jobs that were told of before."""
    more: bool = False
    """The answer goes on with the next message."""


class LogsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Logs of a task, or of all tasks of a job, ended ones included while their node keeps them."""

    namespace: str
    name: str
    tail: int = -1
    since_s: float = 0.0
    follow: bool = False


class LogLines(msgspec.Struct, frozen=True, kw_only=True):
    lines: tuple[LogLine, ...] = ()
    warnings: tuple[str, ...] = ()
    """Nodes that could not answer, lines that were dropped."""


# --- what one changes


class ApplyRequest(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    specs: tuple[JobSpec, ...]
    remove_orphans: bool = False
    """Remove jobs of the namespace that are not among `specs`."""
    idempotency_key: str = ""


class JobChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a write did (or would do) to one job."""

    job: str
    """`namespace/name`."""
    action: str
    """`create`, `update`, `scale`, `start`, `restart`, `stop`, `remove`, `rollback`, `pause`, `resume`, `promote` or
    `unchanged`."""
    version: int = 0
    text: str = ""
    """For people: what changes, from what to what."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of every write: acknowledged means it is in the store."""

    changes: tuple[JobChange, ...] = ()
    warnings: tuple[str, ...] = ()


class ScaleTarget(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    replicas: int


class ScaleRequest(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    targets: tuple[ScaleTarget, ...]
    idempotency_key: str = ""


class JobsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Restart, stop or remove these jobs, or pause, resume or promote their rollouts; all of the namespace when `jobs`
    is empty and `all_jobs` is set."""

    namespace: str
    jobs: tuple[str, ...] = ()
    all_jobs: bool = False
    idempotency_key: str = ""


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Make an earlier version of a job the wanted one."""

    namespace: str
    job: str
    version: int = 0
    """0: the last other one that every replica ran well."""
    idempotency_key: str = ""


class NodeChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a write did to one node."""

    node: str
    """Its name."""
    node_id: str
    action: str
    """`cordon`, `uncordon`, `drain`, `remove` or `unchanged`."""
    text: str = ""
    """For people."""


class NodeChanges(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of a write to nodes: acknowledged means it is in the store."""

    changes: tuple[NodeChange, ...] = ()


class ReleaseBrake(msgspec.Struct, frozen=True, kw_only=True):
    """Replace what the nodes run that are silent now, in spite of the brake."""

    idempotency_key: str = ""


class BrakeReleased(msgspec.Struct, frozen=True, kw_only=True):
    held: str = ""
    """Why replacement stood still; empty when it did not, and nothing was released."""
    nodes: tuple[str, ...] = ()
    """Names of the silent nodes that count as down from now on, unless they are heard before."""


class SetQuota(msgspec.Struct, frozen=True, kw_only=True):
    """Change limits of a namespace. Those that are named neither in `limits` nor in `lifted` stay as they are."""

    namespace: str
    limits: dict[str, int] = {}
    """By resource, as in `Quota`."""
    lifted: tuple[str, ...] = ()
    lift_all: bool = False
    """All that are there now, before `limits` are set."""
    idempotency_key: str = ""


class QuotaView(msgspec.Struct, frozen=True, kw_only=True):
    """What a namespace may have and what it asks for, both by resource."""

    namespace: str
    limits: dict[str, int] = {}
    used: dict[str, int] = {}
    warnings: tuple[str, ...] = ()
    """Limits that are exceeded already, for people."""


class ListQuotas(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str = ""
    """Empty: all that have one."""


class QuotaList(msgspec.Struct, frozen=True, kw_only=True):
    quotas: tuple[QuotaView, ...] = ()


class PlannedPlacement(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    slot: int
    node: str


class PlannedStop(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    slot: int
    task_id: str
    node: str
    reason: str


class Unplaced(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    slots: tuple[int, ...]
    verdict: Verdict


class PlanStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step in order; `healthy_at_least` is the lowest number of healthy replicas while it runs."""

    action: str
    subject: str
    text: str
    healthy_at_least: int = 0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    changes: tuple[JobChange, ...] = ()
    steps: tuple[PlanStep, ...] = ()
    placements: tuple[PlannedPlacement, ...] = ()
    stops: tuple[PlannedStop, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    before: dict[str, int] = {}
    """Tasks by node name that are meant to run."""
    after: dict[str, int] = {}
    notes: tuple[str, ...] = ()
    """What else there is to know: what was left out, and why."""


# --- what would be if


class AddedNodes(msgspec.Struct, frozen=True, kw_only=True):
    """Imagined nodes, alike and empty."""

    count: int = 1
    capacity: Resources


class WhatIfRequest(msgspec.Struct, frozen=True, kw_only=True):
    """All of it at once, in this order, on a copy of the state."""

    kill: tuple[str, ...] = ()
    """Nodes by name or id (a unique prefix of the id is enough)."""
    add: tuple[AddedNodes, ...] = ()
    scale: tuple[ScaleTarget, ...] = ()
    namespace: str = ""
    """Of the jobs to scale that are named without one."""
    apply: ApplyRequest | None = None


# --- balance


class RebalanceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Move tasks for a better balance."""

    moves: int = 0
    """At most so many; 0: as many as it takes, up to the limit of one order."""
    idempotency_key: str = ""


class MoveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Move tasks to a node, each only when its successor there is healthy."""

    namespace: str
    tasks: tuple[str, ...]
    """As in `TaskRef`."""
    node: str
    idempotency_key: str = ""


class PlannedMove(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    """`namespace/name`."""
    slot: int
    task_id: str
    node: str
    """Name of the node it is on."""
    to: str
    """Name of the node it is to move to."""
    text: str = ""
    """For people: what that makes better."""


class Moves(msgspec.Struct, frozen=True, kw_only=True):
    """What is to move: ordered, by whoever asked for it."""

    moves: tuple[PlannedMove, ...] = ()
    held: str = ""
    """Why nothing is moved now though something could be; empty otherwise."""
    notes: tuple[str, ...] = ()
    """What is left where it is, and why."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What would have no place if a node were lost."""

    node: str
    """Its name."""
    jobs: tuple[str, ...] = ()
    """`namespace/name` of those that would miss a task."""
    text: str = ""
    """For people: the first of them, and why."""
