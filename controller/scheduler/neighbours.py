"""Jobs that are to be beside each other or apart: who is near a node, and whose tasks keep others off. Ranks nothing.

A rule of a job about another one (`Affinity`) binds both where it keeps apart: what is kept off a node must not come
there later either. So the rules of tasks that have a place are kept here by the name they are about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from common.model.job import Affinity, Placement, TaskSpec

if TYPE_CHECKING:
    from controller.scheduler.node_table import NodeTable

Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]
_Rule: TypeAlias = tuple[str, bool]
"""Within what, and whether apart."""


class Neighbours:
    """The required rules of tasks that have a place. Jobs without any cost nothing."""

    def __init__(self) -> None:
        self._rules: dict[str, dict[_Rule, dict[str, dict[int, int]]]] = {}
        """By the name of the job a rule is about, the rule, and the job that has it: its tasks by row."""

    def account(self, row: int, spec: TaskSpec, job_id: str, change: int) -> None:
        for affinity in spec.placement.affinities:
            if affinity.required:
                self._account(row, affinity, job_id, change)

    def kept_off(self, table: NodeTable, name: str, job_id: str) -> Iterator[tuple[str, Bools]]:
        """Other jobs that are to be apart from the job of this name, and the rows off which they keep it."""
        for (within, apart), jobs in self._rules.get(name, {}).items():
            for other, rows in sorted(jobs.items()) if apart else ():
                if other != job_id:
                    yield other, _around(table, np.array(list(rows), np.int64), within)

    def rules_about(self, name: str) -> bool:
        """Whether anybody who has a place must be beside the job of this name, or apart from it."""
        return name in self._rules

    def leaned_on(self, table: NodeTable, name: str) -> Bools | None:
        """Rows on which tasks have to be beside the job of this name; None when nowhere."""
        found: Bools | None = None
        for (within, apart), jobs in self._rules.get(name, {}).items():
            for rows in jobs.values() if not apart else ():
                around = _around(table, np.array(list(rows), np.int64), within)
                found = around if found is None else found | around
        return found

    def copy(self) -> Neighbours:
        twin = Neighbours()
        twin._rules = {
            name: {rule: {job_id: rows.copy() for job_id, rows in jobs.items()} for rule, jobs in rules.items()}
            for name, rules in self._rules.items()
        }
        return twin

    def _account(self, row: int, affinity: Affinity, job_id: str, change: int) -> None:
        rules = self._rules.setdefault(affinity.job, {})
        rule = affinity.within, affinity.apart
        rows = rules.setdefault(rule, {}).setdefault(job_id, {})
        rows[row] = rows.get(row, 0) + change
        assert rows[row] >= 0, f"no task of job {job_id} has a rule about {affinity.job} on that row"
        if rows[row]:
            return
        del rows[row]
        if not rows:
            del rules[rule][job_id]
        if not rules[rule]:
            del rules[rule]
        if not rules:
            del self._rules[affinity.job]


def near(table: NodeTable, affinity: Affinity) -> Bools:
    """Rows beside which the affinity's job has tasks."""
    counts = table.counts_named(affinity.job)
    rows = np.zeros(0, np.int64) if counts is None else np.flatnonzero((counts > 0) & table.known)
    return _around(table, rows, affinity.within)


def allowed(table: NodeTable, affinity: Affinity, own_name: str) -> Bools | None:
    """Rows that a required affinity allows; None for all: the first task of a job that is to be beside itself."""
    beside = near(table, affinity)
    if affinity.apart:
        return ~beside
    if affinity.job == own_name and not beside.any():
        return None
    return beside


def misses(table: NodeTable, placement: Placement) -> Ints | None:
    """By row, the weight of the wishes that would not be fulfilled there; None where nothing is wished."""
    result: Ints | None = None
    for wish in placement.affinities:
        if wish.required:
            continue
        holds = near(table, wish) if wish.constraint is None else table.holds(wish.constraint)
        missed = np.where(holds == wish.apart, wish.weight, 0)
        result = missed if result is None else result + missed
    return result


def about_itself(placement: Placement, own_name: str) -> bool:
    """Whether each task of the job has a say in where the next one goes."""
    return any(affinity.job == own_name for affinity in placement.affinities)


def _around(table: NodeTable, rows: Ints, within: str) -> Bools:
    """The rows, and those in the same group as one of them: nodes that share a value of `within`."""
    mask = np.zeros(table.rows, np.bool_)
    mask[rows] = True
    if within and len(rows):
        codes = table.codes(within)
        there = np.zeros(int(codes.max()) + 1, np.bool_)
        there[codes[rows]] = True
        there[0] = False  # nodes without the attribute are near themselves only
        mask |= there[codes]
    return mask
