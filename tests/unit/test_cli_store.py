"""The store commands: files that appear whole or not at all, stores reached without a controller, exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from cli.app import app
from cli.command import Surroundings
from client.fake import FakeTransport
from client.transport import BACKUP, CHECK, NODES, STOP_STRAYS
from common.errors import Unavailable
from common.model.api import NodeList, NodeView
from common.model.epoch import Epoch
from common.model.node import Stray
from common.model.store import BackupPiece, BackupRequest, CheckReport, Finding, StoppedStray, StraysStopped
from controller.store import archive
from controller.store.interface import Contents, LeaderRecord, Put, Snapshot
from controller.store.keys import encode, key_of
from controller.store.sqlite import SqliteStore
from tests import builders

NOW_S = 1_790_000_000.0
VALUES = {key_of(node): encode(node) for node in (builders.node("n1"), builders.node("n2"))}
CONTENTS = Contents(snapshot=Snapshot(revision=9, values=VALUES), epoch=Epoch(generation=3, term=4), leader=None)
HEADER = archive.header_of(CONTENTS, store="sqlite", version="0.1.0", now_s=NOW_S)
PIECES = [BackupPiece(content=content) for content in archive.pieces(HEADER, VALUES)]


class Podium:
    def __init__(self, home: Path) -> None:
        self.fake = FakeTransport()
        self.home = home

    def run(self, *arguments: str) -> Result:
        around = Surroundings(environ={"HOME": str(self.home)}, transport=self.fake, clock=lambda: NOW_S)
        return CliRunner().invoke(app, ["store", *arguments], obj=around, catch_exceptions=False)


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    return Podium(tmp_path)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.backup"
    archive.write(path, HEADER, VALUES)
    return path


def url(path: Path) -> str:
    return f"sqlite://{path}"


def held(path: Path) -> Contents:
    async def read() -> Contents:
        store = SqliteStore(path)
        try:
            return await store.read()
        finally:
            await store.close()

    return asyncio.run(read())


# --- backup


def test_a_backup_of_the_leader_is_a_whole_file(podium: Podium, tmp_path: Path) -> None:
    podium.fake.stream(BACKUP, PIECES)
    file = tmp_path / "b"
    done = podium.run("backup", str(file))
    assert done.exit_code == 0
    assert done.stdout == ""
    assert f"{file}: nodes 2 of 2026-09-21T14:13:20+00:00 (generation 3, term 4, revision 9)" in done.stderr
    assert archive.read(file).values == VALUES


def test_a_backup_that_breaks_off_is_begun_again(podium: Podium, tmp_path: Path) -> None:
    tries = 0

    async def broken_once(_address: str, _request: BackupRequest) -> AsyncGenerator[BackupPiece, None]:
        nonlocal tries
        tries += 1
        if tries == 1:
            yield BackupPiece(content=PIECES[0].content[:50])
            raise Unavailable("the leader died")
        for piece in PIECES:
            yield piece

    podium.fake.stream(BACKUP, broken_once)
    assert podium.run("backup", str(tmp_path / "b")).exit_code == 0
    assert archive.read(tmp_path / "b").values == VALUES


def test_a_backup_that_never_comes_whole_leaves_no_file(podium: Podium, tmp_path: Path) -> None:
    podium.fake.stream(BACKUP, [BackupPiece(content=PIECES[0].content[:-1])])
    done = podium.run("backup", str(tmp_path / "b"))
    assert done.exit_code != 0
    assert "cut off" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_backup_replaces_nothing_unless_told(podium: Podium, tmp_path: Path) -> None:
    podium.fake.stream(BACKUP, PIECES)
    file = tmp_path / "b"
    file.write_text("mine")
    refused = podium.run("backup", str(file))
    assert (refused.exit_code, file.read_text()) == (1, "mine")
    assert "--force" in refused.stderr
    assert podium.run("backup", str(file), "--force").exit_code == 0
    assert archive.read(file).values == VALUES


def test_a_backup_to_stdout_is_the_file(podium: Podium, backup: Path, tmp_path: Path) -> None:
    podium.fake.stream(BACKUP, PIECES)
    assert podium.run("backup", "-").stdout_bytes == backup.read_bytes()
    podium.run("restore", str(backup), "--store", url(tmp_path / "s.db"))
    lines = podium.run("backup", "-", "--store", url(tmp_path / "s.db")).stdout.splitlines()
    assert json.loads(lines[0])["generation"] == 4
    assert len(lines) == 4


# --- restore


def test_a_restore_and_a_backup_of_the_store_itself(podium: Podium, backup: Path, tmp_path: Path) -> None:
    target, again = tmp_path / "s.db", tmp_path / "again"
    done = podium.run("restore", str(backup), "--store", url(target))
    assert done.exit_code == 0, done.stderr
    assert "the store is of generation 4 now" in done.stderr
    assert held(target).snapshot.values == VALUES
    assert podium.run("backup", str(again), "--store", url(target)).exit_code == 0
    assert archive.read(again).values == VALUES
    assert archive.read(again).header.generation == 4
    assert podium.fake.asked == []


def test_a_restore_over_something_saves_it_beside_the_file(podium: Podium, backup: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.db"
    podium.run("restore", str(backup), "--store", url(target))
    refused = podium.run("restore", str(backup), "--store", url(target))
    assert refused.exit_code == 1
    assert "holds 2 records already" in refused.stderr
    done = podium.run("restore", str(backup), "--store", url(target), "--force", "--generation", "9")
    assert done.exit_code == 0
    saved = backup.with_name("cluster.backup.before-restore-20260921T141320Z")
    assert str(saved) in done.stderr
    assert archive.read(saved).header.generation == 4
    assert held(target).epoch.generation == 9


def test_a_damaged_file_is_refused_before_the_store_is_touched(podium: Podium, backup: Path, tmp_path: Path) -> None:
    backup.write_bytes(backup.read_bytes().replace(b"n2", b"n3"))
    refused = podium.run("restore", str(backup), "--store", url(tmp_path / "s.db"))
    assert refused.exit_code == 2
    assert "it is damaged" in refused.stderr
    assert not (tmp_path / "s.db").exists()


def test_a_generation_is_raised_alone(podium: Podium, tmp_path: Path) -> None:
    target = tmp_path / "s.db"
    assert podium.run("raise-generation", "--store", url(target)).exit_code == 0
    assert podium.run("raise-generation", "--store", url(target), "--generation", "7").exit_code == 0
    assert held(target).epoch.generation == 7
    refused = podium.run("raise-generation", "--store", url(target), "--generation", "7")
    assert refused.exit_code == 2
    assert "at least 8 is needed" in refused.stderr


@pytest.mark.parametrize("given", ["memory:", "floppy:a", "sqlite://host/x"])
def test_a_store_that_cannot_be_reached_so_is_refused(podium: Podium, backup: Path, given: str) -> None:
    assert podium.run("restore", str(backup), "--store", given).exit_code == 2
    assert podium.run("check", "--store", given).exit_code == 2


def test_a_missing_file_is_no_store(podium: Podium, tmp_path: Path) -> None:
    for arguments in (("check",), ("backup", str(tmp_path / "b"))):
        refused = podium.run(*arguments, "--store", url(tmp_path / "gone.db"))
        assert refused.exit_code == 2
        assert "gone.db: No such file" in refused.stderr
    assert list(tmp_path.iterdir()) == []


# --- check


def wrong(*, error: bool) -> Finding:
    return Finding(error=error, subject="tasks/1", text="is odd", why="it matters", advice="look")


@pytest.mark.parametrize(
    ("findings", "code", "last"),
    [
        ((), 0, "nothing is wrong"),
        ((wrong(error=False),), 0, "0 errors, 1 warnings"),
        ((wrong(error=True), wrong(error=False)), 1, "1 errors, 1 warnings"),
    ],
)
def test_a_check_ends_as_it_found_things(podium: Podium, findings: Any, code: int, last: str) -> None:
    podium.fake.answer(CHECK, CheckReport(store="etcd", facts={"revision": "7"}, findings=findings))
    done = podium.run("check")
    assert done.exit_code == code
    assert done.stdout.splitlines()[:2] == ["store: etcd", "revision: 7"]
    assert done.stdout.splitlines()[-1] == last
    plain = json.loads(podium.run("check", "-o", "json").stdout)
    assert plain["ok"] == (code == 0)
    assert len(plain["findings"]) == len(findings)


def test_a_finding_says_what_why_and_what_to_do(podium: Podium) -> None:
    podium.fake.answer(CHECK, CheckReport(store="etcd", findings=(wrong(error=True),)))
    assert podium.run("check").stdout.splitlines()[2:5] == [
        "error: tasks/1: is odd",
        "    why it matters: it matters",
        "    what to do: look",
    ]


def test_a_check_of_a_store_itself_also_while_another_leads(podium: Podium, tmp_path: Path) -> None:
    async def fill() -> None:
        store = SqliteStore(tmp_path / "s.db")
        leadership = await store.campaign(LeaderRecord(controller_id="ann", address="a:1"))
        await store.commit(leadership, [Put("tasks/x", b"{half")])
        found = await asyncio.to_thread(podium.run, "check", "--store", url(tmp_path / "s.db"), "-o", "json")
        assert found.exit_code == 1
        assert [finding["subject"] for finding in json.loads(found.stdout)["findings"]] == ["tasks/x"]
        await store.close()

    asyncio.run(fill())


# --- strays


def test_strays_are_listed_and_stopped(podium: Podium) -> None:
    stray = Stray(task_id="t9", job="shop/new", slot=2, runtime_id="4711", found_at_s=NOW_S)
    node = replace(builders.node("n1"), strays=(stray,))
    podium.fake.answer(NODES, NodeList(nodes=(NodeView(node=node, condition=builders.condition(node)),)))
    assert json.loads(podium.run("strays", "-o", "json").stdout) == [
        {
            "id": "t9",
            "job": "shop/new",
            "slot": 2,
            "node": "n1",
            "runtime_id": "4711",
            "found_at": "2026-09-21T14:13:20.000Z",
        }
    ]
    assert podium.run("strays", "-o", "name").stdout == "t9\n"
    assert "shop/new" in podium.run("strays").stdout
    podium.fake.answer(STOP_STRAYS, StraysStopped(stopped=(StoppedStray(stray=stray, node="n1"),)))
    assert podium.run("stop-strays", "t9").stdout == "t9 (shop/new) on n1 is to stop\n"
    assert podium.fake.asked[-1].request.tasks == ("t9",)
    podium.fake.answer(STOP_STRAYS, StraysStopped())
    assert "there are no strays" in podium.run("stop-strays", "--all").stderr
    assert podium.fake.asked[-1].request.every
