"""What is remembered of one task from step to step, and where such a memory begins. Values only.

It is what the journal keeps: everything an agent needs to go on with the task after a restart, whatever was under way.
"""

from __future__ import annotations

import enum

import msgspec

from agent.core import health
from agent.core.attempt import Ending
from agent.core.health import HealthMemory
from agent.core.restart import RestartMemory
from common.model.session import Assignment
from common.model.task import PortBinding, TaskState, TaskStatus


class Phase(enum.Enum):
    NEW = "new"
    WAITING = "waiting"
    PREPARING = "preparing"
    CREATING = "creating"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    COLLECTING = "collecting"
    """The container has ended; the tail of its output is read for the crash record."""
    ENDED = "ended"
    FORGETTING = "forgetting"
    """Its containers are being removed; then nothing is left of the task."""


class TaskMemory(msgspec.Struct, frozen=True, kw_only=True):
    """All that must survive a restart of the agent; written to the journal before any instruction is carried out."""

    assignment: Assignment
    node_id: str
    phase: Phase = Phase.NEW
    status: TaskStatus = TaskStatus(state=TaskState.ASSIGNED)
    container_id: str = ""
    """Of the present attempt, or of the last one until the next is created."""
    previous_id: str = ""
    """Of the attempt before, whose output is kept until the present one has started."""
    garbage: tuple[str, ...] = ()
    """Ended containers that are being removed."""
    prepared_attempt: int = 0
    """In which attempt the image was last made present; 0: never."""
    bindings: tuple[PortBinding, ...] = ()
    """Where its ports are to be reachable, as asked for; the same for every attempt."""
    restarts: RestartMemory = RestartMemory()
    health: HealthMemory = HealthMemory()
    hooks_due: bool = False
    """The container is up and its `post_start` hooks have not all succeeded yet."""
    good_since_s: float = 0.0
    """Since when the present attempt runs, or is healthy where that is checked; 0: not yet."""
    doom: str = ""
    """Why the running container is stopped although the task should run."""
    ending: Ending | None = None
    stopping: bool = False
    fenced: str = ""
    """Why the node stops the task by itself; it never runs again here."""
    forgetting: bool = False
    wake_at_s: float = 0.0
    """When the next attempt is due."""
    timer: int = 0
    """Number of the timer that counts; others fire in vain."""
    away: int = 0
    """How often in a row the engine did not answer the present operation."""
    repeating: bool = False
    """It is being asked again: nobody else need do so. An engine told to create twice may do it twice."""

    @property
    def task_id(self) -> str:
        return self.assignment.task_id

    @property
    def attempt(self) -> int:
        return self.status.attempt

    @property
    def log_container_id(self) -> str:
        """Whose output people want to see: the present container's, or the last one's until that has started."""
        if self.previous_id or self.phase is Phase.STARTING:
            return self.previous_id
        return self.container_id

    @property
    def runs(self) -> bool:
        """Whether a container is up, as far as is known."""
        return self.phase in (Phase.RUNNING, Phase.STOPPING)


def new(assignment: Assignment, node_id: str) -> TaskMemory:
    """The memory of a task nobody has touched; the first stimulus is its `Assigned`."""
    return TaskMemory(assignment=assignment, node_id=node_id)


def adopt(memory: TaskMemory, *, container_id: str, status: TaskStatus, now_s: float) -> TaskMemory:
    """The memory of a task whose container was found without a journal entry. `resume` picks it up from there.

    `status` says whether it has been started (running) or only created (starting).
    """
    return msgspec.structs.replace(
        memory,
        phase=Phase.RUNNING if status.state is TaskState.RUNNING else Phase.STARTING,
        status=status,
        container_id=container_id,
        health=health.begin(memory.assignment.task.health_check, now_s),
        good_since_s=0.0 if memory.assignment.task.health_check else now_s,
    )
