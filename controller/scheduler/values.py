"""What the scheduler is asked and what it answers. Values only; decides nothing."""

from __future__ import annotations

import msgspec

from common.model.device import DeviceGrant
from common.model.job import DEFAULT_PRIORITY, JobSpec
from common.model.verdict import Verdict


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Identical tasks of one job that need nodes; placed as one batch, in the order of `task_ids`."""

    job_id: str
    task_ids: tuple[str, ...]
    spec: JobSpec
    """Of the version the tasks are of."""
    avoid: tuple[str, ...] = ()
    """Ids of nodes where these slots failed before: taken only when nothing else fits."""
    only: str = ""
    """Id of the one node that will do, for tasks that are to move there or belong to it; else empty."""
    priority: int = DEFAULT_PRIORITY
    leaving: tuple[tuple[str, int], ...] = ()
    """Ids of nodes with tasks of the job that go when these have come, and how many: what is spread is what stays."""


class Placement(msgspec.Struct, frozen=True, gc=False):
    task_id: str
    node_id: str
    devices: tuple[DeviceGrant, ...] = ()


class Unplaced(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of one request that fit on no node, and why not (without fixes: `explain` finds those)."""

    request: Request
    task_ids: tuple[str, ...]
    verdict: Verdict


class SchedulePlan(msgspec.Struct, frozen=True, kw_only=True):
    placements: tuple[Placement, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
