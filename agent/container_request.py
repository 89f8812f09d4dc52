"""What a runtime is asked to create for one attempt of a task: identity, environment, command and ports. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.core.environment import (
    asset_environment,
    device_environment,
    expand,
    gpu_environment,
    identity_environment,
    port_environment,
)
from agent.core.neighbours import Neighbours
from agent.runtime.interface import ContainerIdentity, ContainerRequest, ProvidedFile
from common.model.job import Container, HealthCheck, Port, PublishMode, TaskSpec
from common.model.session import Assignment
from common.model.task import PortBinding
from common.settings import LIMITS

PROCESS = "process"


def request_of(
    assignment: Assignment,
    attempt: int,
    bindings: tuple[PortBinding, ...],
    *,
    node_id: str,
    node_name: str,
    address: str,
    neighbours: Neighbours | None = None,
    files: Path | None = None,
) -> ContainerRequest:
    """The complete request for the task's `attempt`; its configs and secrets are below `files`."""
    neighbours = neighbours or Neighbours()
    environment = environment_of(assignment, bindings, node_name, address, neighbours, files)
    container = assignment.task.container
    return ContainerRequest(
        identity=ContainerIdentity(
            node_id=node_id,
            task_id=assignment.task_id,
            attempt=attempt,
            namespace=assignment.namespace,
            job=assignment.job,
            slot=assignment.slot,
        ),
        container=msgspec.structs.replace(
            container,
            environment=environment,
            command=tuple(expand(argument, environment) for argument in container.command),
        ),
        limits=assignment.task.limits,
        ports=assignment.task.ports,
        bindings=bindings,
        devices=assignment.devices,
        resolver=neighbours.resolver,
        search=neighbours.search,
        files=_provided_files(container, files),
    )


def _provided_files(container: Container, files: Path | None) -> tuple[ProvidedFile, ...]:
    if files is None:
        return ()
    return tuple(ProvidedFile(source=f"{files}{mount.target}", target=mount.target) for mount in container.assets)


def environment_of(
    assignment: Assignment,
    bindings: tuple[PortBinding, ...],
    node_name: str,
    address: str,
    neighbours: Neighbours,
    files: Path | None = None,
) -> dict[str, str]:
    """Where others are, the task's own variables, then ours: a program must be able to trust those."""
    process, own = runs_as_process(assignment.task), assignment.task.container.environment
    told = process and all(binding.host_port for binding in bindings)
    return {
        **neighbours.environment,
        **own,
        **(port_environment(bindings) if told else {}),
        **gpu_environment(assignment.devices, process=process, given=own),
        **device_environment(assignment.devices),
        **asset_environment(assignment.task.container.assets, files if process else None),
        **identity_environment(assignment, node_name, address),
    }


def probe_argv(check: HealthCheck, environment: dict[str, str]) -> tuple[str, ...]:
    """The program of a health check. `CMD` is expanded like a command; a shell expands `CMD-SHELL` itself."""
    if check.test[0] == "CMD-SHELL":
        return ("/bin/sh", "-c", *check.test[1:])
    return tuple(expand(argument, environment) for argument in check.test[1:])


def runs_as_process(task: TaskSpec) -> bool:
    """No image: the process runtime runs it."""
    return not task.container.image


def reachable_ports(assignment: Assignment, declared: tuple[Port, ...]) -> tuple[Port, ...]:
    """Those of its spec, then those that only its image declares; of more than the limit the first ones."""
    own = assignment.task.ports
    if not assignment.image_ports:
        return own
    named = {(port.container_port, port.protocol) for port in own}
    more = [port for port in declared if (port.container_port, port.protocol) not in named]
    return (*own, *more[: LIMITS.image_ports])


def engine_bindings(ports: tuple[Port, ...], address: str) -> tuple[PortBinding, ...]:
    """What a container engine is asked for: the published port where it must be that one, else any (0)."""
    return tuple(
        PortBinding(
            container_port=port.container_port,
            host_address=address,
            host_port=port.published_port if port.mode is PublishMode.HOST else 0,
            protocol=port.protocol,
        )
        for port in ports
    )
