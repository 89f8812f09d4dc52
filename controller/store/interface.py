"""The store's few verbs. A store keeps bytes under text keys and knows who leads; it knows nothing of jobs or tasks.

The leader alone writes, and every write is fenced: it takes effect only while the leader key of the writer's term
exists. So the leader loads one snapshot and never watches its own writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec

from common.model.epoch import Epoch
from common.model.store import Finding

MAX_OPERATIONS = 120
"""Per commit. etcd allows 128 in a transaction; the rest is for the commit's own bookkeeping."""
MAX_COMMIT_BYTES = 1_400_000
"""Keys and values of one commit. etcd refuses requests over 1.5 MiB."""


class Put(msgspec.Struct, frozen=True):
    key: str
    value: bytes


class Delete(msgspec.Struct, frozen=True):
    key: str


Operation: TypeAlias = Put | Delete


class LeaderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader key says: who leads, and where it serves engineers and agents."""

    controller_id: str
    address: str
    """gRPC address, `host:port`."""
    epoch: Epoch = Epoch()
    """Filled in by the store when it reads the key."""


class Leadership(msgspec.Struct, frozen=True, kw_only=True):
    """A won election: proof that the holder may write until `Fenced` or until its lease ran out."""

    epoch: Epoch
    lease_s: float
    """How long the store keeps the leader key without a renewal; infinite where nobody else can ever lead."""
    lease_id: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in the store at one revision."""

    revision: int
    values: Mapping[str, bytes]


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a store holds, as anybody may read it, also while another process leads."""

    snapshot: Snapshot
    epoch: Epoch
    """`term` is that of the leader; while nobody leads, the last one that is known, or 0."""
    leader: LeaderRecord | None


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend knows of its own condition."""

    facts: dict[str, str] = {}
    findings: tuple[Finding, ...] = ()


class Store(Protocol):
    """Errors: `Fenced` (the term is over, nothing was written), `Unavailable` (nothing was written),
    `OutcomeUnknown` (the store tried to find out and could not; the term must end), `Invalid` (over a limit)."""

    kind: str
    """`memory`, `sqlite` or `etcd`."""

    async def campaign(self, candidate: LeaderRecord) -> Leadership:
        """Wait until the candidate leads. Terms rise with every election. Cancelling withdraws the candidacy.

        Raises `Conflict` where several controllers cannot share the store and another one has it.
        """

    async def keep_alive(self, leadership: Leadership) -> None:
        """Renew the lease once. Raises `Fenced` when it is gone, `Unavailable` when that cannot be known now."""

    def renewal_age_s(self, leadership: Leadership) -> float:
        """How long ago the store renewed the lease by itself, because the event loop was too busy; else infinite."""

    async def resign(self, leadership: Leadership) -> None:
        """Give the leader key up, so that the next candidate wins at once. Never raises for an ended term."""

    async def load(self, leadership: Leadership) -> Snapshot:
        """One consistent snapshot, linearizable, as of a moment within the term."""

    async def commit(self, leadership: Leadership, operations: Sequence[Operation]) -> int:
        """Write all operations or none, durably; the new revision.

        At most `MAX_OPERATIONS` with distinct keys and `MAX_COMMIT_BYTES`. When the answer is lost the store reads
        back by itself whether the commit happened; it is never applied twice. Commits of one term must be awaited one
        after the other.
        """

    async def raise_generation(
        self, leadership: Leadership, generation: int, operations: Sequence[Operation] = ()
    ) -> int:
        """Commit, and raise the generation with it: all agents then obey the next leader, whatever they obeyed before.

        The last act of a term that restores; it should resign then. `generation` must be higher than the store's.
        """

    async def read(self) -> Contents:
        """Everything at one revision, linearizable, without leading and without writing anything."""

    async def get(self, key: str) -> bytes | None:
        """The value under one key, linearizable, without leading; None when there is none."""

    async def examine(self) -> Examination:
        """What the backend itself can say of its health: takes a while, disturbs nobody, writes nothing."""

    def observe_leader(self) -> AsyncIterator[LeaderRecord | None]:
        """The leader key now, then at every change; None while nobody leads. Reconnects by itself."""

    async def ping(self) -> None:
        """Raises `Unavailable` with the reason when the store does not answer."""

    async def close(self) -> None:
        """Free connections and files. A leader should resign first."""


class Roster(Protocol):
    """Who runs on a store that several controllers share. For people: nothing is decided by it."""

    async def attend(self, controller: LeaderRecord) -> None:
        """Until cancelled: be listed."""

    async def attending(self) -> tuple[LeaderRecord, ...]:
        """The controllers that run, by address. Raises `Unavailable`."""


@runtime_checkable
class SharedStore(Protocol):
    """A store that several controllers may use at once."""

    @property
    def roster(self) -> Roster: ...
