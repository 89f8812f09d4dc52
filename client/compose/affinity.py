"""Reads `affinity` and `anti_affinity` under `x-podium`: where tasks would rather be, or must be, beside what.

Which jobs, attributes and weights there can be is decided in `common.validation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from client.compose import keys, optional
from client.compose.field import Field
from client.compose.tree import Scalar
from common.constraints import parse_attribute, parse_constraint
from common.model.job import DEFAULT_WEIGHT, HIGHEST_WEIGHT, Affinity, Constraint

_RULE = "a constraint such as node.labels.disk == ssd"


class PlacedAffinity(msgspec.Struct, frozen=True):
    """An affinity and where the file has it."""

    affinity: Affinity
    field: Field


def read_affinities(podium: Mapping[str, Field], namespace: str, *, active: bool) -> tuple[PlacedAffinity, ...]:
    """Those that could be read; the faults of the others are in the report."""
    return tuple(
        PlacedAffinity(affinity, item)
        for key, apart in (("affinity", False), ("anti_affinity", True))
        for item in (podium[key].items() if key in podium else ())
        if (affinity := _read(item, namespace, apart, active)) is not None
    )


def _read(field: Field, namespace: str, apart: bool, active: bool) -> Affinity | None:
    if isinstance(field.node, Scalar):
        rule = _constraint(field)
        return None if rule is None else Affinity(constraint=rule, apart=apart)
    given = keys.honoured(field, keys.AFFINITY, active=active)
    affinity = Affinity(
        constraint=_constraint(given["constraint"]) if "constraint" in given else None,
        job=_full_name(optional.text(given.get("job")), namespace),
        within=optional.parsed(given.get("within"), parse_attribute, "an attribute of nodes", ""),
        apart=apart,
        required=optional.boolean(given.get("required")),
        weight=optional.count(given.get("weight"), DEFAULT_WEIGHT, least=1, most=HIGHEST_WEIGHT),
    )
    if affinity.required and "weight" in given:
        given["weight"].fault("means nothing where required is true: leave one of the two out")
    return None if any(_faulty(field)) else affinity


def _constraint(field: Field) -> Constraint | None:
    return field.parsed(parse_constraint, _RULE)


def _full_name(name: str, namespace: str) -> str:
    return name if not name or "/" in name else f"{namespace}/{name}"


def _faulty(field: Field) -> Iterator[bool]:
    yield field.is_faulty
    for inner in field.fields().values():
        yield inner.is_faulty
