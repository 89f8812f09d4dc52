"""What nodes are told apart by: attributes and labels, read from a node and kept as columns of numbers.

Owns the meaning of an attribute's name and when two values are the same; never says which value a task wants.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.model.node import Node

Codes: TypeAlias = npt.NDArray[np.int64]

MISSING = 0
"""Code of an attribute that a node does not have."""
_COLUMNS_KEPT = 256
"""Attributes kept as columns: each costs 8 bytes a node; the oldest makes room for a new one."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386"}
"""What machines and images call the same architecture."""


def attribute_value(node: Node, attribute: str) -> str | None:
    """What a node has under an attribute's name; None when it has no such attribute."""
    attributes = node.description.attributes
    match attribute:
        case "node.id":
            return node.id
        case "node.name" | "node.hostname":
            return node.name
        case "node.platform.os":
            return attributes.get("os")
        case "node.platform.arch":
            return attributes.get("arch")
        case _ if attribute.startswith("node.labels."):
            return node.description.labels.get(attribute.removeprefix("node.labels."))
        case _ if attribute.startswith("node.attributes."):
            return attributes.get(attribute.removeprefix("node.attributes."))
        case _:
            return None


def comparable(attribute: str, value: str) -> str:
    """A value in the form it is compared in: as written, but for platforms, which have several spellings."""
    if attribute == "node.platform.os":
        return value.lower()
    if attribute == "node.platform.arch":
        return _ARCHITECTURES.get(value.lower(), value.lower())
    return value


class AttributeColumns:
    """The attributes that were asked for, by row; those nobody asks for cost nothing."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._columns: dict[str, _Column] = {}

    def column(self, attribute: str, nodes: Iterable[Node | None]) -> _Column:
        """The attribute's column, built from the `nodes` of all rows when it is not kept already."""
        column = self._columns.get(attribute)
        if column is None or column.worn_out:
            column = _Column(np.full(self._rows, MISSING, np.int64), {})
            for row, node in enumerate(nodes):
                column.set(row, attribute, node)
            self._columns.pop(attribute, None)
            while len(self._columns) >= _COLUMNS_KEPT:
                del self._columns[next(iter(self._columns))]
            self._columns[attribute] = column
        return column

    def set(self, row: int, node: Node) -> None:
        for attribute, column in self._columns.items():
            column.set(row, attribute, node)

    def grow(self, rows: int) -> None:
        for column in self._columns.values():
            column.codes = np.pad(column.codes, (0, rows - self._rows), constant_values=MISSING)
        self._rows = rows

    def copy(self) -> AttributeColumns:
        twin = AttributeColumns(self._rows)
        twin._columns.update(
            {
                attribute: _Column(column.codes.copy(), column.code_by_value.copy())
                for attribute, column in self._columns.items()
            }
        )
        return twin


class _Column:
    """One attribute of all nodes, its values numbered from 1 in the order they were met."""

    def __init__(self, codes: Codes, code_by_value: dict[str, int]) -> None:
        self.codes, self.code_by_value = codes, code_by_value

    def set(self, row: int, attribute: str, node: Node | None) -> None:
        value = None if node is None else attribute_value(node, attribute)
        if value is None:
            self.codes[row] = MISSING
        else:
            known = self.code_by_value
            self.codes[row] = known.setdefault(comparable(attribute, value), len(known) + 1)

    @property
    def worn_out(self) -> bool:
        """Most of its values are of nodes long gone."""
        return len(self.code_by_value) > 2 * len(self.codes) + 64
