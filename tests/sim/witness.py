"""Watches the store and the engines from outside and holds the rules that no fault excuses.

Keeps a state of its own, made of nothing but committed operations. Checks at the moment something is committed,
created, started or stopped; what takes time to show the cluster looks for. Never touches the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.runtime.fake import FakeContainer
from agent.runtime.interface import ContainerRequest
from common.lifecycle import merge
from common.model.epoch import Epoch
from common.model.job import DesiredState, Job, JobMode, PublishMode
from common.model.node import Node
from common.model.resources import Resources
from common.model.task import Slot, Task
from common.settings import LIMITS
from controller.core.slots import must_move
from controller.state import Applied, Erase, State, Write
from controller.store.interface import Operation, Put
from controller.store.keys import decode
from tests.sim.record import Record
from tests.sim.scalings import Scalings


class Witness:
    """See the module."""

    def __init__(self, record: Record) -> None:
        self.state = State()
        self.commits = 0
        self.slot_writes: dict[tuple[str, int], int] = {}
        """Commits that wrote anything of each slot; whoever counts clears it."""
        self.observed: Callable[[Task], None] = lambda _task: None
        """Told of each task whose status was written, as it is then."""
        self.lost = 0
        """Tasks given up because their node was silent."""
        self.values: dict[str, bytes] = {}
        self.rollbacks: dict[str, int] = {}
        """How often each job, by name, went back to an earlier version."""
        self.scalings = Scalings(record)
        self._record = record
        self._epoch = Epoch()
        self._named: dict[str, str] = {}
        self._placed: dict[tuple[str, int], None] = {}
        self._running: dict[str, dict[str, FakeContainer]] = {}

    # --- the store

    def committed(self, epoch: Epoch, holder: Epoch | None, operations: Sequence[Operation]) -> None:
        """Someone of `epoch` wrote while the leader key was of `holder`."""
        self.commits += 1
        if epoch != holder or epoch < self._epoch:
            self._record.violated(f"I1: a commit of {epoch} while {holder} held the leader key, after {self._epoch}")
        self._epoch = epoch
        applied = [self._apply(operation) for operation in operations]
        self._record.note("commit", f"{epoch.term} {' '.join(_text(one) for one in applied)}")
        self._count_slots(applied)
        for one in applied:
            self._check_change(one)
        nodes: dict[str, None] = {}
        for one in applied:
            if isinstance(one.after, Task):
                self._check_slot(one.after)
                nodes[one.after.node_id] = None
        for node_id in nodes:
            self._check_capacity(node_id)
        self._check_kinds(applied)

    def _check_kinds(self, applied: Sequence[Applied]) -> None:
        """A gang is placed whole; of a job that ends no more slots have tasks than may."""
        for job_id, version in self._placed:
            members = self._wanted_of(job_id, version)
            if members and self.state.spec_of_task(members[0]).gang and not all(task.node_id for task in members):
                self._record.violated(f"a gang is partly placed: {' and '.join(map(name, members))}")
        self._placed.clear()
        for job_id in dict.fromkeys(one.after.job_id for one in applied if isinstance(one.after, Task)):
            job = self.state.jobs.get(job_id)
            most = self.state.spec_of(job).batch.parallelism if job is not None else 0
            if job is not None and most and len({task.slot for task in self._wanted_of(job_id, job.version)}) > most:
                self._record.violated(f"more than {most} slots of {job.full_name} have a task")

    def _wanted_of(self, job_id: str, version: int) -> list[Task]:
        tasks = self.state.tasks_of_job(job_id).values()
        return [task for task in tasks if task.version == version and wanted(task)]

    def _count_slots(self, applied: Sequence[Applied]) -> None:
        records = [one.after or one.before for one in applied]
        slots = {(one.job_id, one.slot): None for one in records if isinstance(one, Task | Slot)}
        for slot in slots:
            self.slot_writes[slot] = self.slot_writes.get(slot, 0) + 1

    def restored(self, values: Mapping[str, bytes]) -> None:
        """The store holds an older state from now on."""
        self.values = dict(values)
        self.state = State()
        for key, value in values.items():
            self.state.apply(Write(decode(key, value)))

    def _apply(self, operation: Operation) -> Applied:
        if isinstance(operation, Put):
            self.values[operation.key] = operation.value
            return self.state.apply(Write(decode(operation.key, operation.value)))
        value = self.values.pop(operation.key, None)
        if value is None:
            return Applied(before=None, after=None)
        return self.state.apply(Erase(decode(operation.key, value)))

    def _check_change(self, applied: Applied) -> None:
        before, after = applied.before, applied.after
        if isinstance(after, Task):
            if after.node_id:
                self._named[after.id] = after.node_id
            if isinstance(before, Task):
                self._check_step(before, after)
        elif isinstance(before, Task) and after is None:
            self._check_erased(before)
        elif isinstance(before, Slot) and isinstance(after, Slot):
            self._check_history(before, after)
        elif isinstance(before, Job) and isinstance(after, Job):
            self.scalings.changed(before, after)
            if _turned_back(before, after):
                self.rollbacks[after.name] = self.rollbacks.get(after.name, 0) + 1

    def _check_step(self, before: Task, after: Task) -> None:
        self.lost += bool(after.lost_at_s) and not before.lost_at_s
        if merge(before.status, after.status) != after.status:
            self._record.violated(f"{name(after)} went back from {before.status} to {after.status}")
        if before.status != after.status:
            self.observed(after)
        if before.desired is DesiredState.STOP and after.desired is DesiredState.RUN:
            self._record.violated(f"{name(after)} is to run again after it was to stop")
        if after.only_node and after.node_id not in ("", after.only_node):
            self._record.violated(f"{name(after)} belongs to {after.only_node} and is on {after.node_id}")
        if after.node_id and not before.node_id:
            self._placed[after.job_id, after.version] = None
        if before.node_id and before.node_id != after.node_id:
            self._record.violated(f"{name(after)} moved from {before.node_id} to {after.node_id}")

    def _check_history(self, before: Slot, after: Slot) -> None:
        dropped = [attempt for attempt in before.attempts if attempt not in after.attempts]
        if dropped and len(after.attempts) < LIMITS.attempts_kept:
            self._record.violated(f"I7: slot {after.job_id}.{after.slot} forgot {dropped}")
        most = max(before.failures, self._of_gang(after)) + 1
        if after.failures and not before.failures <= after.failures <= most:
            self._record.violated(f"I7: slot {after.job_id}.{after.slot} counts {after.failures} of {before.failures}")

    def _of_gang(self, slot: Slot) -> int:
        """How often the other members failed of a gang: its failures are counted for all of it. 0 for other jobs."""
        if not any(version.spec.gang for version in self.state.versions_of(slot.job_id).values()):
            return 0
        others = self.state.slots_of(slot.job_id).values()
        return max((other.failures for other in others if other.slot != slot.slot), default=0)

    def _check_erased(self, task: Task) -> None:
        job = self.state.jobs.get(task.job_id)
        if task.node_id and not task.ended and not (job is None or job.removed):
            self._record.violated(f"{name(task)} was forgotten in state {task.state.value}")

    def _check_slot(self, task: Task) -> None:
        """Never two live wanted tasks of one version in one slot, but while one of them leaves its node.

        (Two versions is what a rollout looks like.) One that is not to leave any more has its successor until the
        leader has dropped that.
        """
        if not wanted(task):
            return
        rivals = [
            other
            for other in self.state.tasks_of_job(task.job_id).values()
            if (other.slot, other.version) == (task.slot, task.version)
            and wanted(other)
            and not must_move(other, self.state)
        ]
        relieved = {rival.moves for rival in rivals} & {rival.id for rival in rivals}
        if len(rivals) - len(relieved) > 1:
            self._record.violated(f"a slot is doubled: {' and '.join(map(name, rivals))} are wanted")

    def _check_capacity(self, node_id: str) -> None:
        node = self.state.nodes.get(node_id)
        if node is None:
            return
        holding = [task for task in self.state.tasks_of_node(node_id).values() if not task.ended]
        reserved = sum((self.state.spec_of_task(task).task.reservations for task in holding), Resources())
        if not reserved.fits_in(node.description.capacity):
            self._record.violated(f"I5: {reserved} are reserved on {node.name} with {node.description.capacity}")
        ports = [
            (port.published_port, port.protocol)
            for task in holding
            for port in self.state.spec_of_task(task).task.ports
            if port.mode is PublishMode.HOST and port.published_port
        ]
        if len(dict.fromkeys(ports)) < len(ports):
            self._record.violated(f"I5: a port of {node.name} has two owners among {', '.join(map(name, holding))}")

    # --- the engines

    def created(self, machine: str, request: ContainerRequest) -> None:
        identity = request.identity
        if self._named.get(identity.task_id) != identity.node_id:
            self._record.violated(f"{machine} creates a container of {identity.task_id}, which nobody placed there")

    def started(self, machine: str, container: FakeContainer) -> None:
        identity = container.identity
        running = self._running.setdefault(identity.task_id, {})
        if running:
            others = ", ".join(running)
            self._record.violated(f"{machine} runs {container.id} of {identity.task_id} while {others} still runs")
        running[f"{machine}/{container.id}"] = container
        task = self.state.tasks.get(identity.task_id)
        if task is not None and self.state.spec_of_task(task).task.exclusive:
            self._check_alone(f"{machine}/{container.id}", task)

    def _check_alone(self, place: str, task: Task) -> None:
        others = [
            other
            for task_id, containers in self._running.items()
            for other, container in containers.items()
            if task_id != task.id
            and (container.identity.namespace, container.identity.job, container.identity.slot)
            == (task.namespace, task.job, task.slot)
        ]
        if others:
            self._record.violated(f"I4: {place} of {name(task)} starts while {', '.join(others)} runs")

    def ended(self, machine: str, container: FakeContainer) -> None:
        self._running.get(container.identity.task_id, {}).pop(f"{machine}/{container.id}", None)

    def asked_to_stop(self, machine: str, container: FakeContainer, *, doomed: bool) -> None:
        """An agent stops what runs only after that was committed, or because it is unhealthy."""
        task = self.state.tasks.get(container.identity.task_id)
        if container.running and task is not None and not task.ended and not doomed:
            job = self.state.jobs[task.job_id]
            if task.desired is DesiredState.RUN and not job.removed:
                self._record.violated(f"{machine} stops {container.id} of {name(task)}, which is to run")


def wanted(task: Task) -> bool:
    return task.desired is DesiredState.RUN and not task.ended and not task.lost_at_s


def name(task: Task) -> str:
    return f"{task.job}.{task.slot} v{task.version} ({task.id[:6]})"


def is_batch(state: State, job: Job) -> bool:
    return state.spec_of(job).mode is JobMode.BATCH


def _turned_back(before: Job, after: Job) -> bool:
    return after.version != before.version and after.rollout is not None and after.rollout.back


def _text(applied: Applied) -> str:
    """One change, short."""
    record = applied.after or applied.before
    gone = "-" if applied.after is None else ""
    match record:
        case Task():
            lost = " lost" if record.lost_at_s else ""
            status = f"{record.status.attempt}.{record.state.value}.{record.status.health.value}"
            return f"{gone}[{name(record)} {record.node_id[:6]} {record.desired.value}{lost} {status}]"
        case Job():
            return f"{gone}[job {record.name} v{record.version} x{record.replicas} {record.desired.value}]"
        case Slot():
            return f"{gone}[slot {record.job_id[:4]}.{record.slot} f{record.failures} a{len(record.attempts)}]"
        case Node():
            return f"{gone}[node {record.name}]"
        case None:
            return "-[nothing]"
        case _:
            return f"{gone}[v{record.version}]"
