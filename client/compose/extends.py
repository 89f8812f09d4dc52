"""Resolves `extends`: a service laid over another one of the same file or of another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from client.compose import keys
from client.compose.field import Field
from client.compose.merge import SERVICES, merge_service
from client.compose.report import Report
from client.compose.tree import Entry, Fields, Node, Scalar, is_null, shown

CHAIN = 32
"""Services extended in a row."""
FILES = 64
"""Other files that one project extends from."""

_EXTENDS = "extends"


class _File(msgspec.Struct, frozen=True):
    name: str
    root: Node


class _Resolved(msgspec.Struct, frozen=True):
    node: Node
    chain: int
    """Services it extends in a row."""


class Extends:
    """Works file by file: a service extends what its own file (or the one it names) says, before files are merged."""

    def __init__(self, load: Callable[[Path], Node | None], report: Report) -> None:
        """`load` reads another file, interpolated; what is wrong with it is reported there, and None answered."""
        self._load = load
        self._report = report
        self._files: dict[Path, Node | None] = {}
        self._done: dict[tuple[str, str], _Resolved] = {}
        """By file and service."""
        self._under_way: set[tuple[str, str]] = set()

    def resolve(self, root: Node, name: str) -> Node:
        """The project of one file with every `extends` of its services carried out.

        Where that is impossible the service keeps its `extends`, and so does who extends it: it is known to be
        incomplete, and what else seems to be missing from it is nobody's fault.
        """
        services = _services(root)
        if services is None or not isinstance(root, Fields):
            return root
        file = _File(name, root)
        entries = {key: Entry(entry.mark, self._service(file, key).node) for key, entry in services.entries.items()}
        whole = Entry(root.entries[SERVICES].mark, msgspec.structs.replace(services, entries=entries))
        return msgspec.structs.replace(root, entries={**root.entries, SERVICES: whole})

    def _service(self, file: _File, name: str) -> _Resolved:
        """Of a service that is there; resolved once."""
        key = (file.name, name)
        if key not in self._done:
            services = _services(file.root)
            assert services is not None
            self._under_way.add(key)
            self._done[key] = self._extended(file, name, services.entries[name].value)
            self._under_way.remove(key)
        return self._done[key]

    def _extended(self, file: _File, name: str, node: Node) -> _Resolved:
        entry = node.entries.get(_EXTENDS) if isinstance(node, Fields) else None
        if entry is None or is_null(entry.value) or not isinstance(node, Fields):
            return _Resolved(node, 0)
        field = Field(entry.value, f"{SERVICES}.{name}.{_EXTENDS}", entry.mark, self._report)
        base = self._base(field, file)
        if base is None:
            return _Resolved(node, 0)
        own = msgspec.structs.replace(node, entries={key: node.entries[key] for key in node.entries if key != _EXTENDS})
        return _Resolved(merge_service(base.node, own, name, self._report), base.chain + 1)

    def _base(self, field: Field, file: _File) -> _Resolved | None:
        """The service that is extended, its own `extends` carried out; None after a fault."""
        name, path = self._wanted(field)
        other = file if path is None else self._other(field, path)
        if name is None or other is None:
            return None
        services = _services(other.root)
        if services is None or name not in services.entries:
            near = self._report.nearest(name, services.entries if services is not None else ())
            field.fault(f"{other.name} has no service {shown(name)}{near}")
            return None
        if (other.name, name) in self._under_way:
            field.fault(f"extends {name}, which extends this service in turn")
            return None
        base = self._service(other, name) if len(self._under_way) <= CHAIN else None
        if base is None or base.chain >= CHAIN:
            field.fault(f"is one of more than {CHAIN} services that extend each other in a row")
            return None
        return base

    def _wanted(self, field: Field) -> tuple[str | None, Path | None]:
        """Service and, unless it is the same one, file; no service after a fault."""
        if isinstance(field.node, Scalar):
            return field.text("a service"), None
        given = keys.honoured(field, keys.EXTENDS)
        if "service" not in given:
            if isinstance(field.node, Fields):
                field.fault("service is missing: the service to extend")
            return None, None
        name = given["service"].text("a service")
        if "file" not in given:
            return name, None
        file = given["file"].text("a path")
        return (None, None) if file is None else (name, given["file"].node.mark.source.directory / file)

    def _other(self, field: Field, path: Path) -> _File | None:
        if path not in self._files:
            if len(self._files) >= FILES:
                field.fault(f"is more than the {FILES} files that a project may extend from")
                return None
            self._files[path] = self._load(path)
        root = self._files[path]
        if root is None:
            field.fault(f"{path} cannot be used")
            return None
        return _File(str(path), root)


def _services(root: Node) -> Fields | None:
    entry = root.entries.get(SERVICES) if isinstance(root, Fields) else None
    return entry.value if entry is not None and isinstance(entry.value, Fields) else None
