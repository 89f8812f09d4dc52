"""What engineers ask about use and are answered: what nodes and tasks use at the moment, beside what they may."""

from __future__ import annotations

import msgspec

from common.model.node import NodeStatus
from common.model.resources import Resources, Usage
from common.model.session import TaskUsage


class UsageRequest(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str = ""
    """Empty: tasks of all namespaces."""
    job: str = ""
    """Empty: of all jobs."""


class NodeUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a node uses at the moment, beside what it has and what is set aside of it."""

    node: str
    """Its name."""
    node_id: str
    status: NodeStatus
    usage: Usage
    capacity: Resources
    reserved: Resources
    measured: bool = False
    """Whether its tasks have been measured."""


class TaskUse(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    """namespace/name."""
    slot: int
    node: str
    """Name of its node."""
    usage: TaskUsage
    limits: Resources = Resources()
    """What the runtime enforces; 0: no limit."""
    age_s: float = 0.0
    """Since it was measured."""


class UsageView(msgspec.Struct, frozen=True, kw_only=True):
    nodes: tuple[NodeUse, ...] = ()
    tasks: tuple[TaskUse, ...] = ()
