"""The text form of placement rules: which node attributes exist, how `node.labels.zone == eu` is written, and in what
order numbers and versions are.

Parses and checks; never decides whether a node satisfies a rule (the scheduler's filters do).
"""

from __future__ import annotations

import re
from typing import TypeAlias

from common.errors import Invalid
from common.model.job import Constraint, ConstraintOperator

ATTRIBUTES = ("node.id", "node.name", "node.platform.os", "node.platform.arch")
PREFIXES = ("node.labels.", "node.attributes.")
ALIASES = {"node.hostname": "node.name"}
"""Swarm's words for ours."""
ALLOWED_ATTRIBUTES = (
    "node.id, node.name, node.hostname, node.platform.os, node.platform.arch, node.labels.KEY or node.attributes.KEY"
)
ALLOWED_FORMS = (
    "ATTRIBUTE == VALUE, != VALUE, in (VALUE, ...), not in (VALUE, ...), or < <= > >= with a number such as 2.5 or a "
    f"version such as v1.20, where ATTRIBUTE is {ALLOWED_ATTRIBUTES}"
)

Rank: TypeAlias = float | tuple[int, ...]
"""What numbers, or else versions, are in order by."""

_NOT_HERE = {
    "node.role": "every Podium node runs tasks, so there is no role to choose; label the nodes and use node.labels.KEY",
    "engine.labels": "Podium does not read an engine's labels; give the agent --labels and use node.labels.KEY",
}
_FORM = re.compile(
    r"(?P<attribute>[^\s=!<>]+)\s*(?P<operator>==|!=|<=|>=|<|>|(?<=\s)(?:not\s+)?in(?=[\s(]))\s*(?P<value>\S(?:.*\S)?)"
)
_LIST = re.compile(r"\((?P<values>[^()]*)\)")
_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
_VALUE_CHARACTERS = 128
_VALUES_LIMIT = 64
_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?")
_VERSION = re.compile(r"v?(?P<release>[0-9]{1,9}(?:\.[0-9]{1,9}){0,7})")
_VERSION_FOUND = re.compile(rf"{_VERSION.pattern}(?:[^0-9.].*)?")
"""As machines name theirs: what follows the release (`-28-amd64`, `+deb12`) is not compared."""
_VERSIONED = ("node.attributes.kernel", "node.attributes.python")


def parse_constraint(text: str) -> Constraint:
    """`node.labels.zone == eu` as a value. Raises `Invalid` with the allowed forms."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"{text!r} is not a constraint: write {ALLOWED_FORMS}")
    attribute, value = match["attribute"], match["value"]
    operator = ConstraintOperator(" ".join(match["operator"].split()))
    constraint = Constraint(
        attribute=ALIASES.get(attribute, attribute),
        operator=operator,
        value="" if operator.lists else value,
        values=_values(text, value) if operator.lists else (),
    )
    if fault := constraint_fault(constraint):
        raise Invalid(fault)
    return constraint


def parse_attribute(text: str) -> str:
    """An attribute to spread over, e.g. `node.labels.rack`. Raises `Invalid` with what is allowed."""
    attribute = ALIASES.get(text.strip(), text.strip())
    if fault := attribute_fault(attribute):
        raise Invalid(fault)
    return attribute


def constraint_fault(constraint: Constraint) -> str:
    """What is wrong with a constraint that did not come from `parse_constraint`; empty when nothing is."""
    if fault := attribute_fault(constraint.attribute):
        return fault
    operator, value = constraint.operator, constraint.value
    if operator.lists:
        return _list_fault(constraint)
    if constraint.values:
        return f"{operator.value} takes one value; {len(constraint.values)} more are given"
    if fault := _value_fault(value):
        return fault
    if operator.orders and rank(value, as_version=by_version(constraint), exactly=True) is None:
        what = "" if by_version(constraint) else "a number such as 2.5 or "
        return f"{operator.value} compares with {what}a version such as v1.20; {value!r} is given"
    return ""


def attribute_fault(attribute: str) -> str:
    """What is wrong with an attribute's name; empty when it is one that nodes have."""
    for prefix, reason in _NOT_HERE.items():
        if attribute == prefix or attribute.startswith(f"{prefix}."):
            return f"{attribute}: {reason}"
    if attribute in ATTRIBUTES:
        return ""
    if any(attribute.startswith(prefix) and _KEY.fullmatch(attribute.removeprefix(prefix)) for prefix in PREFIXES):
        return ""
    return f"{attribute!r} is not an attribute of a node: use {ALLOWED_ATTRIBUTES}"


def by_version(constraint: Constraint) -> bool:
    """Whether an ordering compares versions, and not numbers: 5.10 is above 5.9 as a version and below it as a number.

    It does where the attribute is one of versions (the kernel's, or its name ends in `version`), and where the value
    can be nothing else (`v20.10`, `1.2.3`).
    """
    value, attribute = constraint.value, constraint.attribute
    return value.startswith("v") or value.count(".") > 1 or attribute in _VERSIONED or attribute.endswith("version")


def rank(text: str, *, as_version: bool, exactly: bool = False) -> Rank | None:
    """What a number or a version is ordered by; None when the text is none.

    Of versions the numbers of the release count, without zeros at its end: 1.2 is 1.2.0. What comes after it
    (`5.10.0-28-amd64`) is not looked at, or with `exactly` makes it no version.
    """
    if not as_version:
        return float(text) if _NUMBER.fullmatch(text) else None
    match = (_VERSION if exactly else _VERSION_FOUND).fullmatch(text)
    if match is None:
        return None
    numbers = [int(number) for number in match["release"].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _values(text: str, value: str) -> tuple[str, ...]:
    match = _LIST.fullmatch(value)
    if match is None:
        raise Invalid(f"{text!r} is not a constraint: write {ALLOWED_FORMS}")
    return tuple(each.strip() for each in match["values"].split(","))


def _list_fault(constraint: Constraint) -> str:
    operator, values = constraint.operator, constraint.values
    if constraint.value:
        return f"{operator.value} takes values in parentheses, not {constraint.value!r}"
    if not 1 <= len(values) <= _VALUES_LIMIT:
        return f"{operator.value} takes 1 to {_VALUES_LIMIT} values; {len(values)} are given"
    return next((fault for value in values if (fault := _listed_fault(value))), "")


def _value_fault(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable() or len(value) > _VALUE_CHARACTERS:
        return f"{value!r} is not a value to compare with: 1 to {_VALUE_CHARACTERS} printable characters"
    return f"{value!r} begins with '=': write {ALLOWED_FORMS}" if value.startswith("=") else ""


def _listed_fault(value: str) -> str:
    if fault := _value_fault(value):
        return fault
    return f"{value!r} contains one of ( ) and ',', which part the values" if set(value) & set("(),") else ""
