"""When a node must let go of its exclusive tasks by itself: (memory, what happened, now) -> memory, lapsed tasks.

A task's permission to run lasts for its own `fence_after_s` from the moment the newest acknowledged heartbeat was sent.
The sending counts, not the arrival of its acknowledgement: the leader's own count began when it heard that heartbeat,
which cannot have been earlier. A permission that has lapsed does not come back: what would have renewed it came too
late, and another node may run the task's successor. So every look comes before what it was woken up by. Time is that of
a clock which counts while the machine sleeps.
"""

from __future__ import annotations

import math

import msgspec


class FenceMemory(msgspec.Struct, frozen=True, kw_only=True):
    acknowledged_s: float = -math.inf
    """When the newest acknowledged heartbeat was sent."""
    watched: dict[str, float] = {}
    """`fence_after_s` by task id, of tasks that have not ended and whose permission has not lapsed."""
    lapsed: dict[str, str] = {}
    """Why, by task id, until the task has ended."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    memory: FenceMemory
    lapsed: tuple[str, ...] = ()
    """Ids of the tasks whose permission has lapsed just now."""


def look(memory: FenceMemory, now_s: float) -> Look:
    """Let time have passed."""
    over = {task_id: after_s for task_id, after_s in memory.watched.items() if now_s >= memory.acknowledged_s + after_s}
    if not over:
        return Look(memory=memory)
    reasons = {task_id: _reason(memory.acknowledged_s, after_s, now_s) for task_id, after_s in over.items()}
    return _lapse(memory, reasons)


def may_start(memory: FenceMemory, fence_after_s: float, now_s: float) -> bool:
    """Whether a task that waits so long may be started now. Until then it waits: nothing of it can run."""
    return now_s < memory.acknowledged_s + fence_after_s


def watch(memory: FenceMemory, task_id: str, fence_after_s: float, now_s: float) -> Look:
    """A container of the task may run from now on, or may run already: then it can have lapsed while nobody looked."""
    if task_id in memory.lapsed:
        return look(memory, now_s)
    return look(msgspec.structs.replace(memory, watched={**memory.watched, task_id: fence_after_s}), now_s)


def forget(memory: FenceMemory, task_id: str) -> FenceMemory:
    """Nothing of the task runs any more."""
    watched = {key: after_s for key, after_s in memory.watched.items() if key != task_id}
    lapsed = {key: reason for key, reason in memory.lapsed.items() if key != task_id}
    return msgspec.structs.replace(memory, watched=watched, lapsed=lapsed)


def acknowledge(memory: FenceMemory, sent_s: float, now_s: float) -> Look:
    """A heartbeat that was sent at `sent_s` was acknowledged. Does not save what has lapsed by `now_s`."""
    seen = look(memory, now_s)
    renewed = msgspec.structs.replace(seen.memory, acknowledged_s=max(sent_s, memory.acknowledged_s))
    return Look(memory=renewed, lapsed=seen.lapsed)


def renounce(memory: FenceMemory, reason: str) -> Look:
    """Every permission ends: the cluster's memory is not the one that gave them."""
    return _lapse(memory, dict.fromkeys(memory.watched, reason))


def next_look_s(memory: FenceMemory) -> float:
    """When, if nothing happens, the next permission lapses."""
    return memory.acknowledged_s + min(memory.watched.values(), default=math.inf)


def _lapse(memory: FenceMemory, reasons: dict[str, str]) -> Look:
    watched = {task_id: after_s for task_id, after_s in memory.watched.items() if task_id not in reasons}
    after = msgspec.structs.replace(memory, watched=watched, lapsed={**memory.lapsed, **reasons})
    return Look(memory=after, lapsed=tuple(reasons))


def _reason(acknowledged_s: float, after_s: float, now_s: float) -> str:
    silent = (
        "at all since this machine started" if math.isinf(acknowledged_s) else f"for {now_s - acknowledged_s:.1f} s"
    )
    return (
        f"stopped by its own agent: it is exclusive, and no controller acknowledged this node {silent} "
        f"(allowed are {after_s:g} s), so another node may run it"
    )
