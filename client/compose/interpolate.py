"""Replaces `${VAR}` and its kin in the values of a tree, by the rules of the Compose Specification.

Knows the grammar and the bounds; where variables come from is the caller's. Keys are never interpolated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from client.compose.report import Report
from client.compose.tree import Entry, Fields, Items, Kind, Mark, Node, Scalar, kind_of, shown
from common.errors import Invalid

FORMS = "$VAR, ${VAR}, ${VAR:-default}, ${VAR:?message}, ${VAR:+alternative}, or $$ for a dollar sign"
NESTING = 16
"""Of defaults within defaults."""
CHARACTERS = 4 * 1024 * 1024
"""Of all values after interpolation: one long variable may be named often."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")


def interpolated(text: str, variables: Mapping[str, str], missing: Callable[[str], None]) -> str:
    """`text` with its variables replaced; `missing` is told each unset one that had no default.

    Raises `Invalid` for a malformed expression and for `${VAR:?message}` of a variable that is not there.
    """
    return _Evaluation(variables, missing).text(_Template(text).parts())


def interpolate_tree(root: Node, variables: Mapping[str, str], report: Report, path: str = "") -> Node:
    """The tree with all its values interpolated; nodes that aliases share stay shared."""
    return _TreeInterpolation(variables, report).node(root, path, root.mark)


class _TreeInterpolation:
    def __init__(self, variables: Mapping[str, str], report: Report) -> None:
        self._variables = variables
        self._report = report
        self._done: dict[int, Node] = {}
        self._characters = 0

    def node(self, node: Node, path: str, mark: Mark) -> Node:
        if id(node) not in self._done:
            self._done[id(node)] = self._replaced(node, path, mark)
        return self._done[id(node)]

    def _replaced(self, node: Node, path: str, mark: Mark) -> Node:
        match node:
            case Scalar(text=text):
                return self._scalar(node, path, mark) if "$" in text else node
            case Items(items=items):
                changed = tuple(self.node(item, f"{path}[{place}]", item.mark) for place, item in enumerate(items))
                return msgspec.structs.replace(node, items=changed)
            case Fields(entries=entries):
                return msgspec.structs.replace(
                    node, entries={key: self._entry(path, key, entries[key]) for key in entries}
                )

    def _entry(self, path: str, key: str, entry: Entry) -> Entry:
        return Entry(entry.mark, self.node(entry.value, f"{path}.{key}" if path else key, entry.mark))

    def _scalar(self, node: Scalar, path: str, mark: Mark) -> Scalar:
        def missing(name: str) -> None:
            self._report.warn(mark, path, f"variable {name} is not set: an empty text takes its place")

        try:
            text = interpolated(node.text, self._variables, missing)
        except Invalid as error:
            self._report.fault(mark, path, str(error))
            return node
        self._characters += len(text)
        if self._characters > CHARACTERS:
            text = f"values are longer than {CHARACTERS} characters in all once their variables are replaced"
            self._report.fault(mark, path, text)
            self._report.refuse_if_faulty()
        # A plain ${REPLICAS} becomes the number it stands for; an empty value stays a text, it is not null.
        kind = kind_of(text) if node.plain and text else Kind.STRING
        return msgspec.structs.replace(node, text=text, kind=Kind.STRING if kind is Kind.NULL else kind)


class _Variable(msgspec.Struct, frozen=True):
    name: str
    operator: str = ""
    """`-`, `?` or `+`, after a `:` when an empty value counts as none."""
    argument: tuple[_Part, ...] = ()


_Part = str | _Variable


class _Template:
    """A recursive descent over one text: literals that hold `$` forms, whose arguments are literals again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def parts(self, nesting: int = 0) -> tuple[_Part, ...]:
        """Up to the end or, inside braces, up to the closing one."""
        if nesting > NESTING:
            raise Invalid(f"{shown(self._text)} nests variables more than {NESTING} deep")
        parts: list[_Part] = []
        while self._place < len(self._text) and not (nesting and self._text[self._place] == "}"):
            parts.append(self._dollar(nesting) if self._text[self._place] == "$" else self._plain(nesting))
        return tuple(parts)

    def _plain(self, nesting: int) -> str:
        start = self._place
        stops = (self._text.find(stop, start) for stop in ("$}" if nesting else "$"))
        self._place = min((stop for stop in stops if stop >= 0), default=len(self._text))
        return self._text[start : self._place]

    def _dollar(self, nesting: int) -> _Part:
        self._place += 1
        if self._take("$"):
            return "$"
        if self._take("{"):
            return self._braced(nesting)
        return _Variable(self._match(_NAME))

    def _braced(self, nesting: int) -> _Variable:
        name = self._match(_NAME)
        if self._take("}"):
            return _Variable(name)
        operator = self._match(_OPERATOR)
        argument = self.parts(nesting + 1)
        if not self._take("}"):
            raise self._malformed()
        return _Variable(name, operator, argument)

    def _take(self, character: str) -> bool:
        taken = self._text.startswith(character, self._place)
        self._place += taken
        return taken

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._place)
        if match is None:
            raise self._malformed()
        self._place = match.end()
        return match[0]

    def _malformed(self) -> Invalid:
        return Invalid(f"{shown(self._text)} is not a valid use of variables: write {FORMS}")


class _Evaluation:
    """Of parsed parts; an argument is evaluated only when it counts, as in a shell."""

    def __init__(self, variables: Mapping[str, str], missing: Callable[[str], None]) -> None:
        self._variables = variables
        self._missing = missing

    def text(self, parts: tuple[_Part, ...]) -> str:
        return "".join(part if isinstance(part, str) else self._value(part) for part in parts)

    def _value(self, variable: _Variable) -> str:
        value = self._variables.get(variable.name)
        there = value is not None and (value != "" or not variable.operator.startswith(":"))
        if variable.operator.endswith("+"):
            return self.text(variable.argument) if there else ""
        if there and value is not None:
            return value
        if variable.operator.endswith("-"):
            return self.text(variable.argument)
        if variable.operator.endswith("?"):
            message = self.text(variable.argument)
            absence = "not set" if value is None else "empty"
            raise Invalid(f"variable {variable.name} is required but {absence}{': ' + message if message else ''}")
        self._missing(variable.name)
        return ""
