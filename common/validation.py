"""What a job spec must satisfy, wherever it came from: a Compose file, `podium run` or another program.

Owns the semantic rules (names, ranges, sizes, what belongs together) and the sentences that explain them; those of
containers, placement and rollouts stand in files of their own beside it. Pure: looks at one spec alone, so what two
jobs may not share (a published port, a name) is decided where both are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from common.autoscale_rules import autoscale_faults
from common.container_rules import container_faults, swap_fault, volumes_out_of_reach
from common.errors import Fault
from common.model.device import WHOLE_MILLIS, DeviceRequest
from common.model.job import (
    HIGHEST_PRIORITY,
    BatchPolicy,
    HealthCheck,
    JobSpec,
    Port,
    Protocol,
    ProxyProtocol,
    PublishMode,
    RestartCondition,
    RestartPolicy,
    Schedule,
    TaskSpec,
)
from common.model.resources import Resources
from common.names import alias_fault, device_kind_fault, device_model_fault, host_fault, name_fault, path_fault
from common.placement_rules import placement_faults
from common.rollout_rules import rollback_faults, strategy_faults, update_faults
from common.rules import (
    LIST_LIMIT,
    RULES_LIMIT,
    Found,
    at_most,
    below,
    in_range,
    in_seconds,
    label_map,
    one,
    plain_text,
    shown,
)
from common.schedule import expression_fault, timezone_fault
from common.settings import LIMITS

_CPU_MILLIS_LIMIT = 10_000 * 1000
_MEMORY_BYTES_LIMIT = 1 << 50
_DOCKER_MEMORY_BYTES_MINIMUM = 6 * 1024 * 1024
ALIASES_LIMIT = 32
"""Of one job: every node that may call it knows all of them."""
RUNNABLE_NAME_CHARACTERS = 63 - len("-20260329-030000")
"""Of a job with a schedule: its runs are named after it and when they were due."""


def faults(spec: JobSpec) -> tuple[Fault, ...]:
    """Everything wrong with a spec; paths are those of `JobSpec`'s fields, e.g. `task.container.image`."""
    found = tuple(Fault(path=path, text=text) for path, text in _spec(spec))
    return found or tuple(Fault(path=path, text=text) for path, text in _whole(spec))


def _spec(spec: JobSpec) -> Found:
    yield from one("namespace", name_fault(spec.namespace))
    yield from one("name", name_fault(spec.name))
    yield from in_range("replicas", spec.replicas, 0, LIMITS.replicas)
    if spec.mode.per_node:
        yield from _per_node(spec)
    yield from in_range("priority", spec.priority, 0, HIGHEST_PRIORITY)
    yield from label_map("labels", spec.labels)
    yield from at_most("aliases", spec.aliases, ALIASES_LIMIT)
    for place, alias in enumerate(spec.aliases):
        yield from one(f"aliases[{place}]", alias_fault(alias))
    yield from _dependencies(spec)
    if spec.schedule is not None:
        yield from below("schedule", _schedule(spec.schedule))
        yield from _scheduled(spec)
    yield from below("update", update_faults(spec.update))
    yield from below("batch", _batch(spec))
    if spec.gang:
        yield from _gang(spec)
    yield from below("update", strategy_faults(spec))
    if spec.autoscale is not None:
        yield from below("autoscale", autoscale_faults(spec, spec.autoscale))
    if spec.rollback is not None:
        yield from below("rollback", rollback_faults(spec.rollback))
    yield from below("task", _task(spec.task))
    yield from volumes_out_of_reach(spec)
    yield from swap_fault(spec)
    if spec.mode.ends and spec.task.restart.condition is RestartCondition.ANY:
        yield "task.restart.condition", "a batch job with restart condition any would never end: use on-failure or none"


def _whole(spec: JobSpec) -> Found:
    """Only of a spec that is right in its parts: its size as it is stored."""
    size = len(msgspec.json.encode(spec))
    if size > LIMITS.spec_bytes:
        yield "", f"the spec is {size} bytes; at most {LIMITS.spec_bytes} are allowed: put data into an image or a file"


def _dependencies(spec: JobSpec) -> Found:
    yield from at_most("depends_on", spec.depends_on, LIST_LIMIT)
    seen: set[str] = set()
    for dependency in spec.depends_on:
        name = dependency.full_name_seen_from(spec.namespace)
        called = name if dependency.namespace else dependency.job
        path = f"depends_on.{called}"
        if fault := name_fault(dependency.job) or (dependency.namespace and name_fault(dependency.namespace)):
            yield "depends_on", fault
        elif name == spec.full_name:
            yield path, "a job cannot depend on itself"
        elif name in seen:
            yield path, f"{called} is listed twice"
        seen.add(name)


def _schedule(schedule: Schedule) -> Found:
    yield from one("cron", expression_fault(schedule.cron))
    yield from one("timezone", timezone_fault(schedule.timezone))
    yield from in_range("keep", schedule.keep, 0, LIMITS.runs_kept)
    yield from in_seconds("start_within_s", schedule.start_within_s, least=1.0)


def _scheduled(spec: JobSpec) -> Found:
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


def _per_node(spec: JobSpec) -> Found:
    """What a job with a slot for each node cannot say besides."""
    if spec.replicas != 1:
        yield "replicas", f"{spec.replicas} replicas of a job with a task on every node that fits: leave it at 1"
    if spec.task.placement.max_replicas_per_node:
        text = "says nothing of a job that has one task on each node: leave it out"
        yield "task.placement.max_replicas_per_node", text


def _gang(spec: JobSpec) -> Found:
    if spec.mode.per_node:
        yield "gang", "a job with a task on every node is no gang: it has no fixed number of tasks"
    if spec.replicas > LIMITS.gang_tasks:
        text = f"{spec.replicas} tasks; a gang has at most {LIMITS.gang_tasks}, since they are placed in one commit"
        yield "replicas", text
    if 0 < spec.batch.parallelism < spec.replicas:
        text = f"{spec.batch.parallelism} at a time; a gang of {spec.replicas} runs all at once: leave it out"
        yield "batch.parallelism", text


def _batch(spec: JobSpec) -> Found:
    batch = spec.batch
    if not spec.mode.ends:
        for name in BatchPolicy.__struct_fields__:
            if getattr(batch, name) != getattr(BatchPolicy(), name):
                yield name, f"is of jobs whose tasks end, and this one is a {spec.mode.value}: leave it out"
        return
    yield from in_range("parallelism", batch.parallelism, 0, LIMITS.replicas)
    yield from in_range("attempts", batch.attempts, 1, LIMITS.attempts)
    yield from in_seconds("deadline_s", batch.deadline_s)


def _task(task: TaskSpec) -> Found:
    yield from below("container", container_faults(task.container, bool(task.ports)))
    yield from _ports(task.ports)
    yield from below("reservations", _resources(task.reservations))
    yield from below("limits", _resources(task.limits))
    yield from _reservations_in_limits(task)
    yield from _devices(task.devices)
    yield from below("placement", placement_faults(task.placement))
    if task.health_check is not None:
        yield from below("health_check", _health_check(task.health_check))
    yield from below("restart", _restart(task.restart))
    yield from in_seconds("slow_start_s", task.slow_start_s)


# --- ports and resources


def _ports(ports: Sequence[Port]) -> Found:
    yield from at_most("ports", ports, LIMITS.ports_per_job)
    seen: dict[str, int] = {}
    for place, port in enumerate(ports):
        path = f"ports[{place}]"
        yield from in_range(f"{path}.container_port", port.container_port, 1, 65535)
        yield from in_range(f"{path}.published_port", port.published_port, 0, 65535)
        if port.mode is PublishMode.HOST and not port.published_port:
            yield f"{path}.published_port", "mode host needs a published port"
        key = f"{port.published_port}/{port.protocol.value}"
        if port.published_port and key in seen:
            yield path, f"{key} is published already by ports[{seen[key]}] of this job"
        seen.setdefault(key, place)
        yield from below(path, _routes(port, seen, place))
        if port.loopback and (port.mode is PublishMode.HOST or not port.published_port):
            yield f"{path}.loopback", "needs a published port in mode ingress: the other nodes must reach the task"
        if port.proxy_protocol is not ProxyProtocol.NONE and port.protocol is not Protocol.TCP:
            yield f"{path}.proxy_protocol", "is for TCP ports only"


def _routes(port: Port, seen: dict[str, int], place: int) -> Found:
    yield from at_most("http", port.http, RULES_LIMIT)
    if port.http and port.protocol is not Protocol.TCP:
        yield "http[0]", "requests are routed to TCP ports only"
    for number, route in enumerate(port.http):
        path = f"http[{number}]"
        yield from one(f"{path}.host", host_fault(route.host))
        yield from one(f"{path}.path", path_fault(route.path))
        if route.tls:
            yield from one(f"{path}.tls", name_fault(route.tls))
        if str(route) in seen:
            yield path, f"requests for {route} are routed already by this job"
        seen.setdefault(str(route), place)


def _resources(resources: Resources) -> Found:
    yield from in_range("cpu_millis", resources.cpu_millis, 0, _CPU_MILLIS_LIMIT)
    yield from in_range("memory_bytes", resources.memory_bytes, 0, _MEMORY_BYTES_LIMIT)


def _reservations_in_limits(task: TaskSpec) -> Found:
    reserved, limits = task.reservations, task.limits
    if 0 < limits.cpu_millis < reserved.cpu_millis:
        yield "reservations.cpu_millis", f"{reserved.cpu_millis} reserved is more than the limit of {limits.cpu_millis}"
    if 0 < limits.memory_bytes < reserved.memory_bytes:
        text = f"{reserved.memory_bytes} bytes reserved are more than the limit of {limits.memory_bytes}"
        yield "reservations.memory_bytes", text
    if task.container.image and 0 < limits.memory_bytes < _DOCKER_MEMORY_BYTES_MINIMUM:
        text = f"{limits.memory_bytes} bytes is below the least that a container can have, 6 MiB"
        yield "limits.memory_bytes", text


def _devices(requests: Sequence[DeviceRequest]) -> Found:
    yield from at_most("devices", requests, RULES_LIMIT)
    seen: dict[str, int] = {}
    for place, request in enumerate(requests):
        path = f"devices[{place}]"
        yield from below(path, _device(request))
        if request.kind in seen:
            yield path, f"{request.kind} is asked for already by devices[{seen[request.kind]}]: ask once for each kind"
        seen.setdefault(request.kind, place)


def _device(request: DeviceRequest) -> Found:
    yield from one("kind", device_kind_fault(request.kind))
    yield from in_range("count", request.count, 1, LIMITS.devices_per_kind)
    yield from in_range("share_millis", request.share_millis, 1, WHOLE_MILLIS)
    if 0 < request.share_millis < WHOLE_MILLIS and request.count > 1:
        yield "share_millis", f"a share is of one device, {request.count} are asked for: leave one of the two out"
    yield from at_most("models", request.models, RULES_LIMIT)
    for place, model in enumerate(request.models):
        yield from one(f"models[{place}]", device_model_fault(model))


# --- health and restarts


def _health_check(check: HealthCheck) -> Found:
    kind, *arguments = check.test or ("",)
    if kind not in {"CMD", "CMD-SHELL"}:
        yield "test", f"begins with {shown(kind)}: the first element must be CMD or CMD-SHELL"
    elif not arguments or not arguments[0]:
        yield "test", f"{kind} is followed by no command"
    elif kind == "CMD-SHELL" and len(arguments) > 1:
        yield "test", f"CMD-SHELL takes one line, {len(arguments)} elements are given: use CMD for an argument list"
    for place, argument in enumerate(check.test):
        yield from plain_text(f"test[{place}]", argument)
    yield from in_seconds("interval_s", check.interval_s, least=0.001)
    yield from in_seconds("timeout_s", check.timeout_s, least=0.001)
    yield from in_range("retries", check.retries, 1, 1_000)
    yield from in_seconds("start_period_s", check.start_period_s)
    yield from in_seconds("start_interval_s", check.start_interval_s, least=0.001)


def _restart(restart: RestartPolicy) -> Found:
    yield from in_seconds("delay_s", restart.delay_s)
    yield from in_range("max_attempts", restart.max_attempts, 0, 1_000_000)
    yield from in_seconds("window_s", restart.window_s, least=0.001)
