"""Reads whom a service waits for: `depends_on`, which names services of the project, and `x-podium.depends_on`, which
names any job of the cluster. Which of them are there is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from client.compose import keys, optional
from client.compose.field import Field
from client.compose.tree import Items, Scalar, described
from common.model.job import Dependency, DependencyCondition

CONDITIONS: Mapping[str, DependencyCondition] = {condition.value: condition for condition in DependencyCondition}


class PlacedDependency(msgspec.Struct, frozen=True):
    """A dependency and where the file asks for it."""

    dependency: Dependency
    field: Field
    required: bool
    anywhere: bool = False
    """It may be a job of another file: `name` of the project's own namespace, or `namespace/name`."""


def read_dependencies(service: Field | None, podium: Field | None, active: bool) -> tuple[PlacedDependency, ...]:
    """From `depends_on` of a service, and from that of its `x-podium`."""
    anywhere = (_qualified(placed) for placed in _read(podium, active))
    return (*_read(service, active), *anywhere)


def _read(field: Field | None, active: bool) -> tuple[PlacedDependency, ...]:
    if field is None:
        return ()
    if isinstance(field.node, Scalar):
        field.fault(f"{described(field.node)} is given; a list or a mapping of services is expected")
        return ()
    if isinstance(field.node, Items):
        named = ((item.text("a service"), item) for item in field.items())
        return tuple(PlacedDependency(Dependency(job=name), item, True) for name, item in named if name is not None)
    return tuple(_long(name, inner, active) for name, inner in field.fields().items())


def _long(name: str, field: Field, active: bool) -> PlacedDependency:
    given = keys.honoured(field, keys.DEPENDENCY, active=active)
    condition = optional.choice(given.get("condition"), CONDITIONS, DependencyCondition.SERVICE_STARTED)
    required = optional.boolean(given.get("required"), default=True)
    return PlacedDependency(Dependency(job=name, condition=condition), field, required)


def _qualified(placed: PlacedDependency) -> PlacedDependency:
    namespace, _, job = placed.dependency.job.rpartition("/")
    dependency = msgspec.structs.replace(placed.dependency, job=job, namespace=namespace, optional=not placed.required)
    return msgspec.structs.replace(placed, dependency=dependency, anywhere=True)
