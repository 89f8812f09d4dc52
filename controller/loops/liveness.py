"""Has nodes judged by their silence whenever a judgement could change, and writes it into the presence.

A thin shell around `controller.core.liveness`. It also keeps the presence's nodes equal to the store's: a node that the
store knows is expected from the moment the term begins.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress

import msgspec

from common.model.node import Node, NodeCondition, NodeStatus
from controller.core.liveness import LOOKS_PER_PERIOD, judge
from controller.ledger import Committed, Ledger
from controller.presence import Presence
from controller.settings import Timers

logger = logging.getLogger(__name__)


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator's release of the brake came upon."""

    held: str
    """Why it held; empty when it did not, and nothing was released."""
    node_ids: tuple[str, ...]
    """The nodes that are given up by it."""


class LivenessLoop:
    """Constructed per term; `run` is part of its work. `late_s` says how late this controller itself has been."""

    def __init__(
        self,
        ledger: Ledger,
        presence: Presence,
        *,
        timers: Timers,
        late_s: Callable[[], float],
        failed: Callable[[str], None] = lambda _node_id: None,
        braked: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._ledger = ledger
        self._presence = presence
        self._timers = timers
        self._late_s = late_s
        self._failed = failed
        self._braked = braked
        """Told why when the brake engages, and an empty text when it clears."""
        self._released: frozenset[str] = frozenset()
        self._braked_at_s = -math.inf
        self._wake = asyncio.Event()

    def release_brake(self) -> Released:
        """Replace what the silent nodes ran, in spite of the brake.

        The release lasts until each of them is down or was heard again: a later mass silence brakes anew.
        """
        held = self._presence.brake
        if held:
            conditions = self._presence.conditions.items()
            self._released = frozenset(id_ for id_, known in conditions if known.status is NodeStatus.UNREACHABLE)
            logger.warning("brake released by the operator: %d silent nodes count as down now", len(self._released))
        self._wake.set()
        return Released(held=held, node_ids=tuple(sorted(self._released)) if held else ())

    async def run(self) -> None:
        unsubscribe = self._ledger.subscribe(self._committed), self._presence.subscribe(self._condition_changed)
        try:
            for node_id in self._ledger.state.nodes:
                self._presence.expect(node_id)
            while True:
                await self._sleep_until(self._judge())
        finally:
            for stop in unsubscribe:
                stop()

    def _judge(self) -> float:
        """Judge every node; when to look again, by the loop's clock."""
        presence, now_s = self._presence, asyncio.get_running_loop().time()
        before = {node_id: condition.status for node_id, condition in presence.conditions.items()}
        judgement = judge(
            presence.seen,
            before,
            now_s,
            self._timers.stretched(len(presence.seen)),
            loop_late_s=self._late_s(),
            brake_released=bool(self._released),
            braked_s_ago=now_s - self._braked_at_s,
            strangers=self._strangers(),
        )
        if judgement.brake:
            self._braked_at_s = now_s
        self._brake(judgement.brake)
        for node_id, status in judgement.statuses.items():
            if status is not before.get(node_id):
                if status is NodeStatus.DOWN:
                    self._failed(node_id)
                presence.judged(node_id, status)
        exclusive_s = [
            self._judge_silence(node_id, judgement.silence_s[node_id])
            for node_id, status in judgement.statuses.items()
            if status is NodeStatus.DOWN
        ]
        return min([judgement.wake_at_s, *(now_s + wait_s for wait_s in exclusive_s)])

    def _strangers(self) -> frozenset[str]:
        """Nodes that this term never heard and that run nothing, as far as is known."""
        state = self._ledger.state
        unheard = (node_id for node_id, known in self._presence.conditions.items() if not known.last_seen_s)
        return frozenset(
            node_id
            for node_id in unheard
            if all(task.ended or task.lost_at_s for task in state.tasks_of_node(node_id).values())
        )

    def _judge_silence(self, node_id: str, silent_s: float) -> float:
        """Tell when the silence of a node that is down has lasted for its exclusive tasks; seconds until it will."""
        tasks = self._ledger.state.tasks_of_node(node_id).values()
        waits_s = {task.lost_after_s for task in tasks if task.lost_after_s and not (task.ended or task.lost_at_s)}
        if any(wait_s <= silent_s for wait_s in waits_s):
            self._presence.silent(node_id, silent_s)
        return min((wait_s - silent_s for wait_s in waits_s if wait_s > silent_s), default=math.inf)

    def _brake(self, brake: str) -> None:
        if brake and not self._presence.brake:
            logger.warning("brake: %s; nothing is replaced until it clears or `podium brake release`", brake)
        elif self._presence.brake and not brake:
            logger.warning("brake off: replacement goes on")
        before, self._presence.brake = self._presence.brake, brake
        if bool(before) is not bool(brake):
            self._braked(brake)

    async def _sleep_until(self, wake_at_s: float) -> None:
        period_s = self._timers.stretched(len(self._presence.seen)).period_s
        now_s = asyncio.get_running_loop().time()
        wait_s = max(wake_at_s - now_s, period_s / LOOKS_PER_PERIOD)
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s if math.isfinite(wait_s) else None):
                await self._wake.wait()

    def _condition_changed(self, _before: NodeCondition | None, after: NodeCondition) -> None:
        if after.status is not NodeStatus.UNREACHABLE:
            self._released -= {after.node_id}

    def _committed(self, committed: Committed) -> None:
        for applied in committed.applied:
            match applied.before, applied.after:
                case None, Node(id=node_id):
                    self._presence.expect(node_id)
                    self._wake.set()
                case Node(id=node_id), None:
                    self._presence.forget(node_id)
                case _:
                    pass
