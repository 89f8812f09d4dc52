"""Switches off, one at a time, what the cluster's safety rests on: for the tests that the suite notices.

Each replaces named attributes of the product for as long as a context lasts. Nothing but those tests uses this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import msgspec

from agent.conversation import Conversation
from common.model.epoch import Epoch
from common.model.session import ControllerMessage
from controller.core import liveness
from controller.ledger import Ledger
from controller.loops import liveness as liveness_loop
from controller.presence import Presence
from controller.store.interface import Operation
from controller.store.memory import MemoryDatabase


def _commit_unfenced(self: MemoryDatabase, epoch: Epoch, operations: Sequence[Operation]) -> int:
    """Whoever wrote it, as though the present leader had."""
    return _apply(self, epoch if self.leader is None else self.leader.epoch, operations)


def _obey_any_epoch(self: Conversation, message: ControllerMessage) -> None:
    journal = self._parts.journal
    if message.epoch > journal.highest_epoch:
        journal.remember_epoch(message.epoch)


def _expect_without_grace(self: Presence, node_id: str) -> None:
    _expect(self, node_id)
    if not self.seen[node_id].connected:
        self._seen[node_id] = msgspec.structs.replace(self.seen[node_id], last_heard_s=-1e9)


def _judge_at_once(*args: Any, braked_s_ago: float, **doubts: Any) -> liveness.Judgement:
    """The end of a brake gives the silent no more time; every term begins with all of them silent."""
    return _judge(*args, **doubts)


def _never_brake(*_judged: object) -> str:
    return ""


async def _act_before_the_commit(self: Ledger, batch: Any) -> None:
    self._acknowledge(batch, 0)
    await asyncio.shield(self._commit(list(batch.operations.values())))


_apply = MemoryDatabase.apply
_expect = Presence.expect
_judge = liveness.judge

Patch: TypeAlias = tuple[Any, str, Callable[..., Any]]

SWITCHES: dict[str, tuple[Patch, ...]] = {
    "the fence compare of a commit": ((MemoryDatabase, "apply", _commit_unfenced),),
    "the agent's epoch check": ((Conversation, "_check_epoch", _obey_any_epoch),),
    "the new leader's grace": (
        (Presence, "expect", _expect_without_grace),
        (liveness_loop, "judge", _judge_at_once),
    ),
    "the brake": ((liveness, "_brake", _never_brake),),
    "commit, then act": ((Ledger, "_write", _act_before_the_commit),),
}
"""What is switched off: whose attributes, their names, and what takes their places."""


@contextmanager
def switched_off(what: str) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in SWITCHES[what]]
    try:
        for owner, name, replacement in SWITCHES[what]:
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, usual in before:
            setattr(owner, name, usual)
