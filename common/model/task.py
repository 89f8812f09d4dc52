"""A task is one placement of a slot on a node. It never moves: its slot gets a new task instead.

The controller writes everything in `Task` but `status`; the agent of the task's node alone writes `status`.
Where they are stored, as JSON, fields that say nothing are left out: of a hundred thousand tasks they were two thirds.
"""

from __future__ import annotations

import enum

import msgspec

from common.model.device import DeviceGrant
from common.model.job import DesiredState, Protocol


class TaskState(enum.Enum):
    """Observed states in the order they are passed; `common.lifecycle` holds the legal steps."""

    __hash__ = object.__hash__  # Enum's own is Python code, and states are looked up a hundred times for each task
    PENDING = "pending"
    """No node yet."""
    ASSIGNED = "assigned"
    """A node was chosen; its agent has not taken it up yet."""
    PREPARING = "preparing"
    """The agent pulls the image and creates the container."""
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    """The container ended and its next attempt waits for its back-off."""
    COMPLETE = "complete"
    FAILED = "failed"
    REJECTED = "rejected"
    """The node cannot run it at all: no such image, no such runtime."""
    STOPPED = "stopped"
    LOST = "lost"
    """The node is silent and the controller has given the task up. Never reported by an agent."""


class Health(enum.Enum):
    __hash__ = object.__hash__
    NONE = "none"
    """No health check."""
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    """The node is silent. Never reported by an agent."""


class PortBinding(msgspec.Struct, frozen=True, kw_only=True):
    """Where one container port can be reached."""

    container_port: int
    host_address: str
    host_port: int
    protocol: Protocol = Protocol.TCP


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent observed. Moves only forward in the order (attempt, state, sequence)."""

    attempt: int = 0
    """1 for the first start of a container; each restart on the node counts one more."""
    state: TaskState = TaskState.PENDING
    sequence: int = 0
    """Raised by the agent with every status of this task: orders changes of health within one state."""
    health: Health = Health.NONE
    message: str = ""
    """Why it is in this state, for people: pull progress, exit reason, last health output."""
    exit_code: int | None = None
    started_at_s: float = 0.0
    ended_at_s: float = 0.0
    runtime_id: str = ""
    """Container id, or process id for the process runtime."""
    ports: tuple[PortBinding, ...] = ()


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The crash record: how one attempt of a task ended. At most `settings.attempt_record_limit_bytes` large."""

    task_id: str
    number: int
    node_id: str = ""
    version: int = 0
    started_at_s: float = 0.0
    ended_at_s: float = 0.0
    exit_code: int | None = None
    signal: str = ""
    """Name of the signal that ended it, e.g. `SIGKILL`; empty for an ordinary exit."""
    oom: bool = False
    memory_peak_bytes: int = 0
    memory_limit_bytes: int = 0
    message: str = ""
    log_tail: tuple[str, ...] = ()
    health_output: str = ""


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """One task's status on its way to the controller, with the attempts that ended since the last report."""

    task_id: str
    status: TaskStatus
    ended: tuple[Attempt, ...] = ()
    job: str = ""
    """In an inventory only, like the next two: `namespace/name` of its job."""
    slot: int = 0
    exclusive: bool = False


class Nomination(msgspec.Struct, frozen=True, kw_only=True):
    """The room that is being made on a node for a pending task: nobody of its priority or a lower one gets it."""

    node_id: str
    devices: tuple[DeviceGrant, ...] = ()
    at_s: float = 0.0


class Displacement(msgspec.Struct, frozen=True, kw_only=True):
    """By whom a task is displaced, or the task was whose place in its slot it takes."""

    by: str
    """For people: `namespace/job (priority 80)`."""
    task_id: str = ""
    """The pending task that waits for the room. Empty for a task that takes a displaced one's place."""
    at_s: float = 0.0


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    job_id: str
    namespace: str
    job: str
    """Name of the job within its namespace."""
    version: int
    """Of the job's spec."""
    slot: int
    """Stable replica number, from 1."""
    node_id: str = ""
    """Empty while pending; set once, never changed."""
    only_node: str = ""
    """Of a job with a slot for each node: the id of the one node that may take it."""
    desired: DesiredState = DesiredState.RUN
    reason: str = ""
    """Why the task was created, or why it is to stop."""
    moves: str = ""
    """Id of the task of the slot that it relieves, because that one's node is to be emptied; else empty."""
    created_at_s: float = 0.0
    stop_requested_at_s: float = 0.0
    lost_at_s: float = 0.0
    """When the controller gave it up because its node was silent; 0: it did not."""
    fencing_token: int = 0
    """Of an exclusive job: greater than that of every task made before it, so that storage can refuse a late writer."""
    fence_after_s: float = 0.0
    """Of an exclusive job: its agent stops it when nothing it sent for this long was acknowledged. 0: not exclusive."""
    lost_after_s: float = 0.0
    """Of an exclusive job: it counts as gone when its node was not heard of for this long. Always more than
    `fence_after_s` with its stop grace. Both are fixed with the task: settings that change do not move a deadline."""
    devices: tuple[DeviceGrant, ...] = ()
    """The units it was given with its node."""
    nomination: Nomination | None = None
    """Of a pending task for which others are displaced."""
    displaced: Displacement | None = None
    moves_to: str = ""
    """Id of the node that its slot is to move to, for a better balance: its successor goes there or nowhere."""
    observed_at_s: float = 0.0
    """When the controller, by its own clock, learned of the present attempt, state and health.

    Durations are measured from here: the agent's clock may be anywhere.
    """
    status: TaskStatus = TaskStatus()

    @property
    def job_name(self) -> str:
        return f"{self.namespace}/{self.job}"

    @property
    def state(self) -> TaskState:
        """The state people are shown: the agent's, completed by what only the controller knows."""
        if self.lost_at_s and self.status.state not in ENDED_STATES:
            return TaskState.LOST
        if self.status.state is TaskState.PENDING and self.node_id:
            return TaskState.ASSIGNED
        return self.status.state

    @property
    def ended(self) -> bool:
        """Whether its container is known to be gone for good. A lost task has not ended: it may still run."""
        return self.status.state in ENDED_STATES


ENDED_STATES = frozenset({TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED, TaskState.STOPPED, TaskState.LOST})


class Slot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The memory of one slot, across its tasks: its last ended attempts, newest last."""

    job_id: str
    slot: int
    attempts: tuple[Attempt, ...] = ()
    failed_nodes: tuple[str, ...] = ()
    """Nodes on which this slot's tasks failed for good, newest last; avoided while others fit."""
    failures: int = 0
    """Tasks that failed for good since one last ran well; spaces out replacements."""
    failed_at_s: float = 0.0
    failed_version: int = 0
    """The job's version at that time: what failed under another one says nothing about the present one."""
    only_node: str = ""
    """Of a job with a slot for each node: the id of this slot's node."""
