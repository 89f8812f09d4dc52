"""What nodes are told apart by: attributes and labels, read from a node and kept as columns of numbers.

Owns the meaning of an attribute's name and when two values are the same; never says which value a task wants.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from common.constraints import by_version, rank
from common.model.job import Constraint, ConstraintOperator
from common.model.node import Node

Codes: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

MISSING = 0
"""Code of an attribute that a node does not have."""
_NO_CODE = -1
"""Of a value that no node ever had."""
_COLUMNS_KEPT = 256
"""Attributes kept as columns: each costs 8 bytes a node; the oldest makes room for a new one."""
_RULES_KEPT = 64
"""Rules of one column whose codes are kept; the oldest makes room."""
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


def value_meets(constraint: Constraint, value: str) -> bool:
    """Whether a node with this value, in its comparable form, meets a constraint."""
    operator, attribute = constraint.operator, constraint.attribute
    match operator:
        case ConstraintOperator.EQUAL | ConstraintOperator.NOT_EQUAL:
            return (value == comparable(attribute, constraint.value)) is not operator.negates
        case ConstraintOperator.IN | ConstraintOperator.NOT_IN:
            return any(value == comparable(attribute, each) for each in constraint.values) is not operator.negates
        case _:
            return _in_order(constraint, value)


def _in_order(constraint: Constraint, value: str) -> bool:
    """What is neither a number nor a version is in no order: no rule of this kind holds there."""
    as_version = by_version(constraint)
    have, bound = rank(value, as_version=as_version), rank(constraint.value, as_version=as_version)
    if have is None or bound is None:
        return False
    side = (have > bound) - (have < bound)  # type: ignore[operator]  # both numbers, or both versions
    return {
        ConstraintOperator.LESS: side < 0,
        ConstraintOperator.AT_MOST: side <= 0,
        ConstraintOperator.MORE: side > 0,
        ConstraintOperator.AT_LEAST: side >= 0,
    }[constraint.operator]


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
                attribute: _Column(column.codes.copy(), column.code_by_value.copy(), column.meeting.copy())
                for attribute, column in self._columns.items()
            }
        )
        return twin


class _Column:
    """One attribute of all nodes, its values numbered from 1 in the order they were met."""

    def __init__(
        self, codes: Codes, code_by_value: dict[str, int], meeting: dict[Constraint, Bools] | None = None
    ) -> None:
        self.codes, self.code_by_value = codes, code_by_value
        self.meeting = meeting or {}
        """For rules that are looked up by value: which codes meet them, those of all values met so far."""

    def holds(self, constraint: Constraint) -> Bools:
        """Rows on which a rule about this attribute holds."""
        if constraint.operator in (ConstraintOperator.EQUAL, ConstraintOperator.NOT_EQUAL):
            code = self.code_by_value.get(comparable(constraint.attribute, constraint.value), _NO_CODE)
            equal: Bools = self.codes == code
            return ~equal if constraint.operator.negates else equal
        rows: Bools = self._meeting(constraint)[self.codes]
        return rows

    def _meeting(self, constraint: Constraint) -> Bools:
        """By code, whether its value meets the rule: each value is judged once."""
        meets = self.meeting.get(constraint)
        known = 0 if meets is None else len(meets)
        if known <= len(self.code_by_value):
            values = list(self.code_by_value)[max(known - 1, 0) :]
            judged = [value_meets(constraint, value) for value in values]
            first = [constraint.operator.negates] if meets is None else meets.tolist()
            while len(self.meeting) >= _RULES_KEPT:
                del self.meeting[next(iter(self.meeting))]
            meets = self.meeting[constraint] = np.array([*first, *judged], np.bool_)
        assert meets is not None, "there is a code for a missing value at least"
        return meets

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
