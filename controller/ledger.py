"""The state in memory plus guarded writes: `submit` a transaction, and it is in the store when the await returns.

A transaction is a pure function of the committed state that returns atomic groups of changes, or raises (`Conflict`,
`NotFound`, `Invalid`) to refuse itself. The one writer task evaluates waiting transactions in order and sends what they
return as one commit; one that touches a record already in the batch waits for the next batch, so it always sees what
was committed before it. Memory changes only after the store has acknowledged; then subscribers get what changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import msgspec

from common.backoff import Backoff
from common.errors import Fenced, Invalid, OutcomeUnknown, PodiumError, Unavailable
from common.model.asset import Asset, AssetVersion
from common.model.epoch import Epoch
from common.model.ids import Rng
from common.model.job import Job, JobVersion
from common.model.node import Node
from common.model.quota import Quota
from common.model.task import Slot, Task
from common.model.trust import Authority, Denied, Enrolment, JoinToken, NextKey, User
from controller.asset_index import uses_of
from controller.state import Applied, Change, Erase, Group, State, Write
from controller.store.foreign import encode_whole
from controller.store.interface import (
    MAX_COMMIT_BYTES,
    MAX_OPERATIONS,
    Delete,
    Examination,
    Leadership,
    Operation,
    Put,
    Snapshot,
    Store,
)
from controller.store.keys import key_of

__all__ = ["Committed", "Group", "Ledger", "LedgerLimits", "Subscriber", "Transaction"]

logger = logging.getLogger(__name__)

Transaction: TypeAlias = Callable[[State], Iterable[Group]]


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What one commit changed, in order."""

    revision: int
    applied: tuple[Applied, ...]


Subscriber: TypeAlias = Callable[[Committed], None]
"""Called synchronously right after memory changed; must be quick and must not raise."""

CommitObserver: TypeAlias = Callable[[float, int], None]
"""Told the seconds and the operations of each acknowledged commit."""


class LedgerLimits(msgspec.Struct, frozen=True, kw_only=True):
    waiting: int = 4_096
    """Transactions inside `submit` at once; the others wait outside: a slow store must not fill the memory."""
    operations: int = MAX_OPERATIONS
    commit_bytes: int = MAX_COMMIT_BYTES
    retry: Backoff = Backoff(first_s=0.05, limit_s=1.0)
    """Between tries of a commit of which nothing was written; a store's failover takes about a second."""


LEDGER_LIMITS = LedgerLimits()


class Ledger:
    """See the module. Constructed per term with the loaded state; `run` is part of the term's work."""

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        state: State,
        *,
        rng: Rng,
        limits: LedgerLimits = LEDGER_LIMITS,
        observe: CommitObserver = lambda _seconds, _operations: None,
        holds: Callable[[], bool] = lambda: True,
    ) -> None:
        """`holds` says whether the term's lease is certainly held at this moment."""
        self.state = state
        state.generation = leadership.epoch.generation
        self._store = store
        self._leadership = leadership
        self._rng = rng
        self._limits = limits
        self._observe = observe
        self._holds = holds
        self._subscribers: list[Subscriber] = []
        self._room = asyncio.Semaphore(limits.waiting)
        self._arrived = asyncio.Event()
        self._waiting: deque[_Submission] = deque()
        self._ended = False

    @property
    def epoch(self) -> Epoch:
        """Of the term this ledger belongs to."""
        return self._leadership.epoch

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Tell `subscriber` of every commit from now on, in order, until the returned function is called."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    async def answer(self, transaction: Transaction) -> None:
        """As `submit`, for whoever asked from outside.

        A leader that was frozen still has its memory, and what changes nothing there needs no commit that would fence
        it: such an answer, or a refusal, is only given while the lease is certainly held. Raises `Unavailable`
        otherwise.
        """
        await self.submit(lambda state: self._certain(state, transaction))

    def _certain(self, state: State, transaction: Transaction) -> tuple[Group, ...]:
        try:
            groups = tuple(group for group in transaction(state) if group)
        except PodiumError:
            self._check_certain()
            raise
        if not groups:
            self._check_certain()
        return groups

    def _check_certain(self) -> None:
        if not self._holds():
            raise Unavailable("this controller cannot tell at the moment whether it still leads; ask again")

    async def submit(self, transaction: Transaction) -> None:
        """Return when everything the transaction asks for is in the store and in `state`.

        Raises what the transaction raised, `Fenced` when the term ended before it was written (a transaction cut into
        several commits may then be written in part), `OutcomeUnknown` when the store could not tell. Cancelling the
        wait takes a transaction back that was not sent yet; otherwise it goes on without its waiter.
        """
        async with self._room:
            if self._ended:
                raise _term_over()
            submission = _Submission(transaction)
            self._waiting.append(submission)
            self._arrived.set()
            await submission.done

    async def read_back(self) -> Snapshot:
        """What the store holds now, for comparison. Raises `Fenced` when the term is over."""
        return await self._store.load(self._leadership)

    async def examine(self) -> Examination:
        """What the store says of its own health."""
        return await self._store.examine()

    async def run(self) -> None:
        """The one writer. Ends only with the term: cancelled, or raising `Fenced` or `OutcomeUnknown`."""
        try:
            while True:
                batch = self._next_batch()
                if batch.operations:
                    await self._write(batch)
                else:  # a batch is only empty when nobody waits
                    self._arrived.clear()
                    await self._arrived.wait()
        finally:
            self._ended = True
            _fail(self._waiting, _term_over())

    def _next_batch(self) -> _Batch:
        """What the next commit carries: waiting transactions in order, up to the first that does not fit in."""
        batch = _Batch(self._limits)
        while self._waiting:
            submission = self._waiting[0]
            if not submission.ready(self.state, self._limits):
                self._waiting.popleft()
            elif not batch.take(submission):
                break
            else:
                self._waiting.popleft()
        return batch

    async def _write(self, batch: _Batch) -> None:
        try:
            revision = await self._commit(list(batch.operations.values()))
        except Invalid as error:  # over a limit of this store that ours do not know; nothing was written
            self._drop(batch, error)
            return
        except (Fenced, OutcomeUnknown) as error:
            _fail(batch.members, error)
            raise
        except BaseException:
            _fail(
                batch.members, OutcomeUnknown("the term ended while the write was under way; read back what happened")
            )
            raise
        self._acknowledge(batch, revision)

    async def _commit(self, operations: list[Operation]) -> int:
        """Commit, trying again for as long as the term lasts while nothing can be written."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begun_s = loop.time()
            try:
                revision = await self._store.commit(self._leadership, operations)
            except OutcomeUnknown:
                raise
            except Unavailable as error:
                failures += 1
                logger.warning("the store takes no writes (%s); try %d follows", error, failures + 1)
                await asyncio.sleep(self._limits.retry.full_jitter_s(failures, self._rng))
            else:
                self._observe(loop.time() - begun_s, len(operations))
                return revision

    def _acknowledge(self, batch: _Batch, revision: int) -> None:
        self.state.revision = revision
        if self.state.foreign:
            self._forget_foreign(batch.changes)
        committed = Committed(revision=revision, applied=tuple(self.state.apply(change) for change in batch.changes))
        for subscriber in tuple(self._subscribers):
            subscriber(committed)
        for submission in batch.completed:
            submission.succeed()

    def _forget_foreign(self, changes: Iterable[Change]) -> None:
        """Of records that are gone: one that takes the key again is of this version."""
        for change in changes:
            if isinstance(change, Erase):
                self.state.foreign.pop(key_of(change.record), None)

    def _drop(self, batch: _Batch, error: Invalid) -> None:
        _fail(batch.members, error)
        if self._waiting and self._waiting[0].done.done():  # its rest is not valid without what was just refused
            self._waiting.popleft()


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """One group, ready to be sent. A record that a group changes twice is sent as it ends."""

    changes: Group
    operations: dict[str, Operation]
    size_bytes: int


class _Submission:
    """One transaction on its way: evaluated when its turn comes, sent in one part or several."""

    def __init__(self, transaction: Transaction) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.parts: deque[_Part] = deque()
        self.touched: frozenset[str] = frozenset()
        self.sent = False
        self._transaction = transaction

    def ready(self, state: State, limits: LedgerLimits) -> bool:
        """Evaluate on `state`, unless a part was sent already; False when there is nothing (more) to send."""
        if self.sent:
            return True
        if self.done.cancelled():
            return False
        try:
            groups = tuple(group for group in self._transaction(state) if group)
            self.parts = deque(_part(group, state, limits) for group in groups)
        except Exception as error:  # the caller's own error, and the caller's to handle or to log
            self.fail(error)
            return False
        self.touched = frozenset(name for group in groups for change in group for name in _touched(state, change))
        if not self.parts:
            self.succeed()
        return bool(self.parts)

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Batch:
    """One commit in the making."""

    def __init__(self, limits: LedgerLimits) -> None:
        self.operations: dict[str, Operation] = {}
        self.changes: list[Change] = []
        self.members: list[_Submission] = []
        self.completed: list[_Submission] = []
        self._limits = limits
        self._touched: set[str] = set()
        self._size_bytes = 0

    def take(self, submission: _Submission) -> bool:
        """Take as many of its parts as fit; whether that was all of them."""
        if not self._touched.isdisjoint(submission.touched):
            return False
        while submission.parts and self._fits(submission.parts[0]):
            self._add(submission.parts.popleft())
            submission.sent = True
        if submission.sent:
            self.members.append(submission)
            self._touched |= submission.touched
        if submission.parts:
            return False
        self.completed.append(submission)
        return True

    def _fits(self, part: _Part) -> bool:
        return (
            len(self.operations) + len(part.operations) <= self._limits.operations
            and self._size_bytes + part.size_bytes <= self._limits.commit_bytes
        )

    def _add(self, part: _Part) -> None:
        self.operations.update(part.operations)
        self.changes.extend(part.changes)
        self._size_bytes += part.size_bytes


def _part(group: Group, state: State, limits: LedgerLimits) -> _Part:
    operations = {operation.key: operation for operation in (_operation(change, state) for change in group)}
    size_bytes = sum(map(_size_bytes, operations.values()))
    if len(operations) > limits.operations or size_bytes > limits.commit_bytes:
        raise Invalid(
            f"one change of {len(operations)} records and {size_bytes} bytes is more than the store takes at once "
            f"({limits.operations} records, {limits.commit_bytes} bytes)"
        )
    return _Part(changes=group, operations=operations, size_bytes=size_bytes)


def _operation(change: Change, state: State) -> Operation:
    key = key_of(change.record)
    return Put(key, encode_whole(change.record, state.foreign.get(key))) if isinstance(change, Write) else Delete(key)


def _size_bytes(operation: Operation) -> int:
    return len(operation.key) + (len(operation.value) if isinstance(operation, Put) else 0)


def _touched(state: State, change: Change) -> Iterator[str]:
    """What two transactions of one batch must not both touch: the record, and what its validity was judged by.

    A name or a published port must stay unique, a node's capacity is shared by what is placed on it, and what belongs
    to a job must not be created while the job is being removed. Neither transaction would see the other's write.
    """
    record = change.record
    yield key_of(record)
    match record:
        case Job():
            yield f"name of job {record.full_name}"
            yield from _share_of_quota(state, record.namespace)
        case JobVersion():
            yield f"jobs/{record.job_id}"
            for name in record.spec.task.public_names:
                yield f"published {name}"
            for key, _ in uses_of(record):
                yield f"versions of {key}"
        case Node():
            yield f"name of node {record.name}"
        case Task():
            yield from _task_touches(state, record)
        case Slot():
            if record.slot not in state.slots_of(record.job_id):
                yield f"jobs/{record.job_id}"
        case Quota():
            yield f"quota of {record.namespace}"
        case Asset() | AssetVersion():
            yield f"versions of {record.key}"  # none is forgotten while a job comes to use it
        case Authority() | NextKey() | JoinToken() | User() | Enrolment() | Denied():
            pass  # each is judged by itself


def _task_touches(state: State, task: Task) -> Iterator[str]:
    known = state.tasks.get(task.id)
    if known is None:
        yield f"jobs/{task.job_id}"
        yield from _share_of_quota(state, task.namespace)
    if task.node_id and (known is None or not known.node_id):
        yield f"nodes/{task.node_id}"


def _share_of_quota(state: State, namespace: str) -> Iterator[str]:
    if namespace in state.quotas:
        yield f"quota of {namespace}"


def _term_over() -> Fenced:
    return Fenced("this controller's term ended before the change was written; send it to the present leader")


def _fail(submissions: Iterable[_Submission], error: PodiumError) -> None:
    for submission in submissions:
        submission.fail(error)
