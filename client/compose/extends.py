"""Resolves `extends`: a service laid over another one of the same file or of another file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from client.compose import keys
from client.compose.field import Field
from client.compose.merge import SERVICES, merge_service
from client.compose.report import Report
from client.compose.tree import Entry, Fields, Node, Scalar, shown
from common.errors import Invalid

CHAIN = 32
"""Services extended in a row."""
FILES = 64
"""Other files that one project extends from."""

_Chain = tuple[tuple[str, str], ...]
"""File and service of each step so far."""


class Extends:
    """Works file by file: a service extends what its own file (or the one it names) says, before files are merged."""

    def __init__(self, load: Callable[[Path], Node | None], report: Report) -> None:
        """`load` reads another file, interpolated; raises `Invalid` when it cannot."""
        self._load = load
        self._report = report
        self._files: dict[Path, Node | None] = {}
        self._done: dict[tuple[str, str], Node] = {}

    def resolve(self, root: Node, file: str) -> Node:
        """The project of one file with every `extends` of its services carried out."""
        services = _services(root)
        if services is None or not isinstance(root, Fields):
            return root
        entries = {
            name: Entry(entry.mark, self._service(root, file, name, entry.value, ()))
            for name, entry in services.entries.items()
        }
        whole = Entry(root.entries[SERVICES].mark, msgspec.structs.replace(services, entries=entries))
        return msgspec.structs.replace(root, entries={**root.entries, SERVICES: whole})

    def _service(self, root: Node, file: str, name: str, node: Node, chain: _Chain) -> Node:
        if not isinstance(node, Fields) or "extends" not in node.entries:
            return node
        if (file, name) not in self._done:
            self._done[file, name] = self._extended(root, file, name, node, (*chain, (file, name)))
        return self._done[file, name]

    def _extended(self, root: Node, file: str, name: str, node: Fields, chain: _Chain) -> Node:
        entry = node.entries["extends"]
        own = msgspec.structs.replace(
            node, entries={key: node.entries[key] for key in node.entries if key != "extends"}
        )
        field = Field(entry.value, f"{SERVICES}.{name}.extends", entry.mark, self._report)
        base = None if field.is_null else self._base(field, root, file, chain)
        return own if base is None else merge_service(base, own, name, self._report)

    def _base(self, field: Field, root: Node, file: str, chain: _Chain) -> Node | None:
        """The service that is extended, its own `extends` carried out; None after a fault."""
        wanted = self._wanted(field)
        if wanted is None:
            return None
        name, path = wanted
        if path is not None:
            other = self._other(field, path)
            if other is None:
                return None
            root, file = other, str(path)
        services = _services(root)
        entry = None if services is None else services.entries.get(name)
        if services is None or entry is None:
            near = self._report.nearest(name, services.entries if services is not None else ())
            field.fault(f"{file} has no service {shown(name)}{near}")
            return None
        if (file, name) in chain or len(chain) >= CHAIN:
            steps = " -> ".join(step for _, step in (*chain, (file, name)))
            field.fault(f"services extend each other in a circle, or more than {CHAIN} in a row: {steps}")
            return None
        return self._service(root, file, name, entry.value, chain)

    def _wanted(self, field: Field) -> tuple[str, Path | None] | None:
        if isinstance(field.node, Scalar):
            name = field.text("a service")
            return None if name is None else (name, None)
        given = keys.honoured(field, keys.EXTENDS)
        name = given["service"].text("a service") if "service" in given else None
        if "service" not in given and isinstance(field.node, Fields):
            field.fault("service is missing: the service to extend")
        file = given["file"].text("a path") if "file" in given else None
        return (
            None if name is None else (name, None if file is None else given["file"].node.mark.source.directory / file)
        )

    def _other(self, field: Field, path: Path) -> Node | None:
        if path not in self._files:
            if len(self._files) >= FILES:
                field.fault(f"extends from more than {FILES} files")
                return None
            try:
                self._files[path] = self._load(path)
            except Invalid as error:
                self._files[path] = None
                self._report.add(error.faults)
        if self._files[path] is None:
            field.fault(f"{path} cannot be used: it is missing, empty or not a project")
        return self._files[path]


def _services(root: Node) -> Fields | None:
    entry = root.entries.get(SERVICES) if isinstance(root, Fields) else None
    return entry.value if entry is not None and isinstance(entry.value, Fields) else None
