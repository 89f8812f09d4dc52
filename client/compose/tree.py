"""A YAML document as a tree of frozen nodes that remember where they stand. Decides nothing about their values."""

from __future__ import annotations

import enum
import re
from collections.abc import Hashable
from pathlib import Path

import msgspec


class Source(msgspec.Struct, frozen=True):
    """A file of the project."""

    name: str
    """As it is shown to people."""
    directory: Path
    """Where relative paths written in it begin."""


class Mark(msgspec.Struct, frozen=True):
    source: Source
    line: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}"


class Kind(enum.Enum):
    """What a plain scalar is in the core schema of YAML 1.2 (`yes`, `on` and `1_000` are strings there)."""

    NULL = "null"
    BOOLEAN = "boolean"
    INTEGER = "integer"
    FLOAT = "number"
    STRING = "string"


class Merging(enum.Enum):
    """What Compose's tags `!reset` and `!override` ask for when files are merged."""

    USUAL = "usual"
    RESET = "reset"
    OVERRIDE = "override"


class Scalar(msgspec.Struct, frozen=True):
    mark: Mark
    text: str
    """As it is written, escapes resolved: `1.10` stays `1.10`."""
    kind: Kind
    plain: bool = False
    merging: Merging = Merging.USUAL


class Items(msgspec.Struct, frozen=True):
    mark: Mark
    items: tuple[Node, ...]
    merging: Merging = Merging.USUAL


class Entry(msgspec.Struct, frozen=True):
    mark: Mark
    """Of the key."""
    value: Node


class Fields(msgspec.Struct, frozen=True):
    mark: Mark
    entries: dict[str, Entry]
    merging: Merging = Merging.USUAL


Node = Scalar | Items | Fields

_KINDS = (
    (Kind.NULL, re.compile(r"|~|null|Null|NULL")),
    (Kind.BOOLEAN, re.compile(r"true|True|TRUE|false|False|FALSE")),
    (Kind.INTEGER, re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    (
        Kind.FLOAT,
        re.compile(
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
    ),
)


def kind_of(text: str) -> Kind:
    """The kind of a plain scalar (YAML 1.2.2, section 10.3.2)."""
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(text)), Kind.STRING)


def is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.kind is Kind.NULL


def is_empty(node: Node) -> bool:
    """Nothing is said: null, `[]` or `{}`."""
    match node:
        case Scalar(kind=kind):
            return kind is Kind.NULL
        case Items(items=items):
            return not items
        case Fields(entries=entries):
            return not entries


def content(node: Node) -> Hashable:
    """What a node says, wherever it stands: two nodes that say the same have equal contents."""
    match node:
        case Scalar(kind=kind, text=text):
            return (kind, text)
        case Items(items=items):
            return tuple(content(item) for item in items)
        case Fields(entries=entries):
            return frozenset((key, content(entry.value)) for key, entry in entries.items())


def described(node: Node) -> str:
    """What a node is, for messages."""
    match node:
        case Scalar(kind=Kind.NULL):
            return "nothing"
        case Scalar(kind=kind, text=text):
            return f"the {kind.value} {shown(text)}"
        case Items():
            return "a list"
        case Fields():
            return "a mapping"


def shown(text: str) -> str:
    """A value as messages quote it: escaped, and cut when it is long."""
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
