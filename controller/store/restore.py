"""Puts a backup into a store, raising its generation, so that every agent obeys what leads on it afterwards.

Leads while it does so: nobody else can, and nothing is written beside a controller. A restore that breaks off leaves a
mark in the store (`keys.RESTORING`) which no controller accepts; the next one begins again and takes it away last.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

import msgspec

from common.errors import Conflict, Fault, Invalid, PodiumError, Unavailable
from controller.store.archive import Archive
from controller.store.interface import (
    MAX_COMMIT_BYTES,
    MAX_OPERATIONS,
    Contents,
    Delete,
    LeaderRecord,
    Leadership,
    Operation,
    Put,
    Store,
)
from controller.store.keys import RESTORING, check_record

_ELECTION_S = 10.0
"""With nobody leading it takes milliseconds; etcd may be electing a leader of its own."""
_RENEWAL_S = 0.7
"""Of a lease of 2 s, which is etcd's shortest."""

KeepBefore = Callable[[Contents], None]
"""Saves what the store held before it is replaced."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore has done."""

    generation: int
    written: int
    removed: int
    interrupted: bool
    """Whether an earlier restore had broken off."""


async def restore(store: Store, archive: Archive, *, force: bool, generation: int, keep_before: KeepBefore) -> Restored:
    """Make the store hold exactly what the archive does. `generation` 0: the next one.

    Raises `Invalid` for an archive that no controller could read, `Conflict` while a controller leads, and without
    `force` for a store that holds something.
    """
    check_archive(archive)
    async with _leading(store, "podium store restore") as (leadership, before):
        known = before.snapshot.values
        interrupted = RESTORING in known
        if known and not interrupted:
            if not force:
                raise Conflict(
                    f"the store holds {len(known)} records already; restore into an empty one, or replace them with "
                    "--force (they are saved first)"
                )
            keep_before(before)
        raised = _next(generation, before.epoch.generation, archive.header.generation)
        removed = sorted(known.keys() - archive.values.keys() - {RESTORING})
        await store.commit(leadership, [Put(RESTORING, msgspec.json.encode({"generation": raised}))])
        for batch in _batches(_operations(archive.values, removed, known)):
            await store.commit(leadership, batch)
        await store.raise_generation(leadership, raised, [Delete(RESTORING)])
    return Restored(generation=raised, written=len(archive.values), removed=len(removed), interrupted=interrupted)


async def raise_generation(store: Store, *, generation: int) -> int:
    """Raise the generation and nothing else: for a store that came back by other means. `generation` 0: the next one.

    Answers the new one. Raises `Conflict` while a controller leads, or when a restore has broken off.
    """
    async with _leading(store, "podium store raise-generation") as (leadership, before):
        if RESTORING in before.snapshot.values:
            raise Conflict("a restore into this store was interrupted: repeat it, which raises the generation too")
        raised = _next(generation, before.epoch.generation)
        await store.raise_generation(leadership, raised)
    return raised


def check_archive(archive: Archive) -> None:
    """Raises `Invalid` with everything in it that no controller could read."""
    faults: list[Fault] = []
    for key, value in archive.values.items():
        try:
            check_record(key, value)
        except Invalid as error:
            faults += error.faults
    if faults:
        raise Invalid(faults)


def _next(wanted: int, *known: int) -> int:
    lowest = max(known) + 1
    if wanted and wanted < lowest:
        raise Invalid(
            f"--generation {wanted} is too low: generation {lowest - 1} is known; at least {lowest} is needed"
        )
    return wanted or lowest


@contextlib.asynccontextmanager
async def _leading(store: Store, name: str) -> AsyncIterator[tuple[Leadership, Contents]]:
    """Lead without serving anybody. Raises `Conflict` while another does."""
    leader = await _leader(store)
    if leader is not None:
        raise _led(leader)
    try:
        async with asyncio.timeout(_ELECTION_S):
            leadership = await store.campaign(LeaderRecord(controller_id=name, address=""))
    except TimeoutError:
        raise Unavailable(f"could not take the leader key within {_ELECTION_S:g} s; does a controller run?") from None
    try:
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(_renew(store, leadership))
            snapshot = await store.load(leadership)
            yield leadership, Contents(snapshot=snapshot, epoch=leadership.epoch, leader=None)
            renewing.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        with contextlib.suppress(PodiumError):  # the key then lapses by itself; what was done is what counts
            await store.resign(leadership)


async def _leader(store: Store) -> LeaderRecord | None:
    await store.ping()  # says what is wrong with a store that does not answer; an observer would wait
    async for leader in store.observe_leader():
        return leader
    raise Unavailable("this store is closed")


def _led(leader: LeaderRecord) -> Conflict:
    return Conflict(
        f"controller {leader.controller_id} leads on this store (at {leader.address or 'no address'}, term "
        f"{leader.epoch.term}): stop every controller first. What runs goes on running. (One that was killed counts "
        "until its lease has run out, 3 s.)"
    )


async def _renew(store: Store, leadership: Leadership) -> None:
    while True:
        await asyncio.sleep(_RENEWAL_S)
        await store.keep_alive(leadership)


def _operations(wanted: Mapping[str, bytes], removed: Iterable[str], known: Mapping[str, bytes]) -> Iterator[Operation]:
    for key in removed:
        yield Delete(key)
    for key, value in wanted.items():
        if known.get(key) != value:
            yield Put(key, value)


def _batches(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    batch: list[Operation] = []
    size_bytes = 0
    for operation in operations:
        bytes_more = len(operation.key.encode()) + (len(operation.value) if isinstance(operation, Put) else 0)
        if batch and (len(batch) == MAX_OPERATIONS or size_bytes + bytes_more > MAX_COMMIT_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(operation)
        size_bytes += bytes_more
    if batch:
        yield batch
