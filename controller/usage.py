"""What the jobs of each namespace ask for, kept by what changed: the state's index for quotas. Judges nothing.

A job asks for its slots, whether they have tasks at the moment or not: so what is admitted does not depend on how far a
rollout or a restart has come. Of jobs with a slot for each node, and of the runs of a schedule, nobody knows beforehand
how much that is: they ask for what they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.model.job import DesiredState, Job, JobSpec, TaskSpec
from common.model.quota import CPU, DEVICES, MEMORY, TASKS
from common.model.task import Task
from controller.spans import Spans

Amounts = Mapping[str, int]
"""By resource, as in `Quota.limits`."""


def amounts_of(task: TaskSpec, times: int = 1) -> dict[str, int]:
    """What so many slots ask for."""
    if not times:
        return {}
    need = task.reservations
    found = {TASKS: times, CPU: need.cpu_millis * times, MEMORY: need.memory_bytes * times}
    return found | {f"{DEVICES}{part.kind}": part.total_millis * times for part in task.devices}


def grows_by_itself(job: Job, spec: JobSpec) -> bool:
    """Whether it asks for what it has: nobody submits the growth of such a job."""
    return spec.mode.per_node or job.run_of is not None


def asked_by(job: Job, spec: JobSpec, tasks: Iterable[Task]) -> dict[str, int]:
    """What a job asks for; `spec` is of its version, `tasks` matter only of one that grows by itself."""
    return amounts_of(spec.task, _slots(job, spec, tasks))


def _slots(job: Job, spec: JobSpec, tasks: Iterable[Task]) -> int:
    if job.removed or job.desired is DesiredState.STOP or spec.schedule is not None:
        return 0
    if grows_by_itself(job, spec):
        return len({task.slot for task in tasks if holds_slot(task)})
    if not spec.mode.ends:
        return job.replicas
    through = job.progress if job.progress.version == job.version else None
    if through is not None and through.expired_at_s:
        return 0
    left = job.replicas - (_count(through.succeeded, job) + _count(through.failed, job) if through is not None else 0)
    return max(0, min(left, spec.batch.parallelism or left))


def _count(spans: str, job: Job) -> int:
    """How many of the job's slots `1-40,42` are."""
    return len(Spans.of(spans).within(job.replicas))


def holds_slot(task: Task | None) -> bool:
    return task is not None and task.desired is DesiredState.RUN and not task.ended


def added(amounts: Amounts, more: Amounts, sign: int = 1) -> dict[str, int]:
    """Both together; of nothing no entry is left."""
    names = (*amounts, *(name for name in more if name not in amounts))
    summed = {name: amounts.get(name, 0) + sign * more.get(name, 0) for name in names}
    return {name: amount for name, amount in summed.items() if amount}


class UsageIndex:
    """Sums by namespace. Jobs that something happened to are counted anew when somebody asks."""

    def __init__(self) -> None:
        self._dirty: dict[str, None] = {}
        self._by_job: dict[str, tuple[str, dict[str, int]]] = {}
        self._by_namespace: dict[str, dict[str, int]] = {}

    def mark(self, job_id: str) -> None:
        self._dirty[job_id] = None

    @property
    def dirty(self) -> tuple[str, ...]:
        return tuple(self._dirty)

    def set(self, job_id: str, namespace: str, amounts: dict[str, int]) -> None:
        """Count a job with what it asks for now; nothing for one that is gone."""
        self._dirty.pop(job_id, None)
        known = self._by_job.pop(job_id, None)
        if known is not None:
            self._add(known[0], known[1], -1)
        if amounts:
            self._by_job[job_id] = namespace, amounts
            self._add(namespace, amounts, 1)

    def of(self, namespace: str) -> dict[str, int]:
        return self._by_namespace.get(namespace, {})

    def copy(self) -> UsageIndex:
        copy = UsageIndex()
        copy._dirty, copy._by_job = dict(self._dirty), dict(self._by_job)
        copy._by_namespace = dict(self._by_namespace)
        return copy

    def _add(self, namespace: str, amounts: Amounts, sign: int) -> None:
        summed = added(self.of(namespace), amounts, sign)
        self._by_namespace[namespace] = summed
        if not summed:
            del self._by_namespace[namespace]
