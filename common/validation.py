"""What a job spec must satisfy, wherever it came from: a Compose file, `podium run` or another program.

Owns the semantic rules (names, ranges, sizes, what belongs together) and the sentences that explain them. Pure: looks
at one spec alone, so what two jobs may not share (a published port, a name) is decided where both are known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

import msgspec

from common import engine_options
from common.constraints import attribute_fault, constraint_fault
from common.errors import Fault, Invalid
from common.model.device import WHOLE_MILLIS, DeviceRequest
from common.model.job import (
    HIGHEST_PRIORITY,
    HIGHEST_WEIGHT,
    Affinity,
    BatchPolicy,
    Container,
    EngineOptions,
    FailureAction,
    HealthCheck,
    JobMode,
    JobSpec,
    Mount,
    MountKind,
    Placement,
    Port,
    Protocol,
    ProxyProtocol,
    PublishMode,
    PullPolicy,
    RestartCondition,
    RestartPolicy,
    Schedule,
    TaskSpec,
    UpdateOrder,
    UpdatePolicy,
)
from common.model.resources import Resources
from common.model.rollout import Canary
from common.mounts import mount_path_fault, volume_fault, volume_name
from common.references import parse_reference
from common.schedule import expression_fault, timezone_fault
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
AGENT_VARIABLE_PREFIXES = ("PODIUM_PORT_", "PODIUM_DEVICE_")
RESERVED_LABEL_PREFIX = "podium."
"""By labels under it an agent recognises its own containers."""
_SIGNAL = re.compile(
    "(?:SIG)?(?:ABRT|ALRM|BUS|CHLD|CONT|FPE|HUP|ILL|INT|IO|KILL|PIPE|PROF|PWR|QUIT|SEGV|STKFLT|STOP|SYS|TERM|TRAP|TSTP"
    "|TTIN|TTOU|URG|USR1|USR2|VTALRM|WINCH|XCPU|XFSZ)"
)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOSTNAME = re.compile(
    r"(?=.{1,64}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]")
_HOST_CHARACTERS = 253
_PATH_CHARACTERS = 512
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(?::[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?")
_SECONDS_LIMIT = 7 * 24 * 3600.0
_CPU_MILLIS_LIMIT = 10_000 * 1000
_MEMORY_BYTES_LIMIT = 1 << 50
_DOCKER_MEMORY_BYTES_MINIMUM = 6 * 1024 * 1024
_LIST_LIMIT = 1_000
_RULES_LIMIT = 64
_CANARY_STEPS_LIMIT = 20
_LABEL_KEY_CHARACTERS = 256
_DEVICE_MODEL_CHARACTERS = 128
_SHARE_SUFFIX = "-share"
RUNNABLE_NAME_CHARACTERS = 63 - len("-20260329-030000")
"""Of a job with a schedule: its runs are named after it and when they were due."""


def faults(spec: JobSpec) -> tuple[Fault, ...]:
    """Everything wrong with a spec; paths are those of `JobSpec`'s fields, e.g. `task.container.image`."""
    found = tuple(Fault(path=path, text=text) for path, text in _spec(spec))
    return found or tuple(Fault(path=path, text=text) for path, text in _whole(spec))


def name_fault(name: str) -> str:
    """What is wrong with a name of a job or namespace; empty when it is an RFC 1123 label."""
    if _LABEL.fullmatch(name):
        return ""
    return f"{_shown(name)} is not a name: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"


def host_fault(host: str) -> str:
    """What is wrong with the host name of a route; empty when it can be one."""
    labels = host.split(".")
    if len(host) <= _HOST_CHARACTERS and all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit():
        return ""
    return f"{_shown(host)} is not a host name: write one like shop.example.com, without a port and without wildcards"


def path_fault(path: str) -> str:
    """What is wrong with the path of a route; empty when it can be one."""
    if path == "/" or (len(path) <= _PATH_CHARACTERS and _PATH.fullmatch(path) and "//" not in path):
        return ""
    return f"{_shown(path)} is not a path: write one like /shop, of letters, digits and - . _ ~, not ending in a slash"


def device_kind_fault(kind: str) -> str:
    """What is wrong with the name of a kind of device; empty when it can be one."""
    if fault := name_fault(kind):
        return fault
    if kind.endswith(_SHARE_SUFFIX):
        return f"{kind} ends in {_SHARE_SUFFIX}: a task is told its share of a device under that name; choose another"
    return ""


def device_model_fault(model: str) -> str:
    """What is wrong with the name of a model; empty when it can be one."""
    if model and model.isprintable() and model == model.strip() and len(model) <= _DEVICE_MODEL_CHARACTERS:
        return ""
    return f"{_shown(model)} is not a model: write 1 to {_DEVICE_MODEL_CHARACTERS} printable characters, e.g. A10"


_Found = Iterator[tuple[str, str]]


def _spec(spec: JobSpec) -> _Found:
    yield from _one("namespace", name_fault(spec.namespace))
    yield from _one("name", name_fault(spec.name))
    yield from _range("replicas", spec.replicas, 0, LIMITS.replicas)
    if spec.mode.per_node:
        yield from _per_node(spec)
    yield from _range("priority", spec.priority, 0, HIGHEST_PRIORITY)
    yield from _labels("labels", spec.labels)
    yield from _dependencies(spec)
    if spec.schedule is not None:
        yield from _below("schedule", _schedule(spec.schedule))
        yield from _scheduled(spec)
    yield from _below("update", _update(spec.update))
    yield from _below("batch", _batch(spec))
    if spec.gang:
        yield from _gang(spec)
    yield from _below("update", _strategy(spec))
    if spec.rollback is not None:
        yield from _below("rollback", _rollback(spec.rollback))
    yield from _below("task", _task(spec.task))
    yield from _own_volumes(spec)
    if spec.mode.ends and spec.task.restart.condition is RestartCondition.ANY:
        yield "task.restart.condition", "a batch job with restart condition any would never end: use on-failure or none"


def _whole(spec: JobSpec) -> _Found:
    """Only of a spec that is right in its parts: its size as it is stored."""
    size = len(msgspec.json.encode(spec))
    if size > LIMITS.spec_bytes:
        yield "", f"the spec is {size} bytes; at most {LIMITS.spec_bytes} are allowed: put data into an image or a file"


def _dependencies(spec: JobSpec) -> _Found:
    yield from _count("depends_on", spec.depends_on, _LIST_LIMIT)
    seen: set[str] = set()
    for dependency in spec.depends_on:
        name = dependency.full_name_seen_from(spec.namespace)
        shown = name if dependency.namespace else dependency.job
        path = f"depends_on.{shown}"
        if fault := name_fault(dependency.job) or (dependency.namespace and name_fault(dependency.namespace)):
            yield "depends_on", fault
        elif name == spec.full_name:
            yield path, "a job cannot depend on itself"
        elif name in seen:
            yield path, f"{shown} is listed twice"
        seen.add(name)


def _schedule(schedule: Schedule) -> _Found:
    yield from _one("cron", expression_fault(schedule.cron))
    yield from _one("timezone", timezone_fault(schedule.timezone))
    yield from _range("keep", schedule.keep, 0, LIMITS.runs_kept)
    yield from _seconds("start_within_s", schedule.start_within_s, least=1.0)


def _scheduled(spec: JobSpec) -> _Found:
    """What a job that runs again and again cannot be besides."""
    if not spec.mode.ends:
        yield "mode", "a run of a schedule has to end: make it a job whose tasks do"
    if len(spec.name) > RUNNABLE_NAME_CHARACTERS:
        text = f"{spec.name} is {len(spec.name)} characters; with a schedule at most {RUNNABLE_NAME_CHARACTERS} are "
        yield "name", f"{text}allowed, since its runs are named after it"
    for place, port in enumerate(spec.task.ports):
        if port.public_names:
            text = "a job with a schedule publishes nothing for the cluster: it comes and goes; use a port of mode host"
            yield f"task.ports[{place}]", text


def _per_node(spec: JobSpec) -> _Found:
    """What a job with a slot for each node cannot say besides."""
    if spec.replicas != 1:
        yield "replicas", f"{spec.replicas} replicas of a job with a task on every node that fits: leave it at 1"
    if spec.task.placement.max_replicas_per_node:
        text = "says nothing of a job that has one task on each node: leave it out"
        yield "task.placement.max_replicas_per_node", text


def _gang(spec: JobSpec) -> _Found:
    if spec.mode.per_node:
        yield "gang", "a job with a task on every node is no gang: it has no fixed number of tasks"
    if spec.replicas > LIMITS.gang_tasks:
        text = f"{spec.replicas} tasks; a gang has at most {LIMITS.gang_tasks}, since they are placed in one commit"
        yield "replicas", text
    if 0 < spec.batch.parallelism < spec.replicas:
        text = f"{spec.batch.parallelism} at a time; a gang of {spec.replicas} runs all at once: leave it out"
        yield "batch.parallelism", text


def _batch(spec: JobSpec) -> _Found:
    batch = spec.batch
    if not spec.mode.ends:
        for name in BatchPolicy.__struct_fields__:
            if getattr(batch, name) != getattr(BatchPolicy(), name):
                yield name, f"is of jobs whose tasks end, and this one is a {spec.mode.value}: leave it out"
        return
    yield from _range("parallelism", batch.parallelism, 0, LIMITS.replicas)
    yield from _range("attempts", batch.attempts, 1, LIMITS.attempts)
    yield from _seconds("deadline_s", batch.deadline_s)


def _update(update: UpdatePolicy) -> _Found:
    yield from _range("parallelism", update.parallelism, 0, LIMITS.replicas)
    yield from _seconds("delay_s", update.delay_s)
    yield from _seconds("monitor_s", update.monitor_s)
    yield from _seconds("progress_deadline_s", update.progress_deadline_s)
    if not 0 <= update.max_failure_ratio <= 1:
        yield "max_failure_ratio", f"{update.max_failure_ratio} is not a ratio: allowed is 0 to 1"


def _rollback(policy: UpdatePolicy) -> _Found:
    yield from _update(policy)
    if policy.failure_action is FailureAction.ROLLBACK:
        yield "failure_action", "a rollback that fails cannot be rolled back: use pause or continue"
    if policy.canary is not None or policy.blue_green is not None:
        yield "", "a rollback is always a rolling one: leave canary and blue_green out"


def _strategy(spec: JobSpec) -> _Found:
    """Of a rollout in which two versions run side by side."""
    update = spec.update
    for field, asked in (("canary", update.canary), ("blue_green", update.blue_green)):
        if asked is not None and (because := _not_side_by_side(spec)):
            yield field, f"runs two versions of each replica side by side, and {because}"
    if update.canary is not None and update.blue_green is not None:
        yield "blue_green", "is given together with canary: choose one of the two"
    if update.canary is not None:
        yield from _below("canary", _canary(update.canary))
    if update.blue_green is not None:
        yield from _seconds("blue_green.bake_s", update.blue_green.bake_s)


def _not_side_by_side(spec: JobSpec) -> str:
    if spec.mode is not JobMode.SERVICE:
        return f"the job's mode is {spec.mode.value}: only a service with replicas can"
    if spec.gang:
        return "it is a gang: all of it stops before the next version starts"
    if spec.update.order is UpdateOrder.STOP_FIRST:
        return "its update order is stop-first: use start-first"
    if spec.task.exclusive:
        return "it is exclusive: at most one of it may run"
    host = next((port for port in spec.task.ports if port.mode is PublishMode.HOST), None)
    return f"it binds port {host.published_port} of its node: use mode ingress" if host is not None else ""


def _canary(canary: Canary) -> _Found:
    yield from _count("steps", canary.steps, _CANARY_STEPS_LIMIT)
    if not canary.steps:
        yield "steps", "is empty: write at least one step"
    before = 0
    for place, step in enumerate(canary.steps):
        path = f"steps[{place}]"
        yield from _range(f"{path}.replicas", step.replicas, 1, LIMITS.replicas)
        yield from _range(f"{path}.weight", step.weight, 0, 99)
        yield from _seconds(f"{path}.bake_s", step.bake_s)
        if step.replicas < before:
            yield path, f"asks for {step.replicas} replicas after {before}: a step cannot ask for fewer than the last"
        before = step.replicas


def _task(task: TaskSpec) -> _Found:
    yield from _below("container", _container(task.container, bool(task.ports)))
    yield from _ports(task.ports)
    yield from _below("reservations", _resources(task.reservations))
    yield from _below("limits", _resources(task.limits))
    yield from _reservations_in_limits(task)
    yield from _devices(task.devices)
    yield from _below("placement", _placement(task.placement))
    if task.health_check is not None:
        yield from _below("health_check", _health_check(task.health_check))
    yield from _below("restart", _restart(task.restart))
    yield from _seconds("slow_start_s", task.slow_start_s)


# --- container


def _container(container: Container, has_ports: bool) -> _Found:
    if container.image:
        yield from _one("image", _reference_fault(container.image))
    else:
        yield from _process(container, has_ports)
    yield from _arguments("entrypoint", container.entrypoint)
    yield from _arguments("command", container.command)
    yield from _environment(container.environment)
    yield from _labels("labels", container.labels)
    yield from _reserved_labels(container.labels)
    yield from _identity(container)
    yield from _tmpfs(container.tmpfs)
    yield from _mounts(container)
    yield from _below("engine", iter(engine_options.faults(container.engine)))
    yield from _one("stop_signal", _signal_fault(container.stop_signal))
    yield from _seconds("stop_grace_s", container.stop_grace_s)


def _mounts(container: Container) -> _Found:
    yield from _count("mounts", container.mounts, LIMITS.mounts_per_job)
    seen: set[str] = set()
    for place, mount in enumerate(container.mounts):
        path = f"mounts[{place}]"
        target = mount.target.rstrip("/") or "/"
        yield from _one(f"{path}.target", mount_path_fault(mount.target) or _root_fault(target))
        if target in seen:
            yield f"{path}.target", f"{target} is mounted twice"
        seen.add(target)
        match mount.kind:
            case MountKind.VOLUME:
                yield from _one(f"{path}.source", volume_fault(mount.source))
            case MountKind.BIND:
                yield from _one(f"{path}.source", mount_path_fault(mount.source))
            case MountKind.TMPFS:
                yield from _range(f"{path}.size_bytes", mount.size_bytes, 0, LIMITS.largest_integer)
            case _:
                assert_never(mount.kind)
        if not container.image:
            yield from _one(path, _process_mount_fault(mount))


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


def _own_volumes(spec: JobSpec) -> _Found:
    """Volumes of other namespaces are out of reach."""
    for place, mount in enumerate(spec.task.container.mounts):
        if mount.kind is MountKind.VOLUME and not mount.source.startswith(volume_name(spec.namespace, "")):
            text = f"volume {mount.source} is not of namespace {spec.namespace}: those begin with {spec.namespace}_"
            yield f"task.container.mounts[{place}].source", text


def _reference_fault(image: str) -> str:
    try:
        parse_reference(image)
    except Invalid as error:
        return str(error)
    return ""


def _process(container: Container, has_ports: bool) -> _Found:
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
    }
    for field, given in needs_image.items():
        if given:
            yield field, "needs an image: a job without one runs as a plain process on the node's own file system"
    if has_ports and "PORT" in container.environment:
        yield "environment.PORT", "is chosen by the agent for a job without an image: listen on $PORT, leave it unset"


def _arguments(path: str, arguments: Sequence[str]) -> _Found:
    yield from _count(path, arguments, _LIST_LIMIT)
    for place, argument in enumerate(arguments):
        yield from _text(f"{path}[{place}]", argument)
    if arguments and not arguments[0]:
        yield f"{path}[0]", "is empty: the first element names the program"


def _environment(environment: Mapping[str, str]) -> _Found:
    size = 0
    for name, value in environment.items():
        path = f"environment.{name}" if _plain(name) else "environment"
        size += len(name) + len(value) + 2
        if not name or "=" in name or not _plain(name):
            yield path, f"{_shown(name)} is not a name of a variable: it must not be empty nor contain '=' or NUL"
        elif name in AGENT_VARIABLES or name.startswith(AGENT_VARIABLE_PREFIXES):
            yield path, "is set by the agent and cannot be given"
        yield from _text(path, value)
    if size > LIMITS.environment_bytes:
        yield "environment", f"is {size} bytes in all; at most {LIMITS.environment_bytes} are allowed"


def _reserved_labels(labels: Mapping[str, str]) -> _Found:
    for key in labels:
        if key.startswith(RESERVED_LABEL_PREFIX):
            yield f"labels.{key}", f"labels under {RESERVED_LABEL_PREFIX} belong to Podium: choose another name"


def _identity(container: Container) -> _Found:
    if container.working_dir and not container.working_dir.startswith("/"):
        yield "working_dir", f"{_shown(container.working_dir)} is not an absolute path"
    yield from _text("working_dir", container.working_dir)
    if container.user and not _USER.fullmatch(container.user):
        yield "user", f"{_shown(container.user)} is not a user: write NAME, UID, NAME:GROUP or UID:GID"
    if container.hostname and not _HOSTNAME.fullmatch(container.hostname):
        yield "hostname", f"{_shown(container.hostname)} is not a host name of RFC 1123, at most 64 characters long"


def _tmpfs(mounts: Sequence[str]) -> _Found:
    yield from _count("tmpfs", mounts, _RULES_LIMIT)
    for place, mount in enumerate(mounts):
        path = f"tmpfs[{place}]"
        if not mount.startswith("/"):
            yield path, f"{_shown(mount)} is not a mount: write /PATH or /PATH:OPTIONS, e.g. /run:size=64m"
        yield from _text(path, mount)


def _signal_fault(name: str) -> str:
    if name.isascii() and name.isdigit() and len(name) <= 2 and 1 <= int(name) <= 64:
        return ""
    if _SIGNAL.fullmatch(name):
        return ""
    return f"{_shown(name)} is not a signal: write a name like SIGTERM, SIGINT or SIGQUIT, or a number from 1 to 64"


# --- ports and resources


def _ports(ports: Sequence[Port]) -> _Found:
    yield from _count("ports", ports, LIMITS.ports_per_job)
    seen: dict[str, int] = {}
    for place, port in enumerate(ports):
        path = f"ports[{place}]"
        yield from _range(f"{path}.container_port", port.container_port, 1, 65535)
        yield from _range(f"{path}.published_port", port.published_port, 0, 65535)
        if port.mode is PublishMode.HOST and not port.published_port:
            yield f"{path}.published_port", "mode host needs a published port"
        key = f"{port.published_port}/{port.protocol.value}"
        if port.published_port and key in seen:
            yield path, f"{key} is published already by ports[{seen[key]}] of this job"
        seen.setdefault(key, place)
        yield from _below(path, _routes(port, seen, place))
        if port.proxy_protocol is not ProxyProtocol.NONE and port.protocol is not Protocol.TCP:
            yield f"{path}.proxy_protocol", "is for TCP ports only"


def _routes(port: Port, seen: dict[str, int], place: int) -> _Found:
    yield from _count("http", port.http, _RULES_LIMIT)
    if port.http and port.protocol is not Protocol.TCP:
        yield "http[0]", "requests are routed to TCP ports only"
    for number, route in enumerate(port.http):
        path = f"http[{number}]"
        yield from _one(f"{path}.host", host_fault(route.host))
        yield from _one(f"{path}.path", path_fault(route.path))
        if route.tls:
            yield from _one(f"{path}.tls", name_fault(route.tls))
        if str(route) in seen:
            yield path, f"requests for {route} are routed already by this job"
        seen.setdefault(str(route), place)


def _resources(resources: Resources) -> _Found:
    yield from _range("cpu_millis", resources.cpu_millis, 0, _CPU_MILLIS_LIMIT)
    yield from _range("memory_bytes", resources.memory_bytes, 0, _MEMORY_BYTES_LIMIT)


def _reservations_in_limits(task: TaskSpec) -> _Found:
    reserved, limits = task.reservations, task.limits
    if 0 < limits.cpu_millis < reserved.cpu_millis:
        yield "reservations.cpu_millis", f"{reserved.cpu_millis} reserved is more than the limit of {limits.cpu_millis}"
    if 0 < limits.memory_bytes < reserved.memory_bytes:
        text = f"{reserved.memory_bytes} bytes reserved are more than the limit of {limits.memory_bytes}"
        yield "reservations.memory_bytes", text
    if task.container.image and 0 < limits.memory_bytes < _DOCKER_MEMORY_BYTES_MINIMUM:
        text = f"{limits.memory_bytes} bytes is below the least that a container can have, 6 MiB"
        yield "limits.memory_bytes", text


def _devices(requests: Sequence[DeviceRequest]) -> _Found:
    yield from _count("devices", requests, _RULES_LIMIT)
    seen: dict[str, int] = {}
    for place, request in enumerate(requests):
        path = f"devices[{place}]"
        yield from _below(path, _device(request))
        if request.kind in seen:
            yield path, f"{request.kind} is asked for already by devices[{seen[request.kind]}]: ask once for each kind"
        seen.setdefault(request.kind, place)


def _device(request: DeviceRequest) -> _Found:
    yield from _one("kind", device_kind_fault(request.kind))
    yield from _range("count", request.count, 1, LIMITS.devices_per_kind)
    yield from _range("share_millis", request.share_millis, 1, WHOLE_MILLIS)
    if 0 < request.share_millis < WHOLE_MILLIS and request.count > 1:
        yield "share_millis", f"a share is of one device, {request.count} are asked for: leave one of the two out"
    yield from _count("models", request.models, _RULES_LIMIT)
    for place, model in enumerate(request.models):
        yield from _one(f"models[{place}]", device_model_fault(model))


def _placement(placement: Placement) -> _Found:
    yield from _count("constraints", placement.constraints, _RULES_LIMIT)
    for place, constraint in enumerate(placement.constraints):
        yield from _one(f"constraints[{place}]", constraint_fault(constraint))
    yield from _count("spread", placement.spread, _RULES_LIMIT)
    for place, attribute in enumerate(placement.spread):
        yield from _one(f"spread[{place}]", attribute_fault(attribute))
    yield from _range("max_replicas_per_node", placement.max_replicas_per_node, 0, LIMITS.replicas)
    yield from _count("affinities", placement.affinities, _RULES_LIMIT)
    for place, affinity in enumerate(placement.affinities):
        yield from _below(f"affinities[{place}]", _affinity(affinity))


def _affinity(affinity: Affinity) -> _Found:
    if affinity.constraint is not None:
        yield from _one("constraint", constraint_fault(affinity.constraint))
        if affinity.job:
            yield "job", "an affinity is to nodes (constraint) or to a job: give one of the two"
        if affinity.within:
            yield "within", "belongs to an affinity to a job"
        if affinity.required:
            yield "required", "nodes that a task must have are asked for with deploy.placement.constraints"
    else:
        yield from _one("job", _full_name_fault(affinity.job))
    if affinity.within:
        yield from _one("within", attribute_fault(affinity.within))
    yield from _range("weight", affinity.weight, 1, HIGHEST_WEIGHT)


def _full_name_fault(full_name: str) -> str:
    namespace, slash, name = full_name.partition("/")
    if not full_name:
        return "must be given, or a constraint: what is the affinity to?"
    return (name_fault(namespace) or name_fault(name)) if slash else f"{_shown(full_name)} is not NAMESPACE/NAME"


# --- health and restarts


def _health_check(check: HealthCheck) -> _Found:
    kind, *arguments = check.test or ("",)
    if kind not in {"CMD", "CMD-SHELL"}:
        yield "test", f"begins with {_shown(kind)}: the first element must be CMD or CMD-SHELL"
    elif not arguments or not arguments[0]:
        yield "test", f"{kind} is followed by no command"
    elif kind == "CMD-SHELL" and len(arguments) > 1:
        yield "test", f"CMD-SHELL takes one line, {len(arguments)} elements are given: use CMD for an argument list"
    for place, argument in enumerate(check.test):
        yield from _text(f"test[{place}]", argument)
    yield from _seconds("interval_s", check.interval_s, least=0.001)
    yield from _seconds("timeout_s", check.timeout_s, least=0.001)
    yield from _range("retries", check.retries, 1, 1_000)
    yield from _seconds("start_period_s", check.start_period_s)
    yield from _seconds("start_interval_s", check.start_interval_s, least=0.001)


def _restart(restart: RestartPolicy) -> _Found:
    yield from _seconds("delay_s", restart.delay_s)
    yield from _range("max_attempts", restart.max_attempts, 0, 1_000_000)
    yield from _seconds("window_s", restart.window_s, least=0.001)


# --- what recurs


def _one(path: str, fault: str) -> _Found:
    if fault:
        yield path, fault


def _below(prefix: str, found: _Found) -> _Found:
    for path, text in found:
        yield f"{prefix}.{path}", text


def _range(path: str, value: int, least: int, most: int) -> _Found:
    if not least <= value <= most:
        yield path, f"{value} is out of range: allowed is {least} to {most}"


def _seconds(path: str, value: float, least: float = 0.0) -> _Found:
    if not math.isfinite(value) or not least <= value <= _SECONDS_LIMIT:
        yield path, f"{value} seconds is out of range: allowed is {least:g} to {_SECONDS_LIMIT:.0f} (7 days)"


def _count(path: str, items: Sequence[object] | Mapping[str, str], most: int) -> _Found:
    if len(items) > most:
        yield path, f"has {len(items)} entries; at most {most} are allowed"


def _labels(path: str, labels: Mapping[str, str]) -> _Found:
    yield from _count(path, labels, LIMITS.labels_per_object)
    for key, value in labels.items():
        if not key or not key.isprintable() or "=" in key or len(key) > _LABEL_KEY_CHARACTERS or key != key.strip():
            allowed = f"1 to {_LABEL_KEY_CHARACTERS} printable characters without '='"
            yield path, f"{_shown(key)} is not a name of a label: {allowed}"
        else:
            yield from _text(f"{path}.{key}", value)


def _text(path: str, value: str) -> _Found:
    if not _plain(value):
        yield path, f"{_shown(value)} contains a NUL or half a surrogate pair, which no program can be given"


def _plain(text: str) -> bool:
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _shown(text: str) -> str:
    """As a person should see it in a message: quoted, escaped, and cut when it is long."""
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
