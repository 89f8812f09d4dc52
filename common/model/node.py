"""A node is a machine; its agent describes it when it registers, the operator decides on its use.

The agent writes `NodeDescription`; the controller keeps it inside `Node`, whose `availability` is the operator's.
What changes from second to second (`NodeCondition`) lives in the leader's memory only.
"""

from __future__ import annotations

import enum

import msgspec

from common.model.resources import Resources, Usage


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


class Node(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    description: NodeDescription
    availability: Availability = Availability.ACTIVE
    joined_at_s: float = 0.0

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

    @property
    def degraded(self) -> str:
        """Why the node cannot do all it should; empty when it can."""
        return "; ".join(f"{runtime.name}: {runtime.message}" for runtime in self.runtimes if not runtime.ready)
