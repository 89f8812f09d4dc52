"""What we write on a container and read back: its name, its labels, and the engine's configuration for a request.

Translation only: nothing here talks to an engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias, assert_never

from agent.core.environment import GPU, has_driver_id
from agent.runtime.docker_answers import ImageConfig
from agent.runtime.interface import ContainerIdentity, ContainerRequest, ProvidedFile
from agent.runtime.signals import signal_number
from common.errors import Fault, Invalid
from common.model.device import DeviceGrant
from common.model.job import Container, EngineOptions, Mount, MountKind, Port, Protocol
from common.model.task import PortBinding
from common.policy import ENGINE_SOCKETS
from common.references import parse_reference

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

NODE_LABEL = "podium.node"
TASK_LABEL = "podium.task"
ATTEMPT_LABEL = "podium.attempt"
NAMESPACE_LABEL = "podium.namespace"
JOB_LABEL = "podium.job"
VOLUME_LABEL = "podium.volume"
SLOT_LABEL = "podium.slot"

TASK_ID_CHARACTERS = 8
"""Of the task id in a container's name: 40 random bits, short enough to read."""
LOG_FILE_SIZE = "5m"
LOG_FILES = "2"
"""Two files, so that the older half survives a rotation: at most 10 MiB of output a container."""
DROPPED_CAPABILITY = "NET_RAW"
_UNCONFINED = {"seccomp": "seccomp=unconfined", "apparmor": "apparmor=unconfined", "label": "label=disable"}
_PROTOCOLS = frozenset(protocol.value for protocol in Protocol)
_LAST_PORT = 65_535
CPU_PERIOD_US = 100_000
"""The kernel's default period of a CPU quota."""
CPU_QUOTA_MIN_US = 1_000
"""The kernel refuses a smaller quota."""


def container_name(identity: ContainerIdentity) -> str:
    """A name people recognise and the engine accepts; the same for a repeated request of the same attempt."""
    task = identity.task_id[:TASK_ID_CHARACTERS]
    text = f"podium-{identity.namespace}-{identity.job}-{identity.slot}-{task}-{identity.attempt}"
    return re.sub(r"[^a-zA-Z0-9_.-]", "_", text)


def identity_labels(identity: ContainerIdentity) -> dict[str, str]:
    return {
        NODE_LABEL: identity.node_id,
        TASK_LABEL: identity.task_id,
        ATTEMPT_LABEL: str(identity.attempt),
        NAMESPACE_LABEL: identity.namespace,
        JOB_LABEL: identity.job,
        SLOT_LABEL: str(identity.slot),
    }


def identity_of(labels: Mapping[str, str]) -> ContainerIdentity | None:
    """Who a container is by its labels; None when they are not ours or were tampered with."""
    try:
        return ContainerIdentity(
            node_id=labels[NODE_LABEL],
            task_id=labels[TASK_LABEL],
            attempt=int(labels[ATTEMPT_LABEL]),
            namespace=labels[NAMESPACE_LABEL],
            job=labels[JOB_LABEL],
            slot=int(labels[SLOT_LABEL]),
        )
    except (KeyError, ValueError):
        return None


def configuration(request: ContainerRequest, socket: str = ENGINE_SOCKETS[0]) -> dict[str, Json]:
    """The body of the engine's `containers/create`; `socket` is where that engine listens.

    Raises `Invalid` before the engine is asked anything.
    """
    container = request.container
    parse_reference(container.image)
    signal_number(container.stop_signal)
    if container.privileges.engine_socket and not socket:
        raise Invalid([Fault(path="privileges.engine_socket", text="this node's engine has no socket on the machine")])
    body: dict[str, Json] = {
        "Image": container.image,
        "Env": [f"{name}={value}" for name, value in container.environment.items()],
        "Labels": {**container.labels, **identity_labels(request.identity)},
        "StopSignal": container.stop_signal,
        "ExposedPorts": {_port_key(binding): {} for binding in request.bindings},
        "HostConfig": _host_configuration(request, socket),
    }
    body.update(_given("Entrypoint", list(container.entrypoint)))
    body.update(_given("Cmd", list(container.command)))
    body.update(_given("User", container.user))
    body.update(_given("WorkingDir", container.working_dir))
    body.update(_given("Hostname", container.hostname))
    body.update(_given("Domainname", container.engine.domainname))
    body.update(_given("Tty", container.engine.tty))
    body.update(_given("OpenStdin", container.engine.stdin_open))
    return body


def _host_configuration(request: ContainerRequest, socket: str) -> dict[str, Json]:
    container, limits = request.container, request.limits
    host: dict[str, Json] = {
        "PortBindings": _port_bindings(request.bindings),
        "RestartPolicy": {"Name": "no"},  # restarts are ours: they back off, are counted and leave a record
        "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_FILE_SIZE, "max-file": LOG_FILES}},
    }
    if limits.memory_bytes:
        # Equal to the memory limit unless swap is asked for: no swap on top, so that the limit is the limit.
        swap_bytes = container.engine.memory_swap_bytes or limits.memory_bytes
        host |= {"Memory": limits.memory_bytes, "MemorySwap": swap_bytes}
    if limits.cpu_millis:
        # A quota, not `NanoCpus`: the engine refuses those above its own number of processors.
        quota_us = max(limits.cpu_millis * CPU_PERIOD_US // 1000, CPU_QUOTA_MIN_US)
        host |= {"CpuPeriod": CPU_PERIOD_US, "CpuQuota": quota_us}
    if container.init:
        host["Init"] = True
    if container.read_only:
        host["ReadonlyRootfs"] = True
    host.update(_given("Tmpfs", _tmpfs(container)))
    host.update(_options(container.engine))
    host.update(_confinement(container))
    host.update(_given("Dns", [request.resolver] if request.resolver else []))
    host.update(_given("DnsSearch", list(request.search or container.engine.dns_search)))
    mounts = [_mount(mount, request.identity.node_id) for mount in container.mounts]
    if container.privileges.engine_socket:
        mounts.append(_mount(Mount(kind=MountKind.BIND, source=socket, target=ENGINE_SOCKETS[0]), ""))
    host.update(_given("Mounts", [*mounts, *map(_provided, request.files)]))
    host.update(_given("DeviceRequests", _device_requests(request.devices)))
    return host


def _confinement(container: Container) -> dict[str, Json]:
    """What the container may do on its node. Without a word of the job's: less than the engine's own default, no
    programs that gain rights (setuid) and no packets made by hand, by which one container can pretend to be another."""
    wanted = container.privileges
    dropped = dict.fromkeys(container.engine.cap_drop)
    if not {DROPPED_CAPABILITY, "ALL"} & {*wanted.cap_add, *dropped}:
        dropped[DROPPED_CAPABILITY] = None
    options = [_UNCONFINED[name] for name in wanted.unconfined]
    if not wanted.new_privileges:
        options.insert(0, "no-new-privileges")
    devices: list[Json] = [
        {"PathOnHost": one.source, "PathInContainer": one.target, "CgroupPermissions": one.permissions}
        for one in wanted.devices
    ]
    host: dict[str, Json] = {}
    host.update(_given("CapDrop", list(dropped)))
    host.update(_given("CapAdd", list(wanted.cap_add)))
    host.update(_given("SecurityOpt", list(options)))
    host.update(_given("Devices", devices))
    host.update(_given("Privileged", wanted.privileged))
    for key, shared in (("NetworkMode", "host_network"), ("PidMode", "host_pid"), ("IpcMode", "host_ipc")):
        if getattr(wanted, shared):
            host[key] = "host"
    return host


def _options(options: EngineOptions) -> dict[str, Json]:
    """What of them belongs to the engine's HostConfig."""
    host: dict[str, Json] = {}
    host.update(_given("Ulimits", [{"Name": one.name, "Soft": one.soft, "Hard": one.hard} for one in options.ulimits]))
    host.update(_given("ShmSize", options.shm_bytes))
    host.update(_given("PidsLimit", options.pids_limit))
    host.update(_given("ExtraHosts", list(options.extra_hosts)))
    host.update(_given("DnsOptions", list(options.dns_options)))
    host.update(_given("GroupAdd", list(options.group_add)))
    host.update(_given("Sysctls", dict(options.sysctls)))
    host.update(_given("OomScoreAdj", options.oom_score_adj))
    host.update(_given("CpusetCpus", options.cpuset))
    return host


def engine_volume(node_id: str, name: str) -> str:
    """What the engine calls a node's volume: several nodes may share one engine."""
    return f"podium_{node_id}_{name}"


def _mount(mount: Mount, node_id: str) -> Json:
    made: dict[str, Json] = {"Type": mount.kind.value, "Target": mount.target, "ReadOnly": mount.read_only}
    match mount.kind:
        case MountKind.VOLUME:
            # Made by the engine when it is not there yet, and filled with what the image has at that place.
            labels: dict[str, Json] = {NODE_LABEL: node_id, VOLUME_LABEL: mount.source}
            made |= {"Source": engine_volume(node_id, mount.source), "VolumeOptions": {"Labels": labels}}
        case MountKind.BIND:
            made |= {"Source": mount.source, "BindOptions": {"Propagation": "rprivate"}}
        case MountKind.TMPFS:
            if mount.size_bytes:
                made["TmpfsOptions"] = {"SizeBytes": mount.size_bytes}
        case _:
            assert_never(mount.kind)
    return made


def _provided(file: ProvidedFile) -> Json:
    return {
        "Type": "bind",
        "Source": file.source,
        "Target": file.target,
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _given(key: str, value: Json) -> dict[str, Json]:
    """Nothing when the value is empty: what is left out is the image's own."""
    return {key: value} if value else {}


def _tmpfs(container: Container) -> Json:
    """Compose writes `path` or `path:options`."""
    mounts: dict[str, Json] = {}
    for entry in container.tmpfs:
        path, _, options = entry.partition(":")
        if not path.startswith("/"):
            raise Invalid([Fault(path="tmpfs", text=f"`{entry}` must begin with an absolute path")])
        mounts[path] = options
    return mounts


def _device_requests(grants: tuple[DeviceGrant, ...]) -> Json:
    """GPUs that the driver knows by their ids. Others were declared: what they are the engine cannot know, so the
    program is told of them in its environment and nothing is asked of the engine."""
    units: list[Json] = [grant.id for grant in grants if grant.kind == GPU and has_driver_id(grant.id)]
    return [{"Driver": "nvidia", "DeviceIDs": units, "Capabilities": [["gpu"]]}] if units else []


def _port_bindings(bindings: tuple[PortBinding, ...]) -> Json:
    ports: dict[str, Json] = {}
    for key in sorted({_port_key(binding) for binding in bindings}):
        ports[key] = [
            {"HostIp": binding.host_address, "HostPort": str(binding.host_port) if binding.host_port else ""}
            for binding in bindings
            if _port_key(binding) == key
        ]
    return ports


def _port_key(binding: PortBinding) -> str:
    return f"{binding.container_port}/{binding.protocol.value}"


def declared_ports(config: ImageConfig) -> tuple[Port, ...]:
    """The ports of an image's `EXPOSE`, lowest first; those of protocols that we do not carry are left out."""
    found = []
    for key in config.exposed_ports or ():
        number, _, protocol = key.partition("/")
        if number.isdecimal() and 0 < int(number) <= _LAST_PORT and (protocol or "tcp") in _PROTOCOLS:
            found.append(Port(container_port=int(number), protocol=Protocol(protocol or "tcp")))
    return tuple(sorted(found, key=lambda port: (port.container_port, port.protocol.value)))


def bindings_of(ports: Mapping[str, list[dict[str, str]] | None] | None) -> tuple[PortBinding, ...]:
    """The bindings in `NetworkSettings.Ports` of an inspection, in the order of container ports."""
    found = []
    for key, places in (ports or {}).items():
        number, _, protocol = key.partition("/")
        found += [
            PortBinding(
                container_port=int(number),
                host_address=place["HostIp"],
                host_port=int(place["HostPort"]),
                protocol=Protocol(protocol),
            )
            for place in places or ()
            if protocol in _PROTOCOLS and place["HostPort"].isdecimal()
        ]
    return tuple(sorted(found, key=lambda binding: (binding.container_port, binding.protocol.value)))
