"""Reads keys that may be missing: what is given or else the default, which also stands in for a faulty value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from client.compose.field import Field
from client.compose.tree import Fields
from common.units import parse_duration_s

_T = TypeVar("_T")
_COUNT_LIMIT = 1_000_000


def text(field: Field | None, default: str = "") -> str:
    value = None if field is None else field.text()
    return default if value is None else value


def boolean(field: Field | None, default: bool = False) -> bool:
    value = None if field is None else field.boolean()
    return default if value is None else value


def count(field: Field | None, default: int, least: int = 0, most: int = _COUNT_LIMIT) -> int:
    value = None if field is None else field.integer(least, most)
    return default if value is None else value


def choice(field: Field | None, choices: Mapping[str, _T], default: _T) -> _T:
    value = None if field is None else field.choice(choices)
    return default if value is None else value


def parsed(field: Field | None, parse: Callable[[str], _T], expected: str, default: _T) -> _T:
    value = None if field is None else field.parsed(parse, expected)
    return default if value is None else value


def duration_s(field: Field | None, default_s: float) -> float:
    return parsed(field, parse_duration_s, "a duration such as 10s", default_s)


def labels(field: Field | None) -> dict[str, str]:
    """A name without a value has an empty one."""
    return {} if field is None else {name: value or "" for name, (value, _) in field.pairs().items()}


def external(field: Field | None, name: str) -> tuple[bool, str]:
    """Whether something is of outside the project, and its name; `external: {name: NAME}` is how it was said of old."""
    if field is None or not isinstance(field.node, Fields):
        return boolean(field), name
    return True, text(field.at("name"), name)
