"""What a reconciliation can decide, as values with reasons, and the changes each one makes. Decides nothing itself."""

from __future__ import annotations

from typing import TypeAlias, assert_never

import msgspec

from common.model.ids import Rng, new_id
from common.model.job import DesiredState, Job, JobSpec, JobVersion, Progress
from common.model.rollout import Rollout
from common.model.task import Displacement, Slot, Task
from controller.core import rollout_machine as machine
from controller.core.settings import FAILED_NODES_KEPT
from controller.state import Erase, Group, Write


class Create(msgspec.Struct, frozen=True, kw_only=True):
    """A new task for a slot; the scheduler finds it a node."""

    slot: int
    version: int
    reason: str
    moves: str = ""
    """Id of the task that it relieves because that one must leave its node."""
    displaced_by: str = ""
    """Who displaced the task whose place in the slot it takes."""
    fencing_token: int = 0
    fence_after_s: float = 0.0
    lost_after_s: float = 0.0
    """Of an exclusive job; see `Task`."""
    only_node: str = ""
    """Of a job with a slot for each node; see `Task`."""
    marks: Slot | None = None
    """The slot's memory, where it does not say yet whose slot it is."""


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """A task is wanted no more. One without a node simply disappears."""

    task: Task
    reason: str


class Lose(msgspec.Struct, frozen=True, kw_only=True):
    """The task's node is down: whatever runs there, the slot may be filled elsewhere."""

    task: Task
    reason: str


class Recover(msgspec.Struct, frozen=True, kw_only=True):
    """The node of a lost task is back before anything better took its slot: the original is kept."""

    task: Task


class Fail(msgspec.Struct, frozen=True, kw_only=True):
    """A task ended although it should run: the slot remembers where, and how often in a row."""

    task: Task
    slot: Slot
    reason: str


class Remain(msgspec.Struct, frozen=True, kw_only=True):
    """A task that was to move, for a better balance or to make room for another one, stays where it is."""

    task: Task
    reason: str


class Forgive(msgspec.Struct, frozen=True, kw_only=True):
    """The slot runs well, or is to run another version: its failures in a row are over."""

    slot: Slot


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """Every slot runs the wanted version well."""

    version: int


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """A job whose tasks end has come further: slots that are through are counted, and their tasks need not be kept."""

    progress: Progress
    good: bool = False
    """All went well: that is the last good version."""
    text: str = ""
    """How it ended, for people; empty while it goes on."""


class RollBack(msgspec.Struct, frozen=True, kw_only=True):
    """The wanted version fails: the last good one is wanted again."""

    version: int
    reason: str


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """The wanted version fails: the rollout stands still where it is."""

    reason: str


class StandStill(msgspec.Struct, frozen=True, kw_only=True):
    """The wanted version fails and there is nothing to go back to: its rollout ends where it is."""

    reason: str


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """The rollout came further, or fell back."""

    rollout: Rollout


class Forget(msgspec.Struct, frozen=True, kw_only=True):
    """History beyond its bounds, or all that is left of a removed job."""

    records: tuple[Task | Slot | JobVersion | Job, ...]


Decision: TypeAlias = (
    Create
    | Stop
    | Lose
    | Recover
    | Fail
    | Remain
    | Forgive
    | Settle
    | Count
    | RollBack
    | Pause
    | StandStill
    | Advance
    | Forget
)


def changes(job: Job, spec: JobSpec, decision: Decision, now_s: float, rng: Rng) -> Group:
    """The changes that carry out one decision about `job`, valid together. `spec` is of its wanted version."""
    match decision:
        case Create():
            return _create(job, decision, now_s, rng)
        case Stop():
            return (_stop(decision, now_s),)
        case Lose():
            return (Write(msgspec.structs.replace(decision.task, lost_at_s=now_s, reason=decision.reason)),)
        case Recover():
            return (Write(msgspec.structs.replace(decision.task, lost_at_s=0.0, reason="its node came back in time")),)
        case Fail():
            return _fail(job, decision, now_s)
        case Remain():
            stays = f"stays: {decision.reason}"
            return (Write(msgspec.structs.replace(decision.task, moves_to="", displaced=None, reason=stays)),)
        case Forgive():
            return (Write(msgspec.structs.replace(decision.slot, failures=0, failed_nodes=())),)
        case Settle() | Count() | RollBack() | Pause() | StandStill() | Advance():
            return (Write(_job_after(job, spec, decision, now_s)),)
        case Forget():
            return tuple(Erase(record) for record in decision.records)
        case _:
            assert_never(decision)


def _create(job: Job, decision: Create, now_s: float, rng: Rng) -> Group:
    task = Write(_new_task(job, decision, now_s, rng))
    if decision.marks is None:
        return (task,)
    return task, Write(msgspec.structs.replace(decision.marks, only_node=decision.only_node))


def _new_task(job: Job, decision: Create, now_s: float, rng: Rng) -> Task:
    return Task(
        id=new_id(rng),
        job_id=job.id,
        namespace=job.namespace,
        job=job.name,
        version=decision.version,
        slot=decision.slot,
        only_node=decision.only_node,
        reason=decision.reason,
        moves=decision.moves,
        fencing_token=decision.fencing_token,
        fence_after_s=decision.fence_after_s,
        lost_after_s=decision.lost_after_s,
        created_at_s=now_s,
        displaced=Displacement(by=decision.displaced_by, at_s=now_s) if decision.displaced_by else None,
    )


def _stop(decision: Stop, now_s: float) -> Write | Erase:
    if not decision.task.node_id:
        return Erase(decision.task)
    return Write(
        msgspec.structs.replace(
            decision.task, desired=DesiredState.STOP, reason=decision.reason, stop_requested_at_s=now_s
        )
    )


def _fail(job: Job, decision: Fail, now_s: float) -> Group:
    slot, node_id = decision.slot, decision.task.node_id
    nodes = (*(node for node in slot.failed_nodes if node != node_id), node_id)
    return (
        Write(msgspec.structs.replace(decision.task, desired=DesiredState.STOP, reason=decision.reason)),
        Write(
            msgspec.structs.replace(
                slot,
                failures=slot.failures + 1,
                failed_at_s=now_s,
                failed_version=job.version,
                failed_nodes=nodes[-FAILED_NODES_KEPT:],
            )
        ),
    )


def _job_after(
    job: Job, spec: JobSpec, decision: Settle | Count | RollBack | Pause | StandStill | Advance, now_s: float
) -> Job:
    """The job after what was decided about how far it has come."""
    match decision:
        case Settle():
            return machine.completed(job, spec, now_s)
        case Count():
            good = job.version if decision.good else job.good_version
            return msgspec.structs.replace(job, progress=decision.progress, good_version=good)
        case RollBack():
            return _rolled_back(job, spec, decision, now_s)
        case Pause():
            return msgspec.structs.replace(job, paused=decision.reason)
        case StandStill():
            return _stood_still(job, spec, decision, now_s)
        case Advance():
            return msgspec.structs.replace(job, rollout=decision.rollout)
        case _:
            assert_never(decision)


def _rolled_back(job: Job, spec: JobSpec, decision: RollBack, now_s: float) -> Job:
    note = f"version {job.version} was rolled back to {decision.version}: {decision.reason}"
    back = machine.turn_back(job, spec, decision.version, decision.reason, now_s)
    return msgspec.structs.replace(back, note=note)


def _stood_still(job: Job, spec: JobSpec, decision: StandStill, now_s: float) -> Job:
    rollout = machine.current(job, spec)
    assert rollout is not None, "only what has a rollout can fail one"
    return msgspec.structs.replace(job, rollout=machine.after(rollout, machine.Event.STOPPED, now_s, decision.reason))
