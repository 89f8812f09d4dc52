"""What an engineer asks for: a job is one service of a Compose file, a versioned spec with a desired count.

The engineer (through the API) writes `JobSpec`; the controller alone writes `Job` and `JobVersion`.
"""

from __future__ import annotations

import enum

import msgspec

from common.model.asset import AssetMount
from common.model.autoscale import Autoscale, Scaling
from common.model.device import DeviceRequest
from common.model.privileges import Privileges
from common.model.resources import Resources
from common.model.rollout import BlueGreen, Canary, Rollout

DEFAULT_PRIORITY = 50
HIGHEST_PRIORITY = 100
"""Priorities go from 0 to this. The default leaves as much room below as above."""
DEFAULT_WEIGHT = 50
HIGHEST_WEIGHT = 100
"""Weights of affinities go from 1 to this."""


class JobMode(enum.Enum):
    """How many tasks a job has and whether they are meant to end."""

    SERVICE = "service"
    """`replicas` slots that run until told otherwise."""
    BATCH = "batch"
    """`replicas` slots, each of which runs to completion once."""
    DAEMON = "daemon"
    """A slot for every node that meets the constraints, also those that join later."""
    DAEMON_BATCH = "daemon-batch"
    """A slot for every such node, each of which runs to completion once."""

    @property
    def ends(self) -> bool:
        """Whether its tasks are meant to end."""
        return self in (JobMode.BATCH, JobMode.DAEMON_BATCH)

    @property
    def per_node(self) -> bool:
        """Whether it has one slot for each node, instead of `replicas`."""
        return self in (JobMode.DAEMON, JobMode.DAEMON_BATCH)


class DesiredState(enum.Enum):
    """What should be; of a job set by the engineer, of a task by the controller."""

    RUN = "run"
    STOP = "stop"


class Protocol(enum.Enum):
    TCP = "tcp"
    UDP = "udp"


class PublishMode(enum.Enum):
    """Where a published port listens."""

    INGRESS = "ingress"
    """On every node, balanced over healthy tasks wherever they run."""
    HOST = "host"
    """Only on the task's own node."""


class ProxyProtocol(enum.Enum):
    """What a connection to a task begins with, so that the program learns the client's address."""

    NONE = "none"
    V1 = "v1"
    """A line of text."""
    V2 = "v2"
    """Binary."""


class PullPolicy(enum.Enum):
    """Compose's `pull_policy`: when the agent asks the registry for the image."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class RestartCondition(enum.Enum):
    """After which endings a task's container is started again."""

    ANY = "any"
    ON_FAILURE = "on-failure"
    NONE = "none"


class UpdateOrder(enum.Enum):
    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"


class FailureAction(enum.Enum):
    """What happens to a rollout whose new tasks fail."""

    PAUSE = "pause"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class DependencyCondition(enum.Enum):
    """Compose's `depends_on` conditions."""

    SERVICE_STARTED = "service_started"
    SERVICE_HEALTHY = "service_healthy"
    SERVICE_COMPLETED_SUCCESSFULLY = "service_completed_successfully"


class ConstraintOperator(enum.Enum):
    EQUAL = "=="
    NOT_EQUAL = "!="
    IN = "in"
    NOT_IN = "not in"
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="

    @property
    def lists(self) -> bool:
        """Whether it compares with several values."""
        return self in (ConstraintOperator.IN, ConstraintOperator.NOT_IN)

    @property
    def orders(self) -> bool:
        """Whether it compares numbers or versions."""
        return self.value[0] in "<>"

    @property
    def negates(self) -> bool:
        """Whether it holds on a node without the attribute."""
        return self in (ConstraintOperator.NOT_EQUAL, ConstraintOperator.NOT_IN)


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """A hard rule on where a task may run, as in Swarm: `node.labels.zone == eu`."""

    attribute: str
    """`node.id`, `node.name` (Swarm's `node.hostname`), `node.platform.os`, `node.platform.arch`, `node.labels.KEY` or
    `node.attributes.KEY`."""
    operator: ConstraintOperator
    value: str = ""
    """What it is compared with; empty with an operator that takes several."""
    values: tuple[str, ...] = ()
    """Of `in` and `not in`."""

    @property
    def wanted(self) -> str:
        """The rule without its attribute: `== eu`, `in (eu, us)`."""
        with_what = f"({', '.join(self.values)})" if self.operator.lists else self.value
        return f"{self.operator.value} {with_what}"

    def __str__(self) -> str:
        return f"{self.attribute} {self.wanted}"


class Strategy(enum.Enum):
    """Which of several nodes that are equal to a job gets its task."""

    CLUSTER = "cluster"
    """As the controller is set for jobs that say nothing."""
    SPREAD = "spread"
    """The one with the least reserved: a lost node takes little with it."""
    BINPACK = "binpack"
    """The one with the most reserved: whole nodes stay free for large tasks."""


class Affinity(msgspec.Struct, frozen=True, kw_only=True):
    """Where tasks would rather be, or with `required` must be: on nodes of some kind, or beside a job's tasks."""

    constraint: Constraint | None = None
    """Which nodes; a required one is a constraint of the placement."""
    job: str = ""
    """`namespace/name`, also the job itself; empty with a constraint."""
    within: str = ""
    """What beside means: on nodes with the same value of this attribute. Empty: on the same node."""
    apart: bool = False
    """Rather not there."""
    required: bool = False
    weight: int = DEFAULT_WEIGHT
    """1 to 100: what counts is the sum of those that are fulfilled on a node. Means nothing when required."""

    def __str__(self) -> str:
        what = str(self.constraint) if self.constraint is not None else self.job
        within = f" within the same {self.within}" if self.within else ""
        return f"{'apart from' if self.apart else 'beside' if self.job else 'on'} {what}{within}"


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    constraints: tuple[Constraint, ...] = ()
    spread: tuple[str, ...] = ()
    """Attributes to spread over, most important first, e.g. `node.labels.rack`."""
    max_replicas_per_node: int = 0
    """0: no limit."""
    strategy: Strategy = Strategy.CLUSTER
    affinities: tuple[Affinity, ...] = ()


class HttpRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Which HTTP requests are for a port; of several routes that match, the one with the longest path."""

    host: str
    """In lower case, without a port."""
    path: str = "/"
    """It and everything below it; without a slash at its end, but for `/` itself."""
    tls: str = ""
    """Name of its certificate: a secret of the namespace, or else a file of each node (`podium agent --certs`); empty:
    plain HTTP."""

    def __str__(self) -> str:
        return f"{self.host}{self.path}"


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A port the container listens on, and where the outside finds it."""

    container_port: int
    published_port: int = 0
    """0: not published to the outside; the port is still allocated and named in the task's environment."""
    protocol: Protocol = Protocol.TCP
    mode: PublishMode = PublishMode.INGRESS
    http: tuple[HttpRoute, ...] = ()
    """HTTP requests that every node's proxy passes on to it."""
    proxy_protocol: ProxyProtocol = ProxyProtocol.NONE
    """Of connections that came over the published port."""
    loopback: bool = False
    """It is published on each node's loopback address, for programs of that node only."""

    @property
    def public_names(self) -> tuple[str, ...]:
        """What of the cluster it takes for its job alone: `8080/tcp` for a port, `shop.example.com/` for a route."""
        published = self.published_port and self.mode is PublishMode.INGRESS
        ports = (f"{self.published_port}/{self.protocol.value}",) if published else ()
        return (*ports, *(str(route) for route in self.http))


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Compose's `healthcheck`, normalised."""

    test: tuple[str, ...]
    """`("CMD", program, argument...)` or `("CMD-SHELL", line)`."""
    interval_s: float = 30.0
    timeout_s: float = 30.0
    retries: int = 3
    start_period_s: float = 0.0
    """Failures in this time after the start do not count."""
    start_interval_s: float = 5.0
    """Interval during the start period."""


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    condition: RestartCondition = RestartCondition.ANY
    delay_s: float = 0.1
    """Wait before the first restart; doubles with each failure in a row."""
    max_attempts: int = 5
    """Attempts on one node within `window_s`; then the task fails and its slot moves. 0: never give up."""
    window_s: float = 300.0
    """A run this long makes the failures before it forgotten."""


class UpdatePolicy(msgspec.Struct, frozen=True, kw_only=True):
    parallelism: int = 1
    """Slots changed at a time; 0: all at once."""
    delay_s: float = 0.0
    """Between the moment that a slot is through and the next one's beginning."""
    monitor_s: float = 5.0
    """A new task must be well for this long before it is relied on: healthy, or up where nothing tells its health."""
    max_failure_ratio: float = 0.0
    """Slots that may fail without failing the rollout, of those that its step changes."""
    order: UpdateOrder = UpdateOrder.START_FIRST
    failure_action: FailureAction = FailureAction.ROLLBACK
    """Of a rollback: `PAUSE`, by which it stops and says so, or `CONTINUE`."""
    progress_deadline_s: float = 600.0
    """A rollout that comes no further for this long has failed; what it has to wait for anyway is not counted. 0:
    none."""
    canary: Canary | None = None
    blue_green: BlueGreen | None = None
    """At most one of the two."""


class BatchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a job whose tasks end goes about it. Of others it is the default and means nothing."""

    parallelism: int = 0
    """Slots that have a task at a time; 0: all at once."""
    attempts: int = 1
    """Tasks that are tried for one slot before it has failed, each on another node where one fits. What a task does on
    its node is `RestartPolicy`'s."""
    deadline_s: float = 0.0
    """From its first task on: what has not ended by then is stopped and the job has failed. 0: none."""


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """Another job that must have come so far before this one starts."""

    job: str
    condition: DependencyCondition = DependencyCondition.SERVICE_STARTED
    namespace: str = ""
    """Empty: the one of the job that waits."""
    optional: bool = False
    """Nothing is waited for while there is no such job."""

    def full_name_seen_from(self, namespace: str) -> str:
        return f"{self.namespace or namespace}/{self.job}"


class Overlap(enum.Enum):
    """What happens when a run is due while the one before it has not ended."""

    SKIP = "skip"
    QUEUE = "queue"
    """It starts when the other one has ended; at most one waits, the latest."""
    REPLACE = "replace"
    """The other one is stopped; it starts when that has ended."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Makes a job one that is run again and again; `common.schedule` says what the expression means."""

    cron: str
    timezone: str = "UTC"
    """By whose clocks, e.g. `Europe/Berlin`."""
    overlap: Overlap = Overlap.SKIP
    keep: int = 3
    """Runs that are kept after they ended."""
    start_within_s: float = 12 * 3600.0
    """A run that could not start when it was due, because no controller was there, still starts so much later: a night
    without a controller should not cost the nightly backup."""


class MountKind(enum.Enum):
    VOLUME = "volume"
    """Kept on the node under a name, whatever becomes of its tasks."""
    BIND = "bind"
    """A file or directory of the node, where its policy allows that."""
    TMPFS = "tmpfs"
    """In memory; gone with the container."""


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """Something a container sees at a path that is not of its image."""

    kind: MountKind
    source: str = ""
    """A volume's name on its node, `namespace_name`; a path of the node; empty for `tmpfs`."""
    target: str
    """Absolute path inside the container."""
    read_only: bool = False
    shared: bool = False
    """Of a volume: several tasks may write it at once. Otherwise at most one does."""
    size_bytes: int = 0
    """Of `tmpfs`; 0: half of the node's memory, as the kernel has it."""
    external: bool = False
    """Of a volume: it must be there already, on some node; none is made."""

    @property
    def sole_writer(self) -> bool:
        """Whether nobody else may write it at the same time."""
        return self.kind is MountKind.VOLUME and not self.read_only and not self.shared


class Ulimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of the kernel on each process; -1: none."""

    name: str
    soft: int
    hard: int


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """A program that is run inside a container at a moment of its life, beside its own one."""

    command: tuple[str, ...]
    """`${NAME}` is expanded as in the container's command."""
    user: str = ""
    """Empty: the container's."""
    working_dir: str = ""
    """Empty: the container's."""
    environment: dict[str, str] = {}
    """Besides what the task has."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a container engine is told besides; a plain process can have none of it. Nothing here gives more rights."""

    cap_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    shm_bytes: int = 0
    """Of `/dev/shm`; 0: the engine's default, 64 MiB."""
    pids_limit: int = 0
    """Processes and threads; 0: no limit."""
    extra_hosts: tuple[str, ...] = ()
    """`NAME:ADDRESS` each."""
    dns_search: tuple[str, ...] = ()
    """Domains in which short names are looked for after the cluster's own."""
    dns_options: tuple[str, ...] = ()
    """As in `resolv.conf`, e.g. `ndots:2`."""
    group_add: tuple[str, ...] = ()
    sysctls: dict[str, str] = {}
    """Only those that the kernel keeps apart for each container."""
    domainname: str = ""
    tty: bool = False
    stdin_open: bool = False
    oom_score_adj: int = 0
    """0 to 1000: who ends first when the node is out of memory. Less than 0 would put the node's own work behind."""
    memory_swap_bytes: int = 0
    """Memory and swap together; -1: as much swap as the node has; 0: none beside the memory limit."""
    cpuset: str = ""
    """The node's processors it may run on, e.g. `0-3,6`; empty: all."""


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime runs. An empty `image` asks for the process runtime."""

    image: str = ""
    entrypoint: tuple[str, ...] = ()
    """Empty: the image's own."""
    command: tuple[str, ...] = ()
    """Empty: the image's own. `${NAME}` is expanded by the agent from the task's environment."""
    environment: dict[str, str] = {}
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    hostname: str = ""
    init: bool = False
    read_only: bool = False
    tmpfs: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    stop_grace_s: float = 10.0
    pull_policy: PullPolicy = PullPolicy.MISSING
    mounts: tuple[Mount, ...] = ()
    engine: EngineOptions = EngineOptions()
    post_start: tuple[Hook, ...] = ()
    """Run in order once it is up; until they succeeded it counts as starting, and one that fails fails the attempt."""
    pre_stop: tuple[Hook, ...] = ()
    """Run in order before the stop signal, within `stop_grace_s`."""
    assets: tuple[AssetMount, ...] = ()
    """Configs and secrets."""
    privileges: Privileges = Privileges()


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that, when it changes, needs new containers."""

    container: Container
    ports: tuple[Port, ...] = ()
    reservations: Resources = Resources()
    """What the scheduler sets aside."""
    limits: Resources = Resources()
    """What the runtime enforces; 0: no limit."""
    placement: Placement = Placement()
    health_check: HealthCheck | None = None
    restart: RestartPolicy = RestartPolicy()
    exclusive: bool = False
    """At most one task of each slot may run at a time, also while the cluster is cut in two (docs/exclusive.md)."""
    devices: tuple[DeviceRequest, ...] = ()
    """At most one for each kind."""
    slow_start_s: float = 0.0
    """For how long a new task's share of the traffic grows to its full one; 0: it has that at once."""

    @property
    def public_names(self) -> tuple[str, ...]:
        return tuple(name for port in self.ports for name in port.public_names)


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One service of a Compose file, as the engineer submitted it."""

    namespace: str
    name: str
    mode: JobMode = JobMode.SERVICE
    replicas: int = 1
    task: TaskSpec
    update: UpdatePolicy = UpdatePolicy()
    depends_on: tuple[Dependency, ...] = ()
    labels: dict[str, str] = {}
    priority: int = DEFAULT_PRIORITY
    """0 to 100: whose tasks get nodes first, and who may displace whom when there is no room for both."""
    batch: BatchPolicy = BatchPolicy()
    gang: bool = False
    """All tasks of a version get their nodes in one commit, or none does."""
    rollback: UpdatePolicy | None = None
    """How a rollout from this version back to an earlier one goes; None: as `update` says, without its strategy."""
    schedule: Schedule | None = None
    """The job itself has no tasks: each of its runs is a job of its own."""
    autoscale: Autoscale | None = None
    """`replicas` is then only what the job begins with."""
    aliases: tuple[str, ...] = ()
    """More names by which other jobs of the namespace reach it."""

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job whose tasks end has come. Its slots that are through are only here: their tasks are forgotten."""

    version: int = 0
    """Which one this is about; another one begins anew."""
    started_at_s: float = 0.0
    """When its first tasks were asked for; the deadline counts from here."""
    succeeded: str = ""
    """Slots whose task completed, as spans: `1-40,42`."""
    failed: str = ""
    """Slots that were given up, in the same form."""
    expired_at_s: float = 0.0
    """When its deadline passed before all slots were through; nothing counts any more from then on. 0: it did not."""
    failure: str = ""
    """Why the slot failed that failed last, for people."""
    ended_at_s: float = 0.0
    """When the last slot was through, or the deadline passed; 0: it goes on."""


class Recurrence(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job with a schedule has come."""

    until_s: float
    """What was due up to here has been dealt with: it was started, waits, or was passed over."""
    waiting_s: float = 0.0
    """When the run was due that starts as soon as the one before has ended; 0: none waits."""
    note: str = ""
    """Why the last time that was due brought no run, for people; empty when it did."""


class RunOf(msgspec.Struct, frozen=True, kw_only=True):
    """Whose run a job is, and for when."""

    job_id: str
    due_s: float


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the controller keeps it: which version is wanted, how often, and whether at all."""

    id: str
    namespace: str
    name: str
    version: int
    """Of the spec that new tasks get; rises with every change of the spec but one of mere `replicas`, `priority` or
    `autoscale`."""
    replicas: int
    desired: DesiredState = DesiredState.RUN
    created_at_s: float = 0.0
    changed_at_s: float = 0.0
    """When `version` last rose; a rollout's failures count from here."""
    removed: bool = False
    """Marked for removal: its tasks are stopped, then it disappears."""
    write_key: str = ""
    """Idempotency key of the last write, so that a repeated one changes nothing."""
    paused: str = ""
    """Why the rollout to `version` is paused; empty while it may go on."""
    good_version: int = 0
    """Last version that all slots ran well; what a failed rollout goes back to. 0: none yet."""
    note: str = ""
    """What became of the last rollout when it failed, for people; empty after a good one."""
    priority: int = DEFAULT_PRIORITY
    """Of all its tasks, whatever their versions: changing it restarts nothing."""
    progress: Progress = Progress()
    """Of a job whose tasks end."""
    recurrence: Recurrence | None = None
    """Of a job with a schedule."""
    run_of: RunOf | None = None
    """Of a job that is one run of another."""
    rollout: Rollout | None = None
    """The last one, also when it is through. Of a job whose tasks end there is none."""
    past_rollouts: tuple[Rollout, ...] = ()
    """Those before it, newest first; a few."""
    autoscale: Autoscale | None = None
    """Of the job, whatever its version: changing it restarts nothing."""
    scaling: Scaling = Scaling()
    """Of a job with autoscaling."""
    image_ports: tuple[Port, ...] = ()
    """What its image says it listens on (`EXPOSE`) and its spec does not, as its tasks reported."""
    image_ports_of: int = 0
    """The version whose tasks said so; they stand in for a later one's until a task of that runs. 0: none ever did."""

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


class JobVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a job's spec; never changed, kept while a task runs it or a rollback may want it."""

    job_id: str
    version: int
    spec: JobSpec
    created_at_s: float = 0.0
