"""What agent and controller say to each other inside one session.

One bidirectional stream per node, always dialled by the agent. Every message of the controller carries its epoch.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from common.model.asset import AssetKind
from common.model.device import DeviceGrant
from common.model.endpoint import Service, TrafficProblem
from common.model.epoch import Epoch
from common.model.job import DesiredState, TaskSpec
from common.model.node import NodeDescription, RuntimeStatus
from common.model.resources import Usage
from common.model.task import TaskReport

INPUT_COST_BYTES = 256
"""What a message of input counts at least: so a window of bytes also bounds the number of messages under way."""


# --- agent -> controller


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """First message of a session: who I am, what I have, and every task I know of."""

    node: NodeDescription
    inventory: tuple[TaskReport, ...] = ()
    highest_epoch: Epoch = Epoch()
    """A controller of a lower epoch is a zombie and exits when it reads this."""
    instance: str = ""
    """Of the agent's process: a second agent on a copy of the node's disk has another. Empty: an older agent."""
    registration: int = 0
    """Which one it is of this process, counted upwards: one that was heard before is refused. 0: an older agent."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    sequence: int
    usage: Usage = Usage()
    runtimes: tuple[RuntimeStatus, ...] = ()


class StatusBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Only what changed since the last batch; repeated until acknowledged by its sequence."""

    sequence: int
    reports: tuple[TaskReport, ...]


class ResyncRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The agent saw a gap in the chain of assignments or endpoints and asks for complete sets."""

    reason: str


class EndpointsApplied(msgspec.Struct, frozen=True, kw_only=True):
    """The node's relay carries out the endpoints up to `revision`.

    Withdrawn endpoints that still carry connections are named in `draining`; a later message without them says that
    their connections have ended.
    """

    revision: int
    draining: tuple[str, ...] = ()
    """Task ids."""
    problems: tuple[TrafficProblem, ...] = ()
    """All that there are."""
    wanted: tuple[str, ...] = ()
    """Jobs (`namespace/name`) without any endpoint that connections wait for, of those that wake."""


class TaskUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one running task uses: CPU as an average since its last report."""

    task_id: str
    cpu_millis: int = 0
    memory_bytes: int = 0
    processes: int = 0


class ServiceTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """What the node's data plane has carried for one job since it began: a count that falls began anew."""

    job: str
    """namespace/name."""
    connections: int = 0
    open: int = 0
    """Connections at this moment, those that wait included."""


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """Of all running tasks of the node, sent while a heartbeat's acknowledgement asks for it."""

    interval_s: float
    """What CPU is averaged over."""
    tasks: tuple[TaskUsage, ...] = ()
    traffic: tuple[ServiceTraffic, ...] = ()


class VolumeReport(msgspec.Struct, frozen=True, kw_only=True):
    """All volumes that the node keeps, whenever that changes; never while a runtime is away, so none is missing."""

    volumes: tuple[str, ...] = ()


class VolumeRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to `RemoveVolume`."""

    request_id: str
    error: str = ""
    """Why it was not; empty when it is gone."""


class AssetRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A task of the node cannot begin without what is in this config or secret, or a route be served without it."""

    task_id: str
    kind: AssetKind
    name: str
    digest: str
    route: str = ""
    """Key of the service whose certificate it is; empty: it is the task's."""


class LogStream(enum.Enum):
    STDOUT = "stdout"
    STDERR = "stderr"


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    task_id: str
    job: str = ""
    slot: int = 0
    time_s: float = 0.0
    """0: unknown."""
    stream: LogStream = LogStream.STDOUT
    text: str = ""


class LogChunk(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to `OpenLog`, in pieces; the last one has `done`."""

    request_id: str
    lines: tuple[LogLine, ...] = ()
    done: bool = False
    error: str = ""


class ExecOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to `OpenExec`: an empty one once the program runs, then what it writes; the last one has `done`."""

    request_id: str = ""
    stream: LogStream = LogStream.STDOUT
    """With a terminal there is only one."""
    content: bytes = b""
    done: bool = False
    exit_code: int = 0
    """Once `done` without an `error`."""
    error: str = ""
    """Why it could not be run, or was ended."""


class StreamCredit(msgspec.Struct, frozen=True, kw_only=True):
    """The other side has used so much of what was sent to it for this request, and takes as much again.

    Lines of a log; bytes of a program's input or output. Both sides send it: whoever sends stops when it has none left.
    """

    request_id: str
    amount: int


AgentBody: TypeAlias = (
    Register
    | Heartbeat
    | StatusBatch
    | ResyncRequest
    | EndpointsApplied
    | LogChunk
    | ExecOutput
    | StreamCredit
    | UsageReport
    | VolumeReport
    | VolumeRemoved
    | AssetRequest
)


class AgentMessage(msgspec.Struct, frozen=True, kw_only=True):
    body: AgentBody


# --- controller -> agent


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    node_id: str
    session_id: str
    heartbeat_period_s: float
    acknowledge_timeout_s: float
    """Without an acknowledgement for this long the agent redials."""


class Redirect(msgspec.Struct, frozen=True, kw_only=True):
    """This controller does not serve the agent: `leader` does (empty: nobody at the moment)."""

    leader: str
    reason: str
    retry_after_s: float = 0.0


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What a node should do about one task."""

    task_id: str
    namespace: str
    job: str
    slot: int
    version: int
    desired: DesiredState
    task: TaskSpec
    attempts_before: int = 0
    """Failed tasks of this slot in a row before this one: the agent's first start waits accordingly."""
    fencing_token: int = 0
    """Of an exclusive job: told to the program; 0: the job is not exclusive."""
    fence_after_s: float = 0.0
    """Of an exclusive job: stop it when nothing that was sent for this long has been acknowledged. 0: not exclusive."""
    devices: tuple[DeviceGrant, ...] = ()
    """The units that it may use."""
    observed_sequence: int = 0
    """Of the task's status as the controller has it: an agent that lost its own count goes on above it."""
    image_ports: bool = False
    """Others may call the ports that only its image declares: they are to be reachable and reported like its own."""

    @property
    def job_name(self) -> str:
        return f"{self.namespace}/{self.job}"


class Assignments(msgspec.Struct, frozen=True, kw_only=True):
    """What the node should run: COMPLETE replaces all the agent knows, incremental changes the set before it."""

    complete: bool
    sequence: int
    """Of this set in this session, from 1; each incremental one follows the last without a gap."""
    assignments: tuple[Assignment, ...] = ()
    removed: tuple[str, ...] = ()
    """Task ids the controller has forgotten: the agent forgets them too, stopping what should still run."""
    kept: tuple[str, ...] = ()
    """Task ids that a complete set says nothing about: what the agent has of them goes on as it is."""


class HeartbeatAck(msgspec.Struct, frozen=True, kw_only=True):
    sequence: int
    next_period_s: float
    usage_every_s: float = 0.0
    """Somebody wants to know what tasks use: report it so often until an acknowledgement says otherwise. 0: nobody."""
    authority: str = ""
    """Fingerprint of the one that the node's certificate has to be of: renew it if it is not. Empty: it may stay."""
    statuses: int = 0
    """All batches of statuses up to this sequence are in the store."""


class StatusAck(msgspec.Struct, frozen=True, kw_only=True):
    """All batches up to this sequence are in the store: for a node that cannot wait for its next heartbeat."""

    sequence: int


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Services by key. A complete set replaces everything; an incremental one replaces the services it names."""

    complete: bool
    revision: int
    services: tuple[Service, ...] = ()
    removed: tuple[str, ...] = ()
    """Keys of services that are published no more."""


class OpenLog(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    task_id: str
    tail: int = -1
    """Last lines to begin with; -1: all."""
    since_s: float = 0.0
    follow: bool = False
    window: int = 0
    """Lines that may be under way; each `StreamCredit` allows more. 0: as many as come."""


class CloseLog(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str


class TerminalSize(msgspec.Struct, frozen=True, kw_only=True):
    columns: int
    rows: int


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    argv: tuple[str, ...]
    terminal: TerminalSize | None = None
    """It gets a terminal of this size; None: three pipes."""
    term: str = ""
    """The kind of terminal, for its `TERM`."""
    input: bool = False
    """It is sent input; otherwise it finds the end of its input at once."""


class OpenExec(msgspec.Struct, frozen=True, kw_only=True):
    """Run a program inside a task."""

    request_id: str
    task_id: str
    program: Program
    window: int
    """Bytes of output that may be under way; each `StreamCredit` allows more."""


class ExecInput(msgspec.Struct, frozen=True, kw_only=True):
    """Sent as far as `StreamCredit` of the other side allows; each counts `input_cost` bytes."""

    request_id: str = ""
    content: bytes = b""
    end: bool = False
    """There is no more input."""
    size: TerminalSize | None = None
    """The terminal's new size."""


class RemoveVolume(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a volume and what is in it. Refused while a task has it."""

    request_id: str
    name: str


class AssetContent(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to `AssetRequest`."""

    task_id: str
    kind: AssetKind
    name: str
    digest: str
    content: bytes = b""
    refusal: str = ""
    """Why the node does not get it; empty when it does."""
    later: bool = False
    """The refusal is of this controller, not of the cluster: ask again."""
    route: str = ""
    """As in the request."""

    def __repr__(self) -> str:
        """Tracebacks and logs must not tell the content."""
        what = f"{self.kind.value} {self.name}"
        return f"AssetContent({what} for {self.task_id or self.route}: {self.refusal or f'{len(self.content)} bytes'})"


class CloseExec(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever asked has left: end the program."""

    request_id: str


def input_cost(message: ExecInput) -> int:
    """Bytes of credit that sending it takes."""
    return max(len(message.content), INPUT_COST_BYTES)


ControllerBody: TypeAlias = (
    Registered
    | Redirect
    | Assignments
    | HeartbeatAck
    | StatusAck
    | Endpoints
    | OpenLog
    | CloseLog
    | StreamCredit
    | OpenExec
    | ExecInput
    | CloseExec
    | RemoveVolume
    | AssetContent
)


class ControllerMessage(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch
    body: ControllerBody
