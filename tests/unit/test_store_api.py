"""The Store service over values: backups of one moment, checks against the store, strays let go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from common.errors import Conflict, Invalid, NotFound
from common.model.node import Stray
from common.model.store import BackupPiece, BackupRequest, CheckRequest, StopStraysRequest
from controller.api.repeats import Repeats
from controller.api.store import StoreService
from controller.ledger import Ledger
from controller.state import State, Write
from controller.store import archive
from controller.store.interface import LeaderRecord, Put
from controller.store.keys import Record, encode, key_of
from controller.store.memory import MemoryDatabase, MemoryStore
from tests import builders

ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")
JOB, VERSION = builders.job()


class Rig:
    """A term with a ledger on a memory store, as far as this service uses one."""

    def __init__(self, ledger: Ledger, database: MemoryDatabase) -> None:
        self.ledger = ledger
        self.database = database
        term: Any = SimpleNamespace(
            ledger=ledger,
            state=ledger.state,
            store="memory",
            version="0.1.0",
            clock=lambda: 1_790_000_000.0,
            repeats=Repeats(),
        )
        self.service = StoreService(SimpleNamespace(term=term))  # type: ignore[arg-type]

    async def write(self, *records: Record) -> None:
        await self.ledger.submit(lambda _state: [tuple(Write(record) for record in records)])

    async def backup(self, path: Path) -> archive.Archive:
        content = bytearray()

        async def send(piece: BackupPiece) -> None:
            content.extend(piece.content)

        await self.service.backup(BackupRequest(), send)
        path.write_bytes(content)
        return archive.read(path)


@asynccontextmanager
async def rig(*records: Record) -> AsyncIterator[Rig]:
    database = MemoryDatabase(lease_s=60, generation=2)
    store = MemoryStore(database)
    leadership = await store.campaign(ANN)
    ledger = Ledger(store, leadership, State(), rng=random.Random(1))
    writing = asyncio.create_task(ledger.run())
    made = Rig(ledger, database)
    try:
        if records:
            await made.write(*records)
        yield made
    finally:
        writing.cancel()
        await asyncio.wait({writing})
        database.end_term()


async def test_a_backup_is_what_the_store_holds(tmp_path: Path) -> None:
    async with rig(JOB, VERSION, builders.node()) as made:
        found = await made.backup(tmp_path / "b")
        assert found.values == made.database.values
        assert (found.header.generation, found.header.term) == (2, 1)
        assert found.header.revision == made.database.revision
        assert found.header.records == {"jobs": 1, "nodes": 1, "versions": 1}


async def test_a_backup_is_of_one_moment(tmp_path: Path) -> None:
    nodes = [builders.node(f"n{number}") for number in range(5_000)]
    async with rig() as made:
        for start in range(0, len(nodes), 100):
            await made.write(*nodes[start : start + 100])
        backing_up = asyncio.create_task(made.backup(tmp_path / "b"))
        await asyncio.sleep(0)  # its moment is now; encoding it all takes several turns
        await made.write(builders.node("late"), replace(nodes[-1], joined_at_s=9.0))
        found = await backing_up
        assert len(found.values) == 5_000
        assert found.values[key_of(nodes[-1])] == encode(nodes[-1])


async def test_a_check_compares_the_store_with_what_the_leader_believes() -> None:
    async with rig(JOB, VERSION) as made:
        report = await made.service.check(CheckRequest())
        assert report.findings == ()
        assert report.store == "memory"
        made.database.values[key_of(JOB)] = encode(replace(JOB, replicas=7))
        (finding,) = (await made.service.check(CheckRequest())).findings
        assert "differs between the store and the leader's memory" in finding.text


def kept(*ids: str, name: str = "n1") -> Record:
    return replace(builders.node(name), strays=tuple(Stray(task_id=id_, job="shop/new") for id_ in ids))


async def test_strays_are_let_go_by_prefix_or_all_together() -> None:
    async with rig(kept("abc1", "abd2", "x3"), kept("y4", name="n2")) as made:
        answer = await made.service.stop_strays(StopStraysRequest(tasks=("abc", "y")))
        assert [(each.stray.task_id, each.node) for each in answer.stopped] == [("abc1", "n1"), ("y4", "n2")]
        nodes = made.ledger.state.nodes
        assert [stray.task_id for stray in nodes["id-n1"].strays] == ["abd2", "x3"]
        assert nodes["id-n2"].strays == ()
        request = StopStraysRequest(every=True, idempotency_key="k")
        first = await made.service.stop_strays(request)
        assert len(first.stopped) == 2
        assert await made.service.stop_strays(request) == first
        assert nodes["id-n1"].strays == ()
        assert (await made.service.stop_strays(StopStraysRequest(every=True))).stopped == ()


async def test_what_names_no_stray_changes_nothing() -> None:
    async with rig(kept("abc1", "abd2")) as made:
        for tasks, error in ((("abc1", "zzz"), NotFound), (("ab",), Conflict), ((), Invalid), (("",), NotFound)):
            with pytest.raises(error):
                await made.service.stop_strays(StopStraysRequest(tasks=tasks))
        with pytest.raises(Invalid, match="do one of the two"):
            await made.service.stop_strays(StopStraysRequest(tasks=("abc1",), every=True))
        assert len(made.ledger.state.nodes["id-n1"].strays) == 2


async def test_records_put_by_hand_are_seen_by_a_check() -> None:
    async with rig(JOB, VERSION) as made:
        made.database.apply(made.ledger.epoch, [Put("tasks/x", b"{half")])
        findings = (await made.service.check(CheckRequest())).findings
        assert [finding.subject for finding in findings] == ["tasks/x"]
