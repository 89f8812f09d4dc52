"""Which slots a job has, and which of them should have a task now: for a service those up to its number of replicas,
for a job with a slot for each node those of the nodes that fit, for one whose tasks end those whose turn it is. Decides
nothing about tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping

import msgspec

from common.model.job import Job, JobSpec
from controller.core import batch, daemon
from controller.core.slots import Conditions
from controller.spans import Spans
from controller.state import State


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    slots: Collection[int]
    """All that count, in ascending order."""
    numbers: Collection[int]
    """Those of them that should have a task now."""
    nodes: Mapping[int, str] = {}
    """Of a job with a slot for each node: the id of each slot's node."""
    resting: Container[int] = ()
    """Slots that are left as they are: neither filled nor given up."""
    known: batch.Tally | None = None
    """Of a job whose tasks end."""

    def __contains__(self, number: object) -> bool:
        return number in self.slots or number in self.resting

    @property
    def through(self) -> Container[int]:
        return () if self.known is None else self.known.through


def targets_of(state: State, job: Job, spec: JobSpec, conditions: Conditions) -> Targets:
    """`spec` is of the job's wanted version."""
    slots: Collection[int] = range(1, job.replicas + 1)
    nodes: Mapping[int, str] = {}
    resting: Container[int] = ()
    if spec.mode.per_node:
        homes = daemon.homes(state, job, spec, conditions)
        slots, nodes, resting = homes.wanted.keys(), homes.wanted | homes.resting, homes.resting
    if not spec.mode.ends:
        return Targets(slots=slots, numbers=slots, nodes=nodes, resting=resting)
    known = batch.tally(state, job, spec)
    numbers = () if _closed(job) else batch.turns(state, job, spec, known.through, slots)
    return Targets(slots=slots, numbers=numbers, nodes=nodes, resting=resting, known=known)


def _closed(job: Job) -> bool:
    """Whether nothing more begins: a run of a schedule that is over stays so, also when another node joins."""
    return job.run_of is not None and bool(batch.progress_of(job).ended_at_s)


def through_as_a_whole(targets: Targets, spec: JobSpec) -> bool:
    """Whether every slot of a job whose tasks end is through."""
    assert targets.known is not None, "only jobs whose tasks end are ever through"
    through: Spans = targets.known.through
    if not spec.mode.per_node:
        return len(through.within(len(targets.slots))) == len(targets.slots)
    return all(number in through for number in targets.nodes if number in targets.slots)
