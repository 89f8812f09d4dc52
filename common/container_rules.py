"""What a job may say of its container or process: program, environment, identity, and what is mounted into it.

Pure. Part of `common.validation`; which paths of a node may be mounted is the node's own policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import assert_never

from common import engine_options
from common.asset_rules import VARIABLE_PREFIXES, assets_faults
from common.errors import Invalid
from common.model.job import Container, EngineOptions, Hook, JobSpec, Mount, MountKind, PullPolicy
from common.model.privileges import HostDevice, Privileges
from common.mounts import mount_path_fault, volume_fault, volume_name
from common.references import parse_reference
from common.rules import (
    LIST_LIMIT,
    RULES_LIMIT,
    Found,
    at_most,
    below,
    in_range,
    in_seconds,
    is_plain,
    label_map,
    one,
    plain_text,
    shown,
)
from common.settings import LIMITS

AGENT_VARIABLES = frozenset(
    {
        "PODIUM_TASK_ID",
        "PODIUM_NAMESPACE",
        "PODIUM_JOB",
        "PODIUM_SLOT",
        "PODIUM_NODE",
        "PODIUM_NODE_ADDRESS",
        "PODIUM_FENCING_TOKEN",
    }
)
"""Set by the agent in every task's environment."""
AGENT_VARIABLE_PREFIXES = ("PODIUM_PORT_", "PODIUM_DEVICE_", *VARIABLE_PREFIXES.values())
RESERVED_LABEL_PREFIX = "podium."
"""By labels under it an agent recognises its own containers."""
UNCONFINED = ("seccomp", "apparmor", "label")
"""What an engine confines containers by, besides capabilities."""
_SIGNAL = re.compile(
    "(?:SIG)?(?:ABRT|ALRM|BUS|CHLD|CONT|FPE|HUP|ILL|INT|IO|KILL|PIPE|PROF|PWR|QUIT|SEGV|STKFLT|STOP|SYS|TERM|TRAP|TSTP"
    "|TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ)"
)
_HOSTNAME = re.compile(
    r"(?=.{1,64}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(?::[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?")


def container_faults(container: Container, has_ports: bool) -> Found:
    if container.image:
        yield from one("image", _reference_fault(container.image))
    else:
        yield from _process(container, has_ports)
    yield from _arguments("entrypoint", container.entrypoint)
    yield from _arguments("command", container.command)
    yield from _environment(container.environment)
    yield from label_map("labels", container.labels)
    yield from _reserved_labels(container.labels)
    yield from _identity(container)
    yield from _tmpfs(container.tmpfs)
    yield from _mounts(container)
    yield from assets_faults(container)
    yield from below("engine", iter(engine_options.faults(container.engine)))
    yield from _hooks("post_start", container.post_start, has_image=bool(container.image))
    yield from _hooks("pre_stop", container.pre_stop, has_image=bool(container.image))
    yield from below("privileges", _privileges(container, has_ports))
    yield from one("stop_signal", _signal_fault(container.stop_signal))
    yield from in_seconds("stop_grace_s", container.stop_grace_s)


def swap_fault(spec: JobSpec) -> Found:
    """Swap is counted on top of a limit of memory, and is part of the same number."""
    swap_bytes, memory_bytes = spec.task.container.engine.memory_swap_bytes, spec.task.limits.memory_bytes
    path = "task.container.engine.memory_swap_bytes"
    if swap_bytes and not memory_bytes:
        yield (
            path,
            "needs a limit of memory (deploy.resources.limits.memory, mem_limit): it is memory and swap together",
        )
    elif 0 < swap_bytes < memory_bytes:
        yield (
            path,
            f"is {swap_bytes} bytes, less than the {memory_bytes} of the memory limit: it is memory and swap together",
        )


def volumes_out_of_reach(spec: JobSpec) -> Found:
    """Volumes of other namespaces are out of reach."""
    for place, mount in enumerate(spec.task.container.mounts):
        if mount.kind is MountKind.VOLUME and not mount.source.startswith(volume_name(spec.namespace, "")):
            text = f"volume {mount.source} is not of namespace {spec.namespace}: those begin with {spec.namespace}_"
            yield f"task.container.mounts[{place}].source", text


def _mounts(container: Container) -> Found:
    yield from at_most("mounts", container.mounts, LIMITS.mounts_per_job)
    seen: set[str] = set()
    for place, mount in enumerate(container.mounts):
        path = f"mounts[{place}]"
        target = mount.target.rstrip("/") or "/"
        yield from one(f"{path}.target", mount_path_fault(mount.target) or _root_fault(target))
        if target in seen:
            yield f"{path}.target", f"{target} is mounted twice"
        seen.add(target)
        match mount.kind:
            case MountKind.VOLUME:
                yield from one(f"{path}.source", volume_fault(mount.source))
            case MountKind.BIND:
                yield from one(f"{path}.source", mount_path_fault(mount.source))
            case MountKind.TMPFS:
                yield from in_range(f"{path}.size_bytes", mount.size_bytes, 0, LIMITS.largest_integer)
            case _:
                assert_never(mount.kind)
        if not container.image:
            yield from one(path, _process_mount_fault(mount))


def _privileges(container: Container, has_ports: bool) -> Found:
    """What they may be; whether a node gives them is its policy's to say."""
    given = container.privileges
    for name in ("cap_add", "devices", "unconfined"):
        yield from at_most(name, getattr(given, name), RULES_LIMIT)
    for name in given.cap_add:
        yield from one("cap_add", engine_options.capability_fault(name))
    for place, device in enumerate(given.devices):
        yield from below(f"devices[{place}]", _host_device(device))
    for name in given.unconfined:
        if name not in UNCONFINED:
            yield "unconfined", f"{shown(name)} is given; allowed are {', '.join(UNCONFINED)}"
    if given.host_network and has_ports:
        text = "a task in its node's own network has the node's ports: nothing can be published; leave ports out"
        yield "host_network", text
    if given.host_network and (container.engine.sysctls or container.hostname or container.engine.extra_hosts):
        yield "host_network", "a task in its node's own network has no hostname, extra_hosts or sysctls of its own"


def _host_device(device: HostDevice) -> Found:
    for name in ("source", "target"):
        path: str = getattr(device, name)
        inside = path.startswith("/dev/") and path.rstrip("/") != "/dev"
        yield from one(name, mount_path_fault(path) or ("" if inside else f"{shown(path)} is not below /dev"))
    if not device.permissions or set(device.permissions) - set("rwm"):
        yield "permissions", f"{shown(device.permissions)} is given; allowed are r, w and m"


def _root_fault(target: str) -> str:
    return "is the root of the container: mount something below it" if target == "/" else ""


def _process_mount_fault(mount: Mount) -> str:
    """A plain process sees the node's own files: what it cannot be given there is refused, not forgotten."""
    if mount.kind is MountKind.TMPFS:
        return "tmpfs needs an image: a job without one runs as a plain process on the node's own file system"
    if mount.read_only:
        return "read_only needs an image: a plain process could write it all the same"
    if mount.kind is MountKind.BIND and mount.target.rstrip("/") != mount.source.rstrip("/"):
        return f"a plain process finds {mount.source} where it is: give the same path as target, or an image"
    return ""


def _reference_fault(image: str) -> str:
    try:
        parse_reference(image)
    except Invalid as error:
        return str(error)
    return ""


def _process(container: Container, has_ports: bool) -> Found:
    """A job without an image runs as a plain process: what only a container can have is refused, not forgotten."""
    if not container.command and not container.entrypoint:
        yield "image", "neither an image nor a command is given: name an image, or a command to run as a plain process"
    needs_image = {
        "hostname": bool(container.hostname),
        "init": container.init,
        "read_only": container.read_only,
        "tmpfs": bool(container.tmpfs),
        "pull_policy": container.pull_policy is not PullPolicy.MISSING,
        "engine": container.engine != EngineOptions(),
        "privileges": container.privileges != Privileges(),
    }
    for field, given in needs_image.items():
        if given:
            yield field, "needs an image: a job without one runs as a plain process on the node's own file system"
    if has_ports and "PORT" in container.environment:
        yield "environment.PORT", "is chosen by the agent for a job without an image: listen on $PORT, leave it unset"


def _hooks(path: str, hooks: Sequence[Hook], *, has_image: bool) -> Found:
    yield from at_most(path, hooks, RULES_LIMIT)
    for place, hook in enumerate(hooks):
        here = f"{path}[{place}]"
        if not hook.command:
            yield f"{here}.command", "is empty: what is to be run"
        yield from _arguments(f"{here}.command", hook.command)
        if hook.user and not has_image:
            yield f"{here}.user", "needs an image: beside a plain process, hooks run as its user"
        seen = Container(user=hook.user, working_dir=hook.working_dir)
        yield from below(here, _identity(seen))
        yield from below(here, _environment(hook.environment))


def _arguments(path: str, arguments: Sequence[str]) -> Found:
    yield from at_most(path, arguments, LIST_LIMIT)
    for place, argument in enumerate(arguments):
        yield from plain_text(f"{path}[{place}]", argument)
    if arguments and not arguments[0]:
        yield f"{path}[0]", "is empty: the first element names the program"


def _environment(environment: Mapping[str, str]) -> Found:
    size = 0
    for name, value in environment.items():
        path = f"environment.{name}" if is_plain(name) else "environment"
        size += len(name) + len(value) + 2
        if not name or "=" in name or not is_plain(name):
            yield path, f"{shown(name)} is not a name of a variable: it must not be empty nor contain '=' or NUL"
        elif name in AGENT_VARIABLES or name.startswith(AGENT_VARIABLE_PREFIXES):
            yield path, "is set by the agent and cannot be given"
        yield from plain_text(path, value)
    if size > LIMITS.environment_bytes:
        yield "environment", f"is {size} bytes in all; at most {LIMITS.environment_bytes} are allowed"


def _reserved_labels(labels: Mapping[str, str]) -> Found:
    for key in labels:
        if key.startswith(RESERVED_LABEL_PREFIX):
            yield f"labels.{key}", f"labels under {RESERVED_LABEL_PREFIX} belong to Podium: choose another name"


def _identity(container: Container) -> Found:
    if container.working_dir and not container.working_dir.startswith("/"):
        yield "working_dir", f"{shown(container.working_dir)} is not an absolute path"
    yield from plain_text("working_dir", container.working_dir)
    if container.user:
        yield from one("user", user_fault(container.user))
    if container.hostname and not _HOSTNAME.fullmatch(container.hostname):
        yield "hostname", f"{shown(container.hostname)} is not a host name of RFC 1123, at most 64 characters long"


def user_fault(user: str) -> str:
    """What is wrong with the name of a user; empty when it can be one."""
    return "" if _USER.fullmatch(user) else f"{shown(user)} is not a user: write NAME, UID, NAME:GROUP or UID:GID"


def _tmpfs(mounts: Sequence[str]) -> Found:
    yield from at_most("tmpfs", mounts, RULES_LIMIT)
    for place, mount in enumerate(mounts):
        path = f"tmpfs[{place}]"
        if not mount.startswith("/"):
            yield path, f"{shown(mount)} is not a mount: write /PATH or /PATH:OPTIONS, e.g. /run:size=64m"
        yield from plain_text(path, mount)


def _signal_fault(name: str) -> str:
    if name.isascii() and name.isdigit() and len(name) <= 2 and 1 <= int(name) <= 64:
        return ""
    if _SIGNAL.fullmatch(name):
        return ""
    return f"{shown(name)} is not a signal: write a name like SIGTERM, SIGINT or SIGQUIT, or a number from 1 to 64"
