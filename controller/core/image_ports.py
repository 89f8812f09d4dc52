"""Which ports of a job only its image declares, learned from what its tasks report.

They are for other jobs alone, under the job's own name: nothing publishes them. What was learned stays with the job, so
that its name outlives its tasks, and stands in for the next version's until a task of that has run.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from common.model.job import Job, JobSpec, Port
from common.model.task import Task, TaskState
from common.settings import LIMITS


def has_image_ports(spec: JobSpec) -> bool:
    """Whether the ports that only the image declares count. What ends is not called; who shares its machine's network
    has none of its own."""
    container = spec.task.container
    return bool(container.image) and not spec.mode.ends and not container.privileges.host_network


def image_ports(task: Task, spec: JobSpec) -> tuple[Port, ...]:
    """Those of one task, in the order of its report. `spec`: of its version."""
    named = {(port.container_port, port.protocol) for port in spec.task.ports}
    return tuple(
        Port(container_port=binding.container_port, protocol=binding.protocol)
        for binding in task.status.ports
        if (binding.container_port, binding.protocol) not in named
    )


def learned(job: Job, task: Task, spec: JobSpec) -> Job:
    """The job after a report of `task`; the same object when that says nothing new of its wanted version.

    A tag may name different images on different nodes: what any task of the version has counts.
    """
    if task.version != job.version or task.status.state is not TaskState.RUNNING:
        return job
    found = image_ports(task, spec)
    if not found and (not job.image_ports or job.image_ports_of == job.version):
        return job
    known = job.image_ports if job.image_ports_of == job.version else ()
    ports = _in_order((*known, *found))[: LIMITS.image_ports]
    if (ports, job.version) == (job.image_ports, job.image_ports_of):
        return job
    return msgspec.structs.replace(job, image_ports=ports, image_ports_of=job.version)


def _in_order(ports: Iterable[Port]) -> tuple[Port, ...]:
    return tuple(sorted(dict.fromkeys(ports), key=lambda port: (port.container_port, port.protocol.value)))
