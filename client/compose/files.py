"""Reads the files of a project and of those it includes into one tree: parsed, interpolated, extended, merged."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.compose.document import decode, is_there, parse, read_bytes
from client.compose.extends import Extends
from client.compose.field import Field
from client.compose.include import CHAIN, INCLUDE, Included, read_include, with_included
from client.compose.interpolate import interpolate_tree
from client.compose.merge import merge
from client.compose.report import Report
from client.compose.tree import Fields, Mark, Node, Source
from common.errors import Fault, Invalid

FILES = 64
"""Files of one project, included ones among them."""

_Variables = ChainMap[str, str]


class ProjectFiles:
    """Each file has variables of its own: those of the project that it belongs to."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._variables: dict[str, _Variables] = {}
        """By the name of an included file."""
        self._included = 0
        self.complete = True
        """Whether everything could be read; if not, what seems to be missing from the project is nobody's fault."""

    def variables(self, mark: Mark, project: Mapping[str, str]) -> Mapping[str, str]:
        """Of the place at `mark`: those of the project, unless it was included with others."""
        return self._variables.get(mark.source.name, project)

    def parsed(self, file: Path, directory: Path) -> Node | None:
        """One file as it is written; None when it cannot be read, which is in the report then."""
        name = str(file)
        source = Source(name, directory)
        try:
            root = parse(decode(read_bytes(file, name), name), source, self._report)
        except Invalid as error:
            self._report.add(error.faults)
            return None
        if root is None:
            self._report.add([Fault(path="", text="is empty: a project with services is expected", file=name)])
        return root

    def merged(self, roots: Sequence[Node], variables: _Variables, chain: tuple[Path, ...] = ()) -> Node | None:
        """Later ones laid over earlier ones; `chain` are the files that led here by `include`."""
        extends = Extends(lambda path: self._extended(path, variables), self._report)
        whole: Node | None = None
        for root in roots:
            interpolated = interpolate_tree(root, variables, self._report)
            resolved = extends.resolve(interpolated, root.mark.source.name)
            complete = self._with_included(resolved, variables, (*chain, Path(root.mark.source.name)))
            whole = complete if whole is None else merge(whole, complete, self._report)
        return whole

    def _extended(self, path: Path, variables: _Variables) -> Node | None:
        root = self.parsed(path, path.parent)
        return None if root is None else interpolate_tree(root, variables, self._report)

    def _with_included(self, root: Node, variables: _Variables, chain: tuple[Path, ...]) -> Node:
        entry = root.entries.get(INCLUDE) if isinstance(root, Fields) else None
        if entry is None or not isinstance(root, Fields):
            return root
        wanted = read_include(Field(entry.value, INCLUDE, entry.mark, self._report), variables, self._report)
        parts = [self._part(included, variables, chain) for included in wanted]
        return with_included(root, [part for part in parts if part is not None], self._report)

    def _part(self, included: Included, variables: _Variables, chain: tuple[Path, ...]) -> Node | None:
        self._included += len(included.files)
        if not self._may_include(included, chain):
            self.complete = False
            return None
        own = ChainMap(*variables.maps, dict(included.variables))
        roots = [self.parsed(file, included.directory) for file in included.files]
        self._variables.update({str(file): own for file in included.files})
        read = [root for root in roots if root is not None]
        self.complete = self.complete and len(read) == len(roots)
        return self.merged(read, own, chain)

    def _may_include(self, included: Included, chain: tuple[Path, ...]) -> bool:
        resolved = [file.resolve() for file in chain]
        gone = next((file for file in included.files if not is_there(file)), None)
        again = next((file for file in included.files if file.resolve() in resolved), None)
        if again is not None:
            way = [*chain[resolved.index(again.resolve()) :], again]
            included.field.fault(f"files include each other in a circle: {' -> '.join(map(str, way))}")
        elif gone is not None:
            included.field.fault(f"{gone} is not there")
        elif len(chain) > CHAIN:
            included.field.fault(f"is one of more than {CHAIN} projects that include each other in a row")
        elif self._included > FILES:
            included.field.fault(f"is more than the {FILES} files that a project may include")
        return not included.field.is_faulty
