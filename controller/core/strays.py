"""Which tasks of a node are strays: run there, unknown here, and perhaps newer than the backup this state came from.

The rule: an agent that last obeyed an older generation has not heard of anything since a restore, so what it runs
and the restored state does not know may be younger than the backup. It is written down as a stray before the agent
learns of the new generation, and kept until the operator decides. An agent of this generation has no new strays: what
it runs beyond its assignments is a leftover. Never judges a task that the state knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from common.lifecycle import ended
from common.model.node import Node, Stray
from common.model.task import TaskReport
from controller.state import State


def strays_of(
    state: State, node: Node | None, inventory: Iterable[TaskReport], *, older_generation: bool, now_s: float
) -> tuple[Stray, ...]:
    """The strays of a node that registers with this inventory; `node` is its record so far.

    One that has ended, or that the agent has no more, is none. An exclusive task whose job the state knows is none
    either: the state may start that job's task anywhere at any moment, and two of them must not run.
    """
    known = {} if node is None else {stray.task_id: stray for stray in node.strays}
    return tuple(
        known.get(report.task_id) or _stray(report, now_s)
        for report in inventory
        if report.task_id not in state.tasks
        and not ended(report.status.state)
        and (report.task_id in known or (older_generation and not _doubles(state, report)))
    )


def without(node: Node, task_ids: Collection[str]) -> tuple[Stray, ...]:
    return tuple(stray for stray in node.strays if stray.task_id not in task_ids)


def _doubles(state: State, report: TaskReport) -> bool:
    namespace, _, name = report.job.partition("/")
    return report.exclusive and state.job_named(namespace, name) is not None


def _stray(report: TaskReport, now_s: float) -> Stray:
    return Stray(
        task_id=report.task_id,
        job=report.job,
        slot=report.slot,
        runtime_id=report.status.runtime_id,
        found_at_s=now_s,
    )
