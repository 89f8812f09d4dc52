"""Lays one tree over another as the Compose Specification merges files and extended services.

Mappings merge key by key, lists are appended (what is in both stays once), anything else is replaced. What says nothing
(null, `[]`, `{}`) changes nothing. `!reset` removes what is there, `!override` replaces it whole. The exceptions of the
specification (a command is replaced, an environment merges by name, ...) are the tables below.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from client.compose.keys import SERVICE
from client.compose.report import Report
from client.compose.tree import Entry, Fields, Items, Kind, Merging, Node, Scalar, content, described, is_empty

_Path = tuple[str, ...]
_ToEntry = Callable[[Scalar], tuple[str, Node]]
SERVICES = "services"

_REPLACED = frozenset({("command",), ("entrypoint",), ("healthcheck", "test"), *((key,) for key in SERVICE.ignored)})
"""Paths in a service where the later value stands alone; how ignored keys would merge does not matter."""
_BY_NAME = frozenset({("environment",), ("labels",), ("sysctls",), ("deploy", "labels")})
"""`- NAME=value` and `NAME: value` are the same, and merge by name."""
_WITH_DEFAULTS = frozenset({("depends_on",)})
"""`- NAME` is short for `NAME: {condition: service_started}`."""
_NAMES = frozenset({("networks",)})
"""`- NAME` is short for `NAME:`, with nothing."""
_LISTS = frozenset({("env_file",), ("label_file",), ("tmpfs",), ("dns_search",)})
"""A single value is short for a list of one."""


def merge(base: Node, over: Node, report: Report) -> Node:
    """`over` laid over `base`, both whole projects."""
    return _Merge(report).nodes(base, over, ())


def merge_service(base: Node, over: Node, name: str, report: Report) -> Node:
    """`over` laid over `base`, both services; `name` is of the one that results."""
    return _Merge(report).nodes(base, over, (SERVICES, name))


def without_resets(node: Node) -> Node:
    """A tree that nothing more is merged into: what `!reset` still stands on goes."""
    match node:
        case Fields(entries=entries):
            kept = {
                key: Entry(entry.mark, without_resets(entry.value))
                for key, entry in entries.items()
                if entry.value.merging is not Merging.RESET
            }
            return msgspec.structs.replace(node, entries=kept)
        case Items(items=items):
            return msgspec.structs.replace(node, items=tuple(map(without_resets, items)))
        case Scalar():
            return node


class _Merge:
    def __init__(self, report: Report) -> None:
        self._report = report

    def nodes(self, base: Node, over: Node, path: _Path) -> Node:
        if over.merging is Merging.OVERRIDE or base.merging is Merging.RESET:
            return over
        place = path[2:] if path[:1] == (SERVICES,) else ("",)
        if is_empty(over) and place[:-1] not in _BY_NAME:
            return base
        if place in _REPLACED or is_empty(base):
            return over
        return self._alike(_normal(base, place), _normal(over, place), path)

    def _alike(self, base: Node, over: Node, path: _Path) -> Node:
        match base, over:
            case Fields(), Fields():
                return self._fields(base, over, path)
            case Items(), Items():
                there = {content(item) for item in base.items}
                added = tuple(item for item in over.items if content(item) not in there)
                return msgspec.structs.replace(base, items=base.items + added)
            case Scalar(), Scalar():
                return over
            case _:
                text = f"{described(over)} cannot be merged with {described(base)} of {base.mark}: write both alike"
                self._report.fault(over.mark, ".".join(path), text)
                return over

    def _fields(self, base: Fields, over: Fields, path: _Path) -> Fields:
        entries = dict(base.entries)
        for key, entry in over.entries.items():
            if entry.value.merging is Merging.RESET:
                entries.pop(key, None)
            elif key in entries:
                merged = self.nodes(entries[key].value, entry.value, (*path, key))
                entries[key] = entries[key] if merged is entries[key].value else Entry(entry.mark, merged)
            else:
                entries[key] = entry
        return msgspec.structs.replace(base, entries=entries)


def _normal(node: Node, place: _Path) -> Node:
    """The long form of what the specification lets one write in a short one, so that the two can merge."""
    if place in _BY_NAME and isinstance(node, Items):
        return _mapping(node, _pair)
    if place in _WITH_DEFAULTS and isinstance(node, Items):
        return _mapping(node, _dependency)
    if place in _NAMES and isinstance(node, Items):
        return _mapping(node, lambda item: (item.text, Scalar(item.mark, "", Kind.NULL)))
    if place in _LISTS and not isinstance(node, Items):
        return Items(node.mark, (node,))
    return node


def _mapping(node: Items, entry: _ToEntry) -> Node:
    """The list as a mapping; as it is when one of its items is no text (the converter says so with its place)."""
    entries: dict[str, Entry] = {}
    for item in node.items:
        if not isinstance(item, Scalar):
            return node
        key, value = entry(item)
        entries[key] = Entry(item.mark, value)
    return Fields(node.mark, entries)


def _pair(item: Scalar) -> tuple[str, Node]:
    name, equals, value = item.text.partition("=")
    return name, Scalar(item.mark, value, Kind.STRING if equals else Kind.NULL)


def _dependency(item: Scalar) -> tuple[str, Node]:
    return item.text, Fields(
        item.mark, {"condition": Entry(item.mark, Scalar(item.mark, "service_started", Kind.STRING))}
    )
