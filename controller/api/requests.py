"""What is wrong with an engineer's request before anything is asked of the state. Pure; lists all faults at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from common.errors import Fault, Invalid
from common.model.api import (
    AddedNodes,
    ApplyRequest,
    EventsRequest,
    JobsRequest,
    LogsRequest,
    MoveRequest,
    NodesRequest,
    RebalanceRequest,
    RemoveNodesRequest,
    RollbackRequest,
    ScaleRequest,
    SetQuota,
    WhatIfRequest,
)
from common.model.job import JobSpec
from common.model.quota import CPU, DEVICES, MEMORY, TASKS
from common.names import device_kind_fault, name_fault
from common.settings import LIMITS
from common.validation import faults as spec_faults
from controller.core.balance import MOVES_AT_MOST
from controller.core.exclusive import ExclusiveTimers, spec_fault

_KEY_LIMIT_CHARACTERS = 128
_QUOTA_LIMIT = 1 << 60
"""Sums of what is used stay within 64 bits."""
_LIMITS_LIMIT = 64
_NODES_LIMIT = 1_000
_CAPACITY_LIMIT = 2**50
ALL_LINES = -1
_TAIL_LIMIT_LINES = 10_000_000
"""Beyond what a task's output holds."""
_TIME_LIMIT_S = 253_402_300_799
"""The end of the year 9999, the last that RFC 3339 can write."""


def check_apply(request: ApplyRequest) -> None:
    """Raises `Invalid`."""
    _refuse(_apply(request))


def check_exclusive(request: ApplyRequest, timers: ExclusiveTimers) -> None:
    """Raises `Invalid` for exclusive jobs that take longer to stop than the cluster's timers leave them."""
    found = ((spec.name, spec_fault(spec, timers)) for spec in request.specs)
    _refuse(Fault(path=f"services.{name}.task.container.stop_grace_s", text=text) for name, text in found if text)


def check_queries(request: ApplyRequest, *, asks: bool) -> None:
    """Raises `Invalid` for jobs that are to be scaled by a query where no Prometheus can be asked."""
    text = "this cluster knows no Prometheus: start its controllers with --prometheus URL, or scale by something else"
    _refuse(
        Fault(path=f"services.{spec.name}.x-podium.autoscale.query", text=text)
        for spec in request.specs
        if not asks and spec.autoscale is not None and spec.autoscale.query is not None
    )


def check_scale(request: ScaleRequest) -> None:
    """Raises `Invalid`. The number of replicas is checked where the job is known."""
    names = [target.job for target in request.targets]
    _refuse([*_common(request.namespace, request.idempotency_key), *_names("targets", names), *_doubled(names)])


def check_jobs(request: JobsRequest) -> None:
    """Raises `Invalid`."""
    found = list(_common(request.namespace, request.idempotency_key))
    if request.jobs and request.all_jobs:
        found.append(Fault(path="jobs", text="names jobs and asks for all of them; do one of the two"))
    if not request.all_jobs:
        found += _names("jobs", request.jobs)
    _refuse([*found, *_doubled(request.jobs)])


def check_rollback(request: RollbackRequest) -> None:
    """Raises `Invalid`. Which versions there are is known elsewhere."""
    found = [*_common(request.namespace, request.idempotency_key), *_names("job", (request.job,))]
    if request.version < 0:
        found.append(Fault(path="version", text=f"{request.version} is given; allowed is 1 or more, or 0 for the last"))
    _refuse(found)


def check_nodes(request: NodesRequest | RemoveNodesRequest) -> None:
    """Raises `Invalid`. Which nodes there are is known elsewhere."""
    count = len(request.nodes)
    found = list(_key(request.idempotency_key))
    if not count:
        found.append(Fault(path="nodes", text="names no node"))
    if count > _NODES_LIMIT:
        found.append(Fault(path="nodes", text=f"names {count} nodes; at most {_NODES_LIMIT} are allowed at once"))
    _refuse(found)


def check_move(request: MoveRequest) -> None:
    """Raises `Invalid`. Which tasks and nodes there are is known elsewhere."""
    found = list(_common(request.namespace, request.idempotency_key))
    if not 0 < len(request.tasks) <= _NODES_LIMIT:
        found.append(Fault(path="tasks", text=f"names {len(request.tasks)} tasks; 1 to {_NODES_LIMIT} are allowed"))
    _refuse(found)


def check_rebalance(request: RebalanceRequest) -> None:
    """Raises `Invalid`."""
    found = list(_key(request.idempotency_key))
    if not 0 <= request.moves <= MOVES_AT_MOST:
        text = f"{request.moves} is out of range: allowed is 0 (as many as it takes) to {MOVES_AT_MOST}"
        found.append(Fault(path="moves", text=text))
    _refuse(found)


def check_what_if(request: WhatIfRequest) -> None:
    """Raises `Invalid`. Which nodes and jobs there are is known elsewhere."""
    found: list[Fault] = []
    if not (request.kill or request.add or request.scale or request.apply):
        found.append(Fault(path="", text="supposes nothing: kill or add nodes, scale jobs, or apply a file"))
    if len(request.kill) + sum(one.count for one in request.add) > _NODES_LIMIT:
        found.append(Fault(path="nodes", text=f"at most {_NODES_LIMIT} nodes may be killed and added at once"))
    for place, added in enumerate(request.add):
        found += _added(f"add[{place}]", added)
    if request.scale:
        names = [target.job for target in request.scale]
        found += [*_common(request.namespace, ""), *_names("scale", names), *_doubled(names)]
    if request.apply is not None:
        found += _apply(request.apply)
    _refuse(found)


def _added(path: str, added: AddedNodes) -> Iterator[Fault]:
    capacity = added.capacity
    if added.count < 1:
        yield Fault(path=f"{path}.count", text=f"{added.count} nodes; at least 1 is needed")
    if capacity.cpu_millis < 1 or capacity.memory_bytes < 1:
        yield Fault(path=f"{path}.capacity", text="a node has some CPU and some memory")
    if max(capacity.cpu_millis, capacity.memory_bytes) > _CAPACITY_LIMIT:
        yield Fault(path=f"{path}.capacity", text=f"at most {_CAPACITY_LIMIT} bytes, and so many thousandths of a core")


def check_key(key: str) -> None:
    """Raises `Invalid`."""
    _refuse(_key(key))


def check_quota(request: SetQuota) -> None:
    """Raises `Invalid`."""
    found = list(_common(request.namespace, request.idempotency_key))
    if not request.limits and not request.lifted and not request.lift_all:
        found.append(Fault(path="limits", text="names no limit"))
    for name, limit in request.limits.items():
        found += _resource(f"limits.{name}", name)
        if not 0 <= limit <= _QUOTA_LIMIT:
            found.append(Fault(path=f"limits.{name}", text=f"{limit} is out of range: allowed is 0 to {_QUOTA_LIMIT}"))
        if name in request.lifted:
            found.append(Fault(path=f"limits.{name}", text="is set and lifted; do one of the two"))
    for name in request.lifted:
        found += _resource("lifted", name)
    if len(request.limits) > _LIMITS_LIMIT:
        found.append(Fault(path="limits", text=f"names {len(request.limits)}; at most {_LIMITS_LIMIT} are allowed"))
    _refuse(found)


def _resource(path: str, name: str) -> Iterator[Fault]:
    if name not in (TASKS, CPU, MEMORY):
        text = device_kind_fault(name.removeprefix(DEVICES)) if name.startswith(DEVICES) else ""
        if text or not name.startswith(DEVICES):
            known = f"there are {TASKS}, {CPU}, {MEMORY} and {DEVICES}KIND"
            yield Fault(path=path, text=text or f"{name!r} is no resource: {known}")


def check_namespace(namespace: str) -> None:
    """Of a reading request, where an empty one means all. Raises `Invalid`: nothing can ever be found in it."""
    _refuse(_readable(namespace))


def check_events(request: EventsRequest) -> None:
    """Raises `Invalid`."""
    _refuse([*_readable(request.namespace), *_moment("since_s", request.since_s)])


def check_logs(request: LogsRequest) -> None:
    """Raises `Invalid`. What `name` means is found out where jobs and tasks are known."""
    found = list(_moment("since_s", request.since_s))
    if not ALL_LINES <= request.tail <= _TAIL_LIMIT_LINES:
        text = f"{request.tail} is out of range: allowed is {ALL_LINES} (all) to {_TAIL_LIMIT_LINES}"
        found.append(Fault(path="tail", text=text))
    _refuse(found)


def _readable(namespace: str) -> Iterator[Fault]:
    if namespace and name_fault(namespace):
        yield Fault(path="namespace", text=name_fault(namespace))


def _moment(path: str, time_s: float) -> Iterator[Fault]:
    if not 0 <= time_s <= _TIME_LIMIT_S:
        yield Fault(path=path, text=f"{time_s} is not a moment: give Unix seconds from 0 to {_TIME_LIMIT_S}")


def _refuse(found: Iterable[Fault]) -> None:
    faults = tuple(found)
    if faults:
        raise Invalid(faults)


def _common(namespace: str, key: str) -> Iterator[Fault]:
    if name_fault(namespace):
        yield Fault(path="namespace", text=name_fault(namespace))
    yield from _key(key)


def _key(key: str) -> Iterator[Fault]:
    if len(key) > _KEY_LIMIT_CHARACTERS or not key.isprintable():
        text = f"is {len(key)} characters; at most {_KEY_LIMIT_CHARACTERS} printable ones are allowed"
        yield Fault(path="idempotency_key", text=text)


def _names(path: str, names: Iterable[str]) -> list[Fault]:
    count = len(tuple(names))
    if not count:
        return [Fault(path=path, text="names no job")]
    if count > LIMITS.jobs_per_request:
        return [Fault(path=path, text=f"names {count} jobs; at most {LIMITS.jobs_per_request} are allowed at once")]
    return []


def _doubled(names: Iterable[str]) -> Iterator[Fault]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield Fault(path=name, text="is named twice")
        seen.add(name)


def _apply(request: ApplyRequest) -> Iterator[Fault]:
    yield from _common(request.namespace, request.idempotency_key)
    if request.specs or not request.remove_orphans:
        yield from _names("services", [spec.name for spec in request.specs])
    if len(request.specs) > LIMITS.jobs_per_request:
        return
    yield from _doubled(f"services.{spec.name}" for spec in request.specs)
    for place, spec in enumerate(request.specs):
        yield from _spec(request.namespace, place, spec)


def _spec(namespace: str, place: int, spec: JobSpec) -> Iterator[Fault]:
    path = f"services.{spec.name}" if not name_fault(spec.name) else f"services[{place}]"
    if spec.namespace != namespace:
        text = f"is {spec.namespace!r}, but the request is about namespace {namespace!r}"
        yield Fault(path=f"{path}.namespace", text=text)
    for fault in spec_faults(spec):
        yield msgspec.structs.replace(fault, path=f"{path}.{fault.path}".rstrip("."))
