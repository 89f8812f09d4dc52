"""What a later version wrote into a record outlives an older leader's writes; what was taken out stays out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from common.backoff import Backoff
from common.model.node import Node
from common.model.store import BackupPiece, BackupRequest
from controller.api.store import StoreService
from controller.leadership import Leader, Parts, Term
from controller.ledger import Ledger
from controller.settings import LeaseTimers
from controller.state import Erase, Write
from controller.store import archive
from controller.store.foreign import encode_whole, foreign_fields
from controller.store.interface import LeaderRecord
from controller.store.keys import Record, decode, encode, key_of
from controller.store.memory import MemoryDatabase, MemoryStore
from tests import builders

JOB, VERSION = builders.job()
NODE = builders.node("n1")
RECORDS: tuple[Record, ...] = (JOB, VERSION, NODE)


def newer(record: Record) -> bytes:
    """As a later version would store it: a field more, beside the others and inside of each that has fields."""
    fields = msgspec.json.decode(encode(record))
    for value in fields.values():
        if isinstance(value, dict) and value and "labels" in value:
            value["beside_labels"] = [1, {"two": 2.5}]
    return msgspec.json.encode({**fields, "later": {"deep": ["x"]}})


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_what_only_a_later_version_knows_is_found_and_written_again(record: Record) -> None:
    stored = newer(record)
    read = decode(key_of(record), stored)
    assert read == record
    foreign = foreign_fields(read, stored)
    assert msgspec.json.decode(encode_whole(read, foreign)) == msgspec.json.decode(stored)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_of_ones_own_version_nothing_is_foreign(record: Record) -> None:
    assert foreign_fields(record, encode(record)) == {}
    reordered = dict(reversed(msgspec.json.decode(encode(record)).items()))
    assert foreign_fields(record, msgspec.json.encode(reordered)) == {}
    assert encode_whole(record, None) == encode_whole(record, {}) == encode(record)


def test_a_task_that_was_stored_with_fields_that_say_nothing_has_nothing_foreign() -> None:
    task = builders.task(JOB)
    assert b"exit_code" not in encode(task), "what says nothing is left out"
    whole = {name: msgspec.to_builtins(getattr(task, name)) for name in task.__struct_fields__}
    whole["status"] = {name: msgspec.to_builtins(getattr(task.status, name)) for name in task.status.__struct_fields__}
    stored = msgspec.json.encode(whole)
    assert decode(key_of(task), stored) == task
    assert foreign_fields(task, stored) == {}


def test_an_entry_that_is_taken_out_of_a_map_does_not_come_back() -> None:
    labelled = relabelled(NODE, {"zone": "eu", "rack": "1"})
    foreign = foreign_fields(labelled, newer(labelled))
    after = msgspec.json.decode(encode_whole(relabelled(NODE, {"zone": "us"}), foreign))
    assert after["description"]["labels"] == {"zone": "us"}
    assert after["description"]["beside_labels"] == [1, {"two": 2.5}]


def relabelled(node: Node, labels: dict[str, str]) -> Node:
    description = msgspec.structs.replace(node.description, labels=labels)
    return msgspec.structs.replace(node, description=description)


class Led:
    """One term of this version over a store in which a later one has written."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.entered: asyncio.Future[Ledger] = asyncio.get_running_loop().create_future()
        self._store = MemoryStore(database)

    @contextmanager
    def enter(self, term: Term) -> Iterator[Parts]:
        ledger = Ledger(self._store, term.leadership, term.state, rng=random.Random(1))
        self.entered.set_result(ledger)
        yield {"ledger": ledger.run}

    async def run(self, stop: asyncio.Event) -> None:
        identity = LeaderRecord(controller_id="a", address="a:1")
        timers = LeaseTimers(again=Backoff(first_s=0.001, limit_s=0.001))
        loop = asyncio.get_running_loop()
        leader = Leader(
            self._store, identity, self.enter, timers=timers, boottime=loop.time, rng=random.Random(1), abort=print
        )
        await leader.run(stop)


async def test_an_older_leader_keeps_what_a_newer_one_has_written(tmp_path: Path) -> None:
    database, stop = MemoryDatabase(), asyncio.Event()
    database.values = {key_of(record): newer(record) for record in RECORDS}
    led = Led(database)
    async with asyncio.TaskGroup() as group:
        group.create_task(led.run(stop))
        ledger = await led.entered
        scaled = msgspec.structs.replace(JOB, replicas=7)
        await ledger.submit(lambda _state: [(Write(scaled),)])
        kept = msgspec.json.decode(database.values[key_of(JOB)])
        assert (kept["replicas"], kept["later"]) == (7, {"deep": ["x"]})
        assert await backup(ledger, tmp_path / "backup") == database.values

        await ledger.submit(lambda _state: [(Erase(NODE),)])
        await ledger.submit(lambda _state: [(Write(NODE),)])
        assert database.values[key_of(NODE)] == encode(NODE), "what is made anew is of this version"
        stop.set()


async def backup(ledger: Ledger, path: Path) -> dict[str, bytes]:
    content = bytearray()

    async def send(piece: BackupPiece) -> None:
        content.extend(piece.content)

    term = SimpleNamespace(ledger=ledger, state=ledger.state, store="memory", version="0.1.0", clock=lambda: 1.0)
    await StoreService(SimpleNamespace(term=term)).backup(BackupRequest(), send)  # type: ignore[arg-type]
    path.write_bytes(content)
    return dict(archive.read(path).values)
