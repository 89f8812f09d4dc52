"""What a task is told of the jobs it may call: where they are, and whom to ask for their names."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.core.names import DOMAIN, Names, entrances
from common.model.endpoint import Service
from common.model.session import Assignment

NEIGHBOURS_LIMIT = 100
"""Jobs that a task is told of in its environment, the first by name: the kernel bounds how long that may be. All have
names."""


class Neighbours(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. Empty where the node has no addresses for jobs, or none that the task has a way to."""

    environment: dict[str, str] = {}
    """What the engineer says of the same name counts instead."""
    resolver: str = ""
    """Of containers: the address that answers names, on port 53."""
    search: tuple[str, ...] = ()
    """Of containers: domains in which short names are looked for."""


def neighbours_of(
    assignment: Assignment, services: Iterable[Service], names: Names, machine_search: tuple[str, ...]
) -> Neighbours:
    """For one task. `machine_search`: the domains of the machine's own resolver, which a container would have had."""
    namespace, container = assignment.namespace, assignment.task.container
    if container.image and not names.reached_by_containers:
        return Neighbours()
    environment = _environment(namespace, services, names)
    if not container.image:
        return Neighbours(environment=environment)
    search = (f"{namespace}.{DOMAIN}", DOMAIN, *(container.engine.dns_search or machine_search))
    return Neighbours(environment=environment, resolver=names.resolver, search=tuple(dict.fromkeys(search)))


def _environment(namespace: str, services: Iterable[Service], names: Names) -> dict[str, str]:
    """`PODIUM_SERVICE_<JOB>_HOST`, `..._PORT` of its lowest port, and `..._PORT_<container port>` of each.

    An address stays for as long as the job is known on the node.
    """
    ports: dict[str, dict[int, int]] = {}
    hosts: dict[str, str] = {}
    for address, port, service in entrances(tuple(one for one in services if one.namespace == namespace), names):
        ports.setdefault(service.job, {}).setdefault(service.container_port, port)
        hosts[service.job] = address
    told: dict[str, str] = {}
    for job in sorted(ports)[:NEIGHBOURS_LIMIT]:
        prefix = f"PODIUM_SERVICE_{job.upper().replace('-', '_')}"
        told |= {f"{prefix}_HOST": hosts[job], f"{prefix}_PORT": str(ports[job][min(ports[job])])}
        told |= {f"{prefix}_PORT_{number}": str(port) for number, port in sorted(ports[job].items())}
    return told
