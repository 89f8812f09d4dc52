"""Whether a task whose container ended is started again on this node, and when. Never counts time itself.

The wait doubles with each attempt in a row that ended too soon; a run of the policy's window makes those before it
forgotten. After the policy's attempts the task fails, and the controller gives its slot to another node.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from common.backoff import Backoff
from common.model.job import RestartCondition, RestartPolicy
from common.model.task import TaskState

DELAY_LIMIT_S = 60.0
"""A container that crashes for hours is tried every minute: cheap for the node, soon enough after the cause is gone."""


class RestartMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What must be remembered from one attempt to the next."""

    in_a_row: int = 0
    """Attempts that ended since one last ran for the policy's window."""


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """The next attempt begins `delay_s` after the last one's end."""

    delay_s: float
    memory: RestartMemory


class Over(msgspec.Struct, frozen=True, kw_only=True):
    """No further attempt here: the task ends in `state`. `reason` adds to how the last attempt ended, if anything."""

    state: TaskState
    reason: str = ""


Verdict: TypeAlias = Again | Over


def after_attempt(policy: RestartPolicy, memory: RestartMemory, *, success: bool, good_for_s: float) -> Verdict:
    """Judge an attempt that has ended.

    `success`: it ended by itself with exit code 0. `good_for_s`: how long it ran, or was healthy where that is checked.
    """
    if policy.condition is RestartCondition.NONE or (success and policy.condition is RestartCondition.ON_FAILURE):
        return Over(state=TaskState.COMPLETE if success else TaskState.FAILED)
    in_a_row = 1 if good_for_s >= policy.window_s else memory.in_a_row + 1
    if policy.max_attempts and in_a_row >= policy.max_attempts:
        return Over(state=TaskState.FAILED, reason=_given_up(in_a_row, policy.window_s))
    return Again(delay_s=_delays(policy).ceiling_s(in_a_row), memory=RestartMemory(in_a_row=in_a_row))


def is_habit(memory: RestartMemory, attempts_before: int) -> bool:
    """Whether failing is the rule with this slot, so that nobody needs to know of each step at once."""
    return memory.in_a_row > 1 or attempts_before > 0


def first_wait_s(policy: RestartPolicy, attempts_before: int) -> float:
    """How long a task's very first start waits when `attempts_before` tasks of its slot failed in a row before it."""
    return _delays(policy).ceiling_s(attempts_before) if attempts_before > 0 else 0.0


def _delays(policy: RestartPolicy) -> Backoff:
    return Backoff(first_s=policy.delay_s, limit_s=max(DELAY_LIMIT_S, policy.delay_s))


def _given_up(attempts: int, window_s: float) -> str:
    times = "the only attempt" if attempts == 1 else f"attempt {attempts} of {attempts}"
    return f"{times} on this node, none ran for {window_s:g} s"
