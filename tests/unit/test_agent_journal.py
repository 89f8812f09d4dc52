"""The journal survives its agent, admits one agent at a time, and moves nothing when it cannot be read."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core import task_memory
from agent.journal import FILE, IDENTITY, Journal, KnownServices
from agent.pretended_journal import PretendedJournal
from common.errors import Conflict, Invalid, Unavailable
from common.model.endpoint import Service
from common.model.epoch import Epoch
from common.model.ids import Rng
from common.model.task import Attempt
from common.settings import LIMITS
from tests.agent_builders import CHECK, assignment

RNG = random.Random(1)


def record(number: int) -> Attempt:
    return Attempt(task_id="t1", number=number, message="exited with code 1", log_tail=("x",))


def test_everything_is_there_again_after_a_restart(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "new" / "data", RNG)
    node_id = journal.node_id
    memory = task_memory.new(assignment(health_check=CHECK), node_id)
    services = KnownServices(
        revision=3, services=(Service(namespace="n", job="j", container_port=1, published_port=2),)
    )
    journal.save(memory, (record(1), record(2)))
    journal.remember_epoch(Epoch(generation=1, term=7))
    journal.remember_controllers(("a:1", "b:1"))
    journal.remember_services(services)
    journal.close()

    again = Journal.open(tmp_path / "new" / "data", RNG)
    assert again.node_id == node_id
    assert again.tasks() == (memory,)
    assert again.attempts() == {"t1": (record(1), record(2))}
    assert again.highest_epoch == Epoch(generation=1, term=7)
    assert again.controllers == ("a:1", "b:1")
    assert again.services == services
    again.close()


def test_a_pretended_one_keeps_the_same_while_its_object_lives() -> None:
    journal = PretendedJournal("n7")
    memory = task_memory.new(assignment(health_check=CHECK), journal.node_id)
    services = KnownServices(revision=3)
    assert (journal.highest_epoch, journal.controllers, journal.address, journal.services) == (Epoch(), (), "", None)
    journal.save(task_memory.new(assignment("t2"), "n7"))
    journal.save(memory, (record(1),))
    journal.remember_epoch(Epoch(generation=1, term=7))
    journal.remember_controllers(("a:1", "b:1"))
    journal.remember_address("10.0.0.1")
    journal.remember_services(services)
    assert journal.node_id == "n7"
    assert [known.task_id for known in journal.tasks()] == ["t1", "t2"]
    assert journal.tasks()[0] == memory
    assert journal.highest_epoch == Epoch(generation=1, term=7)
    assert (journal.controllers, journal.address, journal.services) == (("a:1", "b:1"), "10.0.0.1", services)


def test_secrets_in_it_are_nobody_elses_to_read(tmp_path: Path) -> None:
    Journal.open(tmp_path / "data", RNG).close()
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("made", [Journal.open, lambda _path, _rng: PretendedJournal("n")], ids=["file", "pretended"])
def test_acknowledged_records_go_and_the_oldest_give_way(tmp_path: Path, made: Callable[[Path, Rng], Journal]) -> None:
    journal = made(tmp_path, RNG)
    memory = task_memory.new(assignment(), "n")
    for number in range(1, 9):
        journal.save(memory, (record(number),))
    kept = [attempt.number for attempt in journal.attempts()["t1"]]
    assert kept == list(range(9 - LIMITS.attempts_kept, 9))
    journal.drop_attempts("t1", (4, 5, 6))
    assert [attempt.number for attempt in journal.attempts()["t1"]] == [7, 8]
    journal.forget("t1")
    assert journal.attempts() == {}
    assert journal.tasks() == ()
    journal.close()


def test_a_second_agent_on_the_directory_is_refused_with_the_pid(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, RNG)
    with pytest.raises(Conflict, match=rf"another agent \(pid {os.getpid()}\) uses the data directory"):
        Journal.open(tmp_path, RNG)
    journal.close()
    Journal.open(tmp_path, RNG).close()


@pytest.mark.parametrize("damage", ["garbage", "torn", "bad pages", "foreign memory"])
def test_a_corrupt_journal_says_what_to_do_and_is_left_as_it_is(tmp_path: Path, damage: str) -> None:
    journal = Journal.open(tmp_path, RNG)
    node_id = journal.node_id
    for number in range(200):
        journal.save(task_memory.new(assignment(f"t{number}"), node_id))
    journal.close()
    path = tmp_path / FILE
    match damage:
        case "garbage":
            path.write_bytes(b"this is not a database" * 100)
        case "torn":
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
        case "bad pages":
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2] + b"\xa5" * (len(content) - len(content) // 2))
        case _:
            with sqlite3.connect(path) as database:
                database.execute("UPDATE tasks SET memory = '{}' WHERE task_id = 't7'")
            database.close()
    before = path.read_bytes()
    with pytest.raises(Invalid, match="the agent's journal cannot be read") as raised:
        Journal.open(tmp_path, RNG)
    assert str(path) in str(raised.value)
    assert "running containers keep running" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before

    path.rename(tmp_path / "journal.db.broken")
    for leftover in tmp_path.glob(f"{FILE}-*"):
        leftover.unlink()
    moved = Journal.open(tmp_path, RNG)
    assert moved.node_id == node_id, "the node is still itself"
    moved.close()


def test_a_journal_that_cannot_be_read_keeps_what_a_killed_agent_had_not_folded_in_yet(tmp_path: Path) -> None:
    """Its log is part of it, and moving the file alone away, as the message says, leaves the log behind."""
    source, killed = tmp_path / "source", tmp_path / "killed"
    journal = Journal.open(source, RNG)
    journal.save(task_memory.new(assignment("t1"), journal.node_id))
    journal._database.execute("UPDATE tasks SET memory = '{}'")
    shutil.copytree(source, killed)
    journal.close()
    path, log = killed / FILE, killed / f"{FILE}-wal"
    before = path.read_bytes(), log.read_bytes()
    with pytest.raises(Invalid, match="cannot be read"):
        Journal.open(killed, RNG)
    assert (path.read_bytes(), log.read_bytes()) == before
    path.rename(killed / f"{FILE}.broken")
    empty = Journal.open(killed, RNG)
    assert empty.tasks() == ()
    empty.close()


def test_an_empty_identity_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / IDENTITY).write_text("\n")
    journal = Journal.open(tmp_path, RNG)
    assert len(journal.node_id) == 20
    journal.close()


def test_a_journal_of_a_later_version_is_refused(tmp_path: Path) -> None:
    Journal.open(tmp_path, RNG).close()
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(Invalid, match="later version"):
        Journal.open(tmp_path, RNG)


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, RNG)
    journal._database.execute("PRAGMA query_only=ON")
    with pytest.raises(Unavailable, match="is its disk full or read-only"):
        journal.save(task_memory.new(assignment(), "n"))
    journal.close()


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match="cannot use"):
        Journal.open(tmp_path / "file", RNG)
