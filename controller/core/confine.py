"""What an agent may say: of its own node and tasks, within bounds, in the words that agents have. Pure.

A machine that was taken over has a certificate that is good. What it says is believed of itself alone, and only as far
as an honest agent could have said it: what is too long is cut, what points elsewhere is left out, what no agent says is
`Invalid`, which ends its session. Never decides what follows from what is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import assert_never

import msgspec

from common.errors import Invalid
from common.model.job import JobSpec, Protocol
from common.model.node import NodeDescription, RuntimeStatus
from common.model.resources import Usage
from common.model.session import (
    AgentBody,
    AssetRequest,
    EndpointsApplied,
    ExecOutput,
    Heartbeat,
    LogChunk,
    Register,
    ResyncRequest,
    StatusBatch,
    StreamCredit,
    UsageReport,
    VolumeRemoved,
    VolumeReport,
)
from common.model.task import PortBinding, TaskStatus
from common.mounts import volume_fault
from common.names import ip_of
from common.settings import LIMITS
from controller.core.image_ports import has_image_ports

TEXT_CHARACTERS = 2_048
"""Of a message for people: longer ones are output, which belongs into the log."""
NAME_CHARACTERS = 256
"""Of names and versions: of runtimes, containers and jobs."""
LINE_CHARACTERS = 16 * 1024
"""Of one line of a log: agents cut theirs at as many bytes."""
PROBLEMS_LIMIT = 100
"""Of one node's proxy that are kept and shown: a node that cannot open a thousand ports has one trouble."""
WANTED_LIMIT = 1_000
"""Sleeping jobs that one node may call for at a time: more are called for when the first are awake."""
LATEST_S = 1e11
"""The year 5138: a calendar ends, and with it every program that is shown a later time."""
ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - recognised here, bound nowhere


def confined(body: AgentBody) -> AgentBody:
    """The message as it may be taken in. Raises `Invalid` for one that no agent sends."""
    match body:
        case Heartbeat():
            return msgspec.structs.replace(
                body, usage=_usage(body.usage), runtimes=tuple(_runtimes(body.runtimes[: LIMITS.runtimes_per_node]))
            )
        case EndpointsApplied():
            problems = (
                msgspec.structs.replace(one, service=one.service[:NAME_CHARACTERS], text=one.text[:TEXT_CHARACTERS])
                for one in body.problems[:PROBLEMS_LIMIT]
            )
            wanted = tuple(job for job in body.wanted[:WANTED_LIMIT] if len(job) <= NAME_CHARACTERS)
            return msgspec.structs.replace(body, problems=tuple(problems), wanted=wanted)
        case LogChunk():
            lines = tuple(
                line
                if len(line.text) <= LINE_CHARACTERS
                else msgspec.structs.replace(line, text=line.text[:LINE_CHARACTERS])
                for line in body.lines
            )
            return msgspec.structs.replace(body, lines=lines, error=body.error[:TEXT_CHARACTERS])
        case VolumeReport():
            _check_volumes(body.volumes)
            return body
        case VolumeRemoved() | ExecOutput():
            return msgspec.structs.replace(body, error=body.error[:TEXT_CHARACTERS])
        case UsageReport():
            return _usage_report(body)
        case StreamCredit():
            _check_number("the credit of a stream", body.amount)
            return body
        case StatusBatch() | Register() | ResyncRequest() | AssetRequest():
            return body
        case _:
            assert_never(body)


# --- a task's status


def status_fault(status: TaskStatus) -> str:
    """Why no agent can have observed this; empty when one can."""
    numbers = (status.attempt, status.sequence, abs(status.exit_code or 0))
    if not all(0 <= number <= LIMITS.largest_integer for number in numbers):
        return f"attempt {status.attempt}, sequence {status.sequence}, exit code {status.exit_code}: no such numbers"
    return ""


def status_within_bounds(status: TaskStatus, spec: JobSpec, address: str) -> TaskStatus:
    """The status as it may be stored of a task of `spec` on a node at `address`."""
    return msgspec.structs.replace(
        status,
        message=status.message[:TEXT_CHARACTERS],
        started_at_s=time_s(status.started_at_s),
        ended_at_s=time_s(status.ended_at_s),
        runtime_id=status.runtime_id[:NAME_CHARACTERS],
        ports=tuple(_bindings(status.ports, spec, address)),
    )


def time_s(value_s: float) -> float:
    """A time that can be stored and shown; 0 for any other: JSON knows no infinity, and a calendar ends."""
    return value_s if math.isfinite(value_s) and 0.0 <= value_s <= LATEST_S else 0.0


def _bindings(bindings: Iterable[PortBinding], spec: JobSpec, address: str) -> Iterator[PortBinding]:
    """Those of the task's own ports and a few that its image may declare, each once, at the node's own address:
    elsewhere every node's proxy would connect to whatever the agent names."""
    wanted = {(port.container_port, port.protocol) for port in spec.task.ports}
    seen: set[tuple[int, Protocol]] = set()
    more = LIMITS.image_ports if has_image_ports(spec) else 0
    for binding in bindings:
        key = (binding.container_port, binding.protocol)
        if key in seen or not _is_port(binding.host_port) or not _own_address(binding.host_address, address):
            continue
        if key not in wanted:
            if not more or not _is_port(binding.container_port):
                continue
            more -= 1
        seen.add(key)
        yield binding


def _is_port(number: int) -> bool:
    return 0 < number <= 65_535


def _own_address(bound: str, address: str) -> bool:
    """A node that advertises a name binds on what the name means to it: that can only be seen to be an address."""
    if bound in ANY_ADDRESS:
        return True
    at, own = ip_of(bound), ip_of(address)
    if at is None or own is None:
        return at is not None and not (at.is_loopback or at.is_link_local or at.is_multicast)
    return at == own


# --- a node


def description_fault(description: NodeDescription) -> str:
    """Why so large a description cannot be kept; empty when it can."""
    size = len(msgspec.json.encode(description))
    if size > LIMITS.node_description_bytes:
        return f"describes itself in {size} bytes; at most {LIMITS.node_description_bytes} are allowed"
    return ""


def strays_fault(strays: int) -> str:
    """Why a node with so many tasks that the state does not know is not taken in; empty when it may be."""
    if strays <= LIMITS.strays_per_node:
        return ""
    return f"it runs {strays} tasks that the state does not know; at most {LIMITS.strays_per_node} can be kept in mind"


def _runtimes(runtimes: Iterable[RuntimeStatus]) -> Iterator[RuntimeStatus]:
    for runtime in runtimes:
        yield RuntimeStatus(
            name=runtime.name[:NAME_CHARACTERS],
            ready=runtime.ready,
            version=runtime.version[:NAME_CHARACTERS],
            message=runtime.message[:TEXT_CHARACTERS],
            since_s=time_s(runtime.since_s),
        )


def _usage(usage: Usage) -> Usage:
    for name in usage.__struct_fields__:
        _check_number(f"usage.{name}", getattr(usage, name))
    return usage


def _usage_report(report: UsageReport) -> UsageReport:
    if not math.isfinite(report.interval_s) or report.interval_s < 0:
        raise Invalid(f"usage is measured over {report.interval_s} s")
    for task in report.tasks:
        for name in ("cpu_millis", "memory_bytes", "processes"):
            _check_number(f"usage of a task: {name}", getattr(task, name))
    for traffic in report.traffic:
        _check_number("connections of a service", traffic.connections)
        _check_number("open connections of a service", traffic.open)
    return msgspec.structs.replace(
        report,
        tasks=report.tasks[: LIMITS.inventory_tasks],
        traffic=tuple(one for one in report.traffic[: LIMITS.inventory_tasks] if len(one.job) <= NAME_CHARACTERS),
    )


def _check_volumes(volumes: Sequence[str]) -> None:
    for name in volumes:
        if fault := volume_fault(name):
            raise Invalid(fault)


def _check_number(what: str, value: int) -> None:
    if not 0 <= value <= LIMITS.largest_integer:
        raise Invalid(f"{what} is {value}: no agent says that")
