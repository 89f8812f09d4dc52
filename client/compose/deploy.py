"""Reads `deploy` and its older kin (`scale`, `cpus`, `mem_limit`, `restart`): how many, where, and how they change."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from client.compose import keys, optional
from client.compose.batch import read_batch
from client.compose.devices import PlacedDevice, reserved_devices
from client.compose.field import Field
from client.compose.rollouts import read_rollback, read_update
from client.compose.tree import shown
from common.constraints import parse_attribute, parse_constraint
from common.errors import Invalid
from common.model.job import (
    BatchPolicy,
    Constraint,
    JobMode,
    Placement,
    RestartCondition,
    RestartPolicy,
    Strategy,
    UpdatePolicy,
)
from common.model.resources import Resources
from common.settings import LIMITS
from common.units import parse_bytes, parse_cpu_millis

MODES: Mapping[str, JobMode] = {
    "replicated": JobMode.SERVICE,
    "replicated-job": JobMode.BATCH,
    "global": JobMode.DAEMON,
    "global-job": JobMode.DAEMON_BATCH,
}
STRATEGIES: Mapping[str, Strategy] = {strategy.value: strategy for strategy in (Strategy.SPREAD, Strategy.BINPACK)}
CONDITIONS: Mapping[str, RestartCondition] = {condition.value: condition for condition in RestartCondition}
RESTARTS: Mapping[str, RestartCondition] = {
    "no": RestartCondition.NONE,
    "always": RestartCondition.ANY,
    "unless-stopped": RestartCondition.ANY,
    "on-failure": RestartCondition.ON_FAILURE,
}

_RESTART_FORMS = '"no", always, unless-stopped, on-failure or on-failure:N'
_RESTART = re.compile(r"on-failure:(?P<attempts>[0-9]{1,6})")


class Deploy(msgspec.Struct, frozen=True, kw_only=True):
    mode: JobMode
    replicas: int
    labels: dict[str, str]
    reservations: Resources
    limits: Resources
    devices: tuple[PlacedDevice, ...]
    placement: Placement
    restart: RestartPolicy
    update: UpdatePolicy
    rollback: UpdatePolicy | None
    batch: BatchPolicy


def read_deploy(given: Mapping[str, Field], podium: Mapping[str, Field], *, checked: bool, active: bool) -> Deploy:
    """From the honoured keys of a service. One with a schedule is, unless it says otherwise, a job that ends."""
    deploy = keys.honoured(given["deploy"], keys.DEPLOY, active=active) if "deploy" in given else {}
    mode = optional.choice(deploy.get("mode"), MODES, JobMode.BATCH if "schedule" in podium else JobMode.SERVICE)
    parts = keys.honoured(deploy["resources"], keys.RESOURCES, active=active) if "resources" in deploy else {}
    update_given = (
        keys.honoured(deploy["update_config"], keys.UPDATE_CONFIG, active=active) if "update_config" in deploy else {}
    )
    limited = keys.honoured(parts["limits"], keys.LIMITS, active=active) if "limits" in parts else {}
    reserved = keys.honoured(parts["reservations"], keys.RESERVATIONS, active=active) if "reservations" in parts else {}
    update = read_update(update_given, podium, checked=checked, active=active)
    return Deploy(
        mode=mode,
        replicas=_number(given.get("scale"), deploy.get("replicas"), mode),
        labels=optional.labels(deploy.get("labels")),
        reservations=_resources(given.get("mem_reservation"), None, reserved),
        limits=_resources(given.get("mem_limit"), given.get("cpus"), limited),
        devices=reserved_devices(reserved.get("devices"), reserved.get("generic_resources"), active=active),
        placement=_placement(deploy.get("placement"), podium, active),
        restart=_restart(given.get("restart"), deploy.get("restart_policy"), _usual_restart(mode, podium), active),
        update=update,
        rollback=read_rollback(deploy.get("rollback_config"), update, active),
        batch=read_batch(podium, update_given, mode),
    )


def _number(older: Field | None, newer: Field | None, mode: JobMode) -> int:
    """How many tasks; of a mode with one for each node there is no such number."""
    if not mode.per_node:
        return _same(older, newer, _replicas, 1)
    for field in filter(None, (older, newer)):
        field.fault("cannot be given: with this deploy.mode there is a task on every node that fits")
    return 1


def _replicas(field: Field) -> int | None:
    return field.integer(0, LIMITS.replicas)


def _same(older: Field | None, newer: Field | None, read: Callable[[Field], int | None], default: int) -> int:
    """Of two keys that say the same, the one that is given; both only when they agree."""
    values = [None if field is None else read(field) for field in (older, newer)]
    if older is not None and newer is not None and None not in values and values[0] != values[1]:
        older.fault(f"differs from {newer.path} in line {newer.mark.line}: give only one of them")
    return next((value for value in reversed(values) if value is not None), default)


def _resources(memory: Field | None, cpus: Field | None, given: Mapping[str, Field]) -> Resources:
    """From the keys of `limits` or `reservations`, and the older kin that say the same."""
    return Resources(
        cpu_millis=_same(cpus, given.get("cpus"), _cpu_millis, 0),
        memory_bytes=_same(memory, given.get("memory"), _memory_bytes, 0),
    )


def _cpu_millis(field: Field) -> int | None:
    return field.parsed(parse_cpu_millis, "a number of CPUs such as 0.5")


def _memory_bytes(field: Field) -> int | None:
    return field.parsed(parse_bytes, "a size such as 256M")


def _placement(field: Field | None, podium: Mapping[str, Field], active: bool) -> Placement:
    given = keys.honoured(field, keys.PLACEMENT, active=active) if field is not None else {}
    return Placement(
        constraints=_constraints(given.get("constraints")),
        spread=_preferences(given.get("preferences"), active),
        max_replicas_per_node=optional.count(given.get("max_replicas_per_node"), 0),
        strategy=optional.choice(podium.get("strategy"), STRATEGIES, Strategy.CLUSTER),
    )


def _constraints(field: Field | None) -> tuple[Constraint, ...]:
    items = field.items() if field is not None else ()
    found = (item.parsed(parse_constraint, "a constraint such as node.labels.zone == eu") for item in items)
    return tuple(constraint for constraint in found if constraint is not None)


def _preferences(field: Field | None, active: bool) -> tuple[str, ...]:
    found: list[str] = []
    for item in field.items() if field is not None else ():
        given = keys.honoured(item, keys.PREFERENCE, active=active)
        attribute = given["spread"].parsed(parse_attribute, "an attribute of nodes") if "spread" in given else None
        if attribute is not None:
            found.append(attribute)
    return tuple(found)


def _usual_restart(mode: JobMode, podium: Mapping[str, Field]) -> RestartPolicy:
    """A member of a gang that fails is not started again alone: its peers would wait for the one they knew."""
    condition = RestartCondition.ON_FAILURE if mode.ends else RestartCondition.ANY
    return RestartPolicy(
        condition=condition, max_attempts=1 if optional.boolean(podium.get("gang")) else RestartPolicy().max_attempts
    )


def _restart(service: Field | None, policy: Field | None, usual: RestartPolicy, active: bool) -> RestartPolicy:
    if policy is None:
        return optional.parsed(service, _parse_restart, _RESTART_FORMS, usual)
    given = keys.honoured(policy, keys.RESTART_POLICY, active=active)
    return RestartPolicy(
        condition=optional.choice(given.get("condition"), CONDITIONS, usual.condition),
        delay_s=optional.duration_s(given.get("delay"), usual.delay_s),
        max_attempts=optional.count(given.get("max_attempts"), usual.max_attempts),
        window_s=optional.duration_s(given.get("window"), usual.window_s),
    )


def _parse_restart(text: str) -> RestartPolicy:
    if text in RESTARTS:
        return RestartPolicy(condition=RESTARTS[text])
    match = _RESTART.fullmatch(text)
    if match is None:
        raise Invalid(f"{shown(text)} is given; allowed is {_RESTART_FORMS}")
    return RestartPolicy(condition=RestartCondition.ON_FAILURE, max_attempts=int(match["attempts"]))
