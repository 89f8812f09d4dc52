"""The text form of placement rules: which node attributes exist and how `node.labels.zone == eu` is written.

Parses and checks; never decides whether a node satisfies a rule (the scheduler's filters do).
"""

from __future__ import annotations

import re

from common.errors import Invalid
from common.model.job import Constraint, ConstraintOperator

ATTRIBUTES = ("node.id", "node.name", "node.platform.os", "node.platform.arch")
LABEL_PREFIX = "node.labels."
ALIASES = {"node.hostname": "node.name"}
"""Swarm's words for ours."""
ALLOWED_ATTRIBUTES = "node.id, node.name, node.hostname, node.platform.os, node.platform.arch or node.labels.KEY"
ALLOWED_FORMS = f"ATTRIBUTE == VALUE or ATTRIBUTE != VALUE, where ATTRIBUTE is {ALLOWED_ATTRIBUTES}"

_NOT_HERE = {
    "node.role": "every Podium node runs tasks, so there is no role to choose; label the nodes and use node.labels.KEY",
    "engine.labels": "Podium does not read an engine's labels; give the agent --labels and use node.labels.KEY",
}
_FORM = re.compile(r"(?P<attribute>[^\s=!<>]+)\s*(?P<operator>==|!=)\s*(?P<value>\S(?:.*\S)?)")
_LABEL_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
_VALUE_CHARACTERS = 128


def parse_constraint(text: str) -> Constraint:
    """`node.labels.zone == eu` as a value. Raises `Invalid` with the allowed forms."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"{text!r} is not a constraint: write {ALLOWED_FORMS}")
    attribute = match["attribute"]
    constraint = Constraint(
        attribute=ALIASES.get(attribute, attribute),
        operator=ConstraintOperator(match["operator"]),
        value=match["value"],
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
    value = constraint.value
    if not value or value != value.strip() or not value.isprintable() or len(value) > _VALUE_CHARACTERS:
        return f"{value!r} is not a value to compare with: 1 to {_VALUE_CHARACTERS} printable characters"
    if value.startswith("="):
        return f"{value!r} begins with '=': write {ALLOWED_FORMS}"
    return ""


def attribute_fault(attribute: str) -> str:
    """What is wrong with an attribute's name; empty when it is one that nodes have."""
    for prefix, reason in _NOT_HERE.items():
        if attribute == prefix or attribute.startswith(f"{prefix}."):
            return f"{attribute}: {reason}"
    if attribute in ATTRIBUTES:
        return ""
    if attribute.startswith(LABEL_PREFIX) and _LABEL_KEY.fullmatch(attribute.removeprefix(LABEL_PREFIX)):
        return ""
    return f"{attribute!r} is not an attribute of a node: use {ALLOWED_ATTRIBUTES}"
