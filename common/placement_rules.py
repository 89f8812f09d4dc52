"""What a job may ask of its nodes: constraints, what it spreads over, and what it would be beside or apart from.

Pure. Part of `common.validation`; which nodes satisfy that is decided in the scheduler.
"""

from __future__ import annotations

from common.constraints import attribute_fault, constraint_fault
from common.model.job import HIGHEST_WEIGHT, Affinity, Placement
from common.names import name_fault
from common.rules import RULES_LIMIT, Found, at_most, below, in_range, one, shown
from common.settings import LIMITS


def placement_faults(placement: Placement) -> Found:
    yield from at_most("constraints", placement.constraints, RULES_LIMIT)
    for place, constraint in enumerate(placement.constraints):
        yield from one(f"constraints[{place}]", constraint_fault(constraint))
    yield from at_most("spread", placement.spread, RULES_LIMIT)
    for place, attribute in enumerate(placement.spread):
        yield from one(f"spread[{place}]", attribute_fault(attribute))
    yield from in_range("max_replicas_per_node", placement.max_replicas_per_node, 0, LIMITS.replicas)
    yield from at_most("affinities", placement.affinities, RULES_LIMIT)
    for place, affinity in enumerate(placement.affinities):
        yield from below(f"affinities[{place}]", _affinity(affinity))


def _affinity(affinity: Affinity) -> Found:
    if affinity.constraint is not None:
        yield from one("constraint", constraint_fault(affinity.constraint))
        if affinity.job:
            yield "job", "an affinity is to nodes (constraint) or to a job: give one of the two"
        if affinity.within:
            yield "within", "belongs to an affinity to a job"
        if affinity.required:
            yield "required", "nodes that a task must have are asked for with deploy.placement.constraints"
    else:
        yield from one("job", _full_name_fault(affinity.job))
    if affinity.within:
        yield from one("within", attribute_fault(affinity.within))
    yield from in_range("weight", affinity.weight, 1, HIGHEST_WEIGHT)


def _full_name_fault(full_name: str) -> str:
    namespace, slash, name = full_name.partition("/")
    if not full_name:
        return "must be given, or a constraint: what is the affinity to?"
    return (name_fault(namespace) or name_fault(name)) if slash else f"{shown(full_name)} is not NAMESPACE/NAME"
