"""Jobs that follow their load, and loads: for the tests of autoscaling."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from common.model.autoscale import Autoscale
from common.model.job import Job, JobSpec, Port
from controller.core.apply import with_autoscale
from controller.core.autoscale import Memory, Outlook, look
from controller.core.load import Answer, Sight, TaskLoad, Traffic
from tests.builders import job, job_spec, resources, task_spec

NOW_S = 1_900_000_000.0
QUIET = Traffic()
UNKNOWN = Traffic(missing="node n1 has not told what its proxy carries")


def scaled_spec(autoscale: Autoscale, *, replicas: int = 1, published: bool = True) -> JobSpec:
    """Each task reserves one core and 1,000 bytes."""
    ports = (Port(container_port=80, published_port=8080),) if published else ()
    task = replace(task_spec(), reservations=resources(1, 1_000), ports=ports)
    return replace(job_spec(replicas=replicas, task=task), autoscale=autoscale)


def scaled_job(autoscale: Autoscale, *, replicas: int = 1) -> tuple[Job, JobSpec]:
    """Settled at version 1."""
    spec = scaled_spec(autoscale, replicas=replicas)
    record, _ = job(spec)
    made = with_autoscale(replace(record, good_version=1), None, spec, NOW_S - 3600)
    return replace(made, replicas=replicas), spec


def cpu(*millis: float) -> dict[int, TaskLoad]:
    """Of slots 1, 2, ..."""
    return {slot: TaskLoad(cpu_millis=used, memory_bytes=0) for slot, used in enumerate(millis, start=1)}


class Follower:
    """One leader that looks at one job again and again, on clocks that go together."""

    def __init__(self, autoscale: Autoscale, *, replicas: int = 1, now_s: float = NOW_S) -> None:
        self.job, self.spec = scaled_job(autoscale, replicas=replicas)
        self.memory: Memory | None = None
        self.now_s = now_s
        self.outlook: Outlook | None = None

    def look(
        self,
        tasks: Mapping[int, TaskLoad] | None = None,
        *,
        traffic: Traffic = UNKNOWN,
        answer: Answer = Answer(problem="nobody answers"),  # noqa: B008 - a frozen value
        after_s: float = 15.0,
    ) -> int:
        """The number after another look."""
        self.now_s += after_s
        sight = Sight(tasks=tasks or {}, traffic=traffic, answer=answer)
        self.outlook = look(self.job, self.spec, sight, self.memory, self.now_s, self.now_s - NOW_S)
        self.job, self.memory = self.outlook.job, self.outlook.memory
        return self.job.replicas

    @property
    def texts(self) -> tuple[str, ...]:
        return self.outlook.texts if self.outlook is not None else ()

    def another_leader(self) -> None:
        self.memory = None
