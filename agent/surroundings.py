"""What all tasks of a node share: the parts of the agent that a task's runner and its operations use. Values only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from agent.assets import AssetKeeper
from agent.core.neighbours import Neighbours
from agent.fence import SelfFence
from agent.journal import Journal
from agent.metrics import Metrics
from agent.policy import Guarded
from agent.ports import PortAllocator
from agent.runtimes import Runtimes
from agent.settings import AgentBounds
from common.model.ids import Rng
from common.model.privileges import NodePolicy
from common.model.session import Assignment
from common.model.task import TaskReport


class Report(Protocol):
    """Who brings statuses to the controller (`agent.reporter`)."""

    def __call__(self, report: TaskReport, *, unhurried: bool = False, passing: bool = False) -> None: ...


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    node_id: str
    node_name: str
    address: str
    runtimes: Runtimes
    ports: PortAllocator
    journal: Journal
    fence: SelfFence
    metrics: Metrics
    report: Report
    clock: Callable[[], float]
    rng: Rng
    bounds: AgentBounds
    taken_in: asyncio.Event
    """No container is created or started before it is set: on a node that is not where its journal was written, whose
    disk may be a copy of another machine's, which runs these tasks."""
    assets: AssetKeeper
    neighbours: Callable[[Assignment], Neighbours] = lambda _assignment: Neighbours()
    """Whom a task may call, as of now."""
    policy: NodePolicy = NodePolicy()
    """What tasks may have of the node."""
    guarded: Guarded = Guarded(directories=())
    """What they may not have, whatever the policy says."""
    volumes_changed: Callable[[], None] = lambda: None
    """Called when a container with volumes was made."""
