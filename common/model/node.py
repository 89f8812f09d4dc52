"""A node is a machine; its agent describes it when it registers, the operator decides on its use.

The agent writes `NodeDescription`; the controller keeps it inside `Node`, whose `availability` is the operator's.
What changes from second to second (`NodeCondition`) lives in the leader's memory only.
"""

from __future__ import annotations

import datetime
import enum

import msgspec

from common.model.device import Device
from common.model.endpoint import TrafficProblem
from common.model.privileges import NodePolicy
from common.model.resources import Resources, Usage

ROUTES_HTTP = frozenset({"haproxy"})
"""Proxies that can: only their nodes serve routes."""

_LATEST_S = 1e11
"""The year 5138: what comes over the wire may be any number, and a calendar ends."""


class Availability(enum.Enum):
    """The operator's will."""

    ACTIVE = "active"
    CORDONED = "cordoned"
    """No new tasks."""
    DRAINING = "draining"
    """No new tasks, and those it has move elsewhere."""


class NodeStatus(enum.Enum):
    """The leader's judgement from heartbeats."""

    READY = "ready"
    DISCONNECTED = "disconnected"
    """Its stream broke; nothing is done yet: an agent may be restarting."""
    UNREACHABLE = "unreachable"
    """Silent so long that its endpoints leave the balancers."""
    DOWN = "down"
    """Silent so long that its tasks are replaced elsewhere."""


class RuntimeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime of a node: whether it answers at the moment."""

    name: str
    """`docker`, `process` or `fake`."""
    ready: bool = True
    version: str = ""
    message: str = ""
    """Why it is not ready."""
    since_s: float = 0.0
    """Unix time by the agent's clock since when it is not ready; 0: it is, or nobody noted it."""

    @property
    def problem(self) -> str:
        """What an operator is told of it, without its name; empty while it is ready."""
        if self.ready:
            return ""
        since = f" since {_utc(self.since_s)}" if 0 < self.since_s < _LATEST_S else ""
        return f"does not answer{since}: {self.message or 'no reason given'}"


class NodeDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of its machine when it registers."""

    id: str
    name: str
    address: str
    """Where the tasks' ports and the node's published ports can be reached."""
    labels: dict[str, str] = {}
    attributes: dict[str, str] = {}
    """`os`, `arch`, `kernel`, ... of the machine."""
    capacity: Resources = Resources()
    runtimes: tuple[RuntimeStatus, ...] = ()
    agent_version: str = ""
    devices: tuple[Device, ...] = ()
    policy: NodePolicy = NodePolicy()
    """What its operator lets tasks have of it."""
    proxy: str = ""
    """What carries the node's traffic: `relay`, or `haproxy`, which routes HTTP too. Empty: an older agent."""


class Stray(msgspec.Struct, frozen=True, kw_only=True):
    """A task that a node runs and the state does not know, since the state was restored from before it was made."""

    task_id: str
    job: str = ""
    """`namespace/name`; empty where the agent's journal does not know it either."""
    slot: int = 0
    runtime_id: str = ""
    found_at_s: float = 0.0


class Node(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    description: NodeDescription
    availability: Availability = Availability.ACTIVE
    joined_at_s: float = 0.0
    volumes: tuple[str, ...] = ()
    """Names of the volumes it keeps, as it last said when it knew them all."""
    strays: tuple[Stray, ...] = ()
    """Kept running, without traffic, until the operator decides."""

    @property
    def name(self) -> str:
        return self.description.name


class NodeCondition(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader knows of a node at this moment; never stored."""

    node_id: str
    status: NodeStatus = NodeStatus.DISCONNECTED
    last_seen_s: float = 0.0
    """Unix time of its last message; 0: not since this leader's term began."""
    runtimes: tuple[RuntimeStatus, ...] = ()
    usage: Usage = Usage()
    silent_s: float = 0.0
    """For how long at least the leader has not heard of it, where exclusive tasks wait for that; else 0."""
    traffic: tuple[TrafficProblem, ...] = ()
    """What its proxy cannot do."""
    rival: str = ""
    """Who else claims to be this node; empty while nobody does."""

    @property
    def degraded(self) -> str:
        """Why the node cannot do all it should, or is not alone; empty when all is well."""
        return "; ".join(filter(None, (self.rival, self.runtime_trouble, *(problem.text for problem in self.traffic))))

    @property
    def runtime_trouble(self) -> str:
        """The same of its runtimes alone."""
        return "; ".join(f"{runtime.name} {runtime.problem}" for runtime in self.runtimes if not runtime.ready)


def _utc(time_s: float) -> str:
    return datetime.datetime.fromtimestamp(time_s, tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
