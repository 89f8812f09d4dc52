"""One value of a project together with its path, its line and the report: what converters read from.

Every reader answers None after it reported a value of the wrong kind, so a converter goes on and finds the next fault.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import TypeVar

from client.compose.report import Report
from client.compose.tree import Fields, Items, Mark, Node, Scalar, described, is_null, shown
from common.errors import Invalid

_T = TypeVar("_T")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_BOOLEANS = {"true": True, "false": False}


class Field:
    """A place in the project. `mark` is the key's line where the value has one."""

    def __init__(self, node: Node, path: str, mark: Mark, report: Report) -> None:
        self.node = node
        self.path = path
        self.mark = mark
        self.report = report

    def fault(self, text: str) -> None:
        self.report.fault(self.mark, self.path, text)

    def warn(self, text: str) -> None:
        self.report.warn(self.mark, self.path, text)

    @property
    def is_faulty(self) -> bool:
        """Whether a fault was reported at this very path."""
        return self.report.is_faulty(self.path)

    # --- the parts

    def fields(self) -> dict[str, Field]:
        """The entries of a mapping, null ones included."""
        if not isinstance(self.node, Fields):
            self._unexpected("a mapping")
            return {}
        return {key: self._inner(key) for key in self.node.entries}

    def items(self) -> list[Field]:
        """The items of a list."""
        if not isinstance(self.node, Items):
            self._unexpected("a list")
            return []
        return [self._item(place, item) for place, item in enumerate(self.node.items)]

    def one_or_items(self) -> list[Field]:
        """A list, or a single value written without one."""
        return [self] if isinstance(self.node, Scalar) else self.items()

    def at(self, *keys: str | int) -> Field | None:
        """What stands below, by keys and places in lists; None when there is no such thing."""
        if not keys:
            return self
        key, *deeper = keys
        if isinstance(self.node, Fields) and key in self.node.entries:
            return self._inner(str(key)).at(*deeper)
        if isinstance(self.node, Items) and isinstance(key, int) and key < len(self.node.items):
            return self._item(key, self.node.items[key]).at(*deeper)
        return None

    def _inner(self, key: str) -> Field:
        assert isinstance(self.node, Fields)
        entry = self.node.entries[key]
        return Field(entry.value, f"{self.path}.{key}" if self.path else key, entry.mark, self.report)

    def _item(self, place: int, item: Node) -> Field:
        return Field(item, f"{self.path}[{place}]", item.mark, self.report)

    # --- scalars

    @property
    def is_null(self) -> bool:
        return is_null(self.node)

    def text(self, expected: str = "a text") -> str | None:
        """A scalar as it is written, whatever its kind; null is none."""
        if isinstance(self.node, Scalar) and not self.is_null:
            return self.node.text
        self._unexpected(expected)
        return None

    def integer(self, least: int, most: int) -> int | None:
        text = self.text("a whole number")
        if text is None:
            return None
        if not _INTEGER.fullmatch(text):
            self.fault(f"{described(self.node)} is given; a whole number from {least} to {most} is expected")
            return None
        value = int(text)
        if not least <= value <= most:
            self.fault(f"{value} is out of range: allowed is {least} to {most}")
            return None
        return value

    def boolean(self) -> bool | None:
        text = self.text("true or false")
        if text is None:
            return None
        value = _BOOLEANS.get(text.lower())
        if value is None:
            self.fault(f"{described(self.node)} is given; true or false is expected")
        return value

    def choice(self, choices: Mapping[str, _T]) -> _T | None:
        """One of a few words, and what it stands for."""
        text = self.text(one_of(choices))
        if text is None or text in choices:
            return None if text is None else choices[text]
        self.fault(f"{shown(text)} is given; allowed is {one_of(choices)}{self.report.nearest(text, choices)}")
        return None

    def parsed(self, parse: Callable[[str], _T], expected: str = "a text") -> _T | None:
        """What `parse` makes of the text; its `Invalid` becomes a fault here."""
        text = self.text(expected)
        try:
            return None if text is None else parse(text)
        except Invalid as error:
            self.fault(str(error))
            return None

    # --- small collections

    def texts(self) -> tuple[str, ...]:
        """A list of texts, or a single one."""
        return tuple(text for item in self.one_or_items() if (text := item.text()) is not None)

    def arguments(self) -> tuple[str, ...]:
        """A command: a list is taken as it is, a text is split as a shell would."""
        if self._is_blank():
            self.fault("is empty: leave it out to use the image's own")
            return ()
        if isinstance(self.node, Items):
            return self.texts()
        return self.parsed(split_command, "a command as a list or a text") or ()

    def pairs(self) -> dict[str, tuple[str | None, Field]]:
        """`NAME: value` or `- NAME=value`, each with its place; None stands for a name without a value."""
        if isinstance(self.node, Fields):
            return {key: (None if inner.is_null else inner.text(), inner) for key, inner in self.fields().items()}
        found: dict[str, tuple[str | None, Field]] = {}
        if isinstance(self.node, Scalar):
            self._unexpected("NAME: value pairs or a list of NAME=value")
            return found
        for item in self.items():
            text = item.text("NAME=value")
            if text is not None:
                name, equals, value = text.partition("=")
                found[name] = (value if equals else None, item)
        return found

    def _is_blank(self) -> bool:
        match self.node:
            case Scalar(text=text):
                return not self.is_null and not text.strip()
            case Items(items=items):
                return not items
            case _:
                return False

    def _unexpected(self, expected: str) -> None:
        self.fault(f"{described(self.node)} is given; {expected} is expected")


def split_command(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise Invalid(f"{shown(text)} cannot be split into arguments: {str(error).lower()}") from error


def one_of(words: Mapping[str, object]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
