"""The `Store` service over values: the state as a whole, its health, and what a restore has left over on nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

import msgspec

from common.errors import Conflict, Fault, Invalid, NotFound
from common.model.node import Node, Stray
from common.model.store import (
    BackupPiece,
    BackupRequest,
    CheckReport,
    CheckRequest,
    StoppedStray,
    StopStraysRequest,
    StraysStopped,
)
from controller.api.term import ApiFront
from controller.core.strays import without
from controller.state import Group, State, Write
from controller.store import archive, check
from controller.store.foreign import Foreign, encode_whole
from controller.store.interface import Contents, Snapshot
from controller.store.keys import Record, key_of

_RECORDS_PER_TURN = 2_000
"""Encoded before the loop may turn: about 10 ms."""
_IDS_LIMIT = 10_000


class StoreService:
    """Every method raises `NotLeader` where nobody leads, and what it says besides."""

    def __init__(self, front: ApiFront) -> None:
        self._front = front

    async def backup(self, _request: BackupRequest, send: Callable[[BackupPiece], Awaitable[None]]) -> None:
        """Send a backup file of the committed state as it is at this moment."""
        term = self._front.term
        revision, records = term.state.revision, list(term.state.records())
        values = await _encoded(records, dict(term.state.foreign))
        contents = Contents(snapshot=Snapshot(revision=revision, values=values), epoch=term.ledger.epoch, leader=None)
        header = archive.header_of(contents, store=term.store, version=term.version, now_s=term.clock())
        for piece in archive.pieces(header, values):
            await send(BackupPiece(content=piece))

    async def check(self, _request: CheckRequest) -> CheckReport:
        """Read everything back, compare it with what this leader believes, and ask the backend how it is."""
        term = self._front.term
        examined = await term.ledger.examine()
        snapshot = await term.ledger.read_back()
        believed = {key_of(record): record for record in term.state.records()}
        if snapshot.revision != term.state.revision:  # something was committed in between, or etcd is not ours alone
            believed = {}
        return await check.report(term.store, snapshot, examined, believed=believed)

    async def stop_strays(self, request: StopStraysRequest) -> StraysStopped:
        """Let the nodes stop them. Raises `Invalid`, `NotFound`, or `Conflict` when a prefix fits several."""
        _check_stop(request)
        term = self._front.term
        stopped: tuple[StoppedStray, ...] = ()

        def transaction(state: State) -> Iterable[Group]:
            nonlocal stopped
            stopped = tuple(_chosen(state, request))
            return tuple(_released(state, stopped))

        async def write() -> StraysStopped:
            await term.ledger.answer(transaction)
            return StraysStopped(stopped=stopped)

        key = request.idempotency_key and f"stop strays {request.idempotency_key}"
        return await term.repeats.once(key, request, write)


async def _encoded(records: Iterable[Record], foreign: Mapping[str, Foreign]) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    for number, record in enumerate(records, 1):
        key = key_of(record)
        values[key] = encode_whole(record, foreign.get(key))
        if number % _RECORDS_PER_TURN == 0:
            await asyncio.sleep(0)
    return values


def _check_stop(request: StopStraysRequest) -> None:
    if bool(request.tasks) == request.every:
        raise Invalid([Fault(path="tasks", text="name strays, or ask for every one of them; do one of the two")])
    if len(request.tasks) > _IDS_LIMIT:
        raise Invalid([Fault(path="tasks", text=f"are {len(request.tasks)}; at most {_IDS_LIMIT} are allowed")])


def _chosen(state: State, request: StopStraysRequest) -> Iterator[StoppedStray]:
    strays = {stray.task_id: (node, stray) for node in state.nodes.values() for stray in node.strays}
    ids = strays if request.every else dict.fromkeys(_one(strays, prefix) for prefix in request.tasks)
    for task_id in ids:
        node, stray = strays[task_id]
        yield StoppedStray(stray=stray, node=node.name)


def _one(strays: dict[str, tuple[Node, Stray]], prefix: str) -> str:
    found = [task_id for task_id in strays if prefix and task_id.startswith(prefix)]
    if not found:
        raise NotFound(f"no stray {prefix!r}; `podium store strays` lists what there is")
    if len(found) > 1:
        raise Conflict(f"{prefix!r} fits {len(found)} strays: {', '.join(sorted(found)[:5])}; give more characters")
    return found[0]


def _released(state: State, stopped: Iterable[StoppedStray]) -> Iterator[Group]:
    ids = {each.stray.task_id for each in stopped}
    for node in state.nodes.values():
        left = without(node, ids)
        if left != node.strays:
            yield (Write(msgspec.structs.replace(node, strays=left)),)
