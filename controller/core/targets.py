"""Which slots a job should have now: for a service those up to its number of replicas, for a job with a slot for each
node those of the nodes that fit. Decides nothing about tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping

import msgspec

from common.model.job import Job, JobSpec
from controller.core import daemon
from controller.core.slots import Conditions
from controller.state import State


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    numbers: Collection[int]
    """Slots that should have a task, in ascending order."""
    nodes: Mapping[int, str] = {}
    """Of a job with a slot for each node: the id of each slot's node."""
    resting: Container[int] = ()
    """Slots that are left as they are: neither filled nor given up."""

    def __contains__(self, number: object) -> bool:
        return number in self.numbers or number in self.resting


def targets_of(state: State, job: Job, spec: JobSpec, conditions: Conditions) -> Targets:
    """`spec` is of the job's wanted version."""
    if not spec.mode.per_node:
        return Targets(numbers=range(1, job.replicas + 1))
    homes = daemon.homes(state, job, spec, conditions)
    return Targets(numbers=homes.wanted.keys(), nodes=homes.wanted | homes.resting, resting=homes.resting)
