"""The SQLite store against what happens to files and processes: kills, second starts, damage and full disks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from common.errors import Conflict, Invalid, OutcomeUnknown
from common.model.epoch import Epoch
from controller.store import check
from controller.store.interface import LeaderRecord, Put
from controller.store.sqlite import SqliteStore
from controller.store.sqlite_file import APPLICATION_ID, FORMAT

ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")
BOB = LeaderRecord(controller_id="bob", address="10.0.0.2:7077")

COMMITTER = """
import asyncio, itertools, sys
from pathlib import Path
from controller.store.interface import LeaderRecord, Put
from controller.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    leadership = await store.campaign(LeaderRecord(controller_id="child", address="10.0.0.9:7077"))
    for number in itertools.count():
        await store.commit(leadership, [Put(f"a/{number}", b"x" * 2000), Put(f"b/{number}", b"y")])
        print(number, flush=True)

asyncio.run(main())
"""

FILLER = """
import asyncio, json, sys
from pathlib import Path
from common.errors import OutcomeUnknown, Unavailable
from controller.store.interface import LeaderRecord, Put
from controller.store.sqlite import SqliteStore

async def main():
    folder = Path(sys.argv[1])
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    store = SqliteStore(folder / "state.db")
    leadership = await store.campaign(LeaderRecord(controller_id="child", address="10.0.0.9:7077"))
    written, refusal = 0, ""
    while not refusal:
        try:
            await store.commit(leadership, [Put(f"{written}/first", b"x" * 50_000), Put(f"{written}/second", b"y")])
            written += 1
        except OutcomeUnknown:
            raise
        except Unavailable as error:
            refusal = str(error)
    keys_when_full = sorted((await store.load(leadership)).values)
    await store.keep_alive(leadership)
    ballast.unlink()
    await store.commit(leadership, [Put("afterwards", b"")])
    keys = sorted((await store.load(leadership)).values)
    print(json.dumps({"written": written, "refusal": refusal, "keys_when_full": keys_when_full, "keys": keys}))
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(path)
    yield opened
    await opened.close()


async def start_committer(path: Path) -> asyncio.subprocess.Process:
    """A process that leads in `path` and prints the number of each acknowledged commit."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", COMMITTER, str(path), stdout=subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()
    return child


async def kill(child: asyncio.subprocess.Process) -> int:
    """Kill with SIGKILL in the middle of its work; the number of the last commit it was told of."""
    assert child.stdout is not None
    printed = b""
    for _ in range(50):
        printed += await child.stdout.readline()
    child.kill()
    printed += await child.stdout.read()
    await child.wait()
    return int(printed.split(b"\n")[-2])  # the last line may be cut short by the kill


async def test_acknowledged_commits_survive_sigkill_whole(path: Path, store: SqliteStore) -> None:
    last = await kill(await start_committer(path))
    leadership = await store.campaign(ANN)
    keys = (await store.load(leadership)).values.keys()
    assert {f"a/{number}" for number in range(last + 1)} <= keys
    assert {key[2:] for key in keys if key.startswith("a/")} == {key[2:] for key in keys if key.startswith("b/")}
    assert leadership.epoch.term == 2


async def test_a_second_process_is_refused_by_name(path: Path, store: SqliteStore) -> None:
    child = await start_committer(path)
    try:
        with pytest.raises(Conflict) as refusal:
            await store.campaign(ANN)
        assert f"{path} is in use by process {child.pid} (child)" in str(refusal.value)
        assert "etcd" in str(refusal.value)
    finally:
        await kill(child)
    await store.campaign(ANN)


async def test_an_observer_sees_a_killed_leader_go(path: Path, store: SqliteStore) -> None:
    child = await start_committer(path)
    leaders = store.observe_leader()
    leader = await anext(leaders)
    await kill(child)
    assert leader == LeaderRecord(controller_id="child", address="10.0.0.9:7077", epoch=Epoch(term=1))
    assert await anext(leaders) is None


async def test_an_observer_sees_at_once_what_its_own_store_does(path: Path) -> None:
    store = SqliteStore(path, look_period_s=3_600)
    leaders = store.observe_leader()
    assert await anext(leaders) is None
    following = asyncio.ensure_future(anext(leaders))
    await store.ping()  # behind the observer's look on the one thread, so it waits by now
    leadership = await store.campaign(ANN)
    leader = await following
    assert leader is not None
    assert leader.epoch == leadership.epoch
    await store.close()


async def test_commits_are_synced_to_disk_before_they_are_acknowledged(path: Path, store: SqliteStore) -> None:
    """Power cannot be cut in a test; that the log is written ahead and synced per commit can be asked."""
    await store.campaign(ANN)
    connection = store._file._connection
    assert connection is not None

    def pragma(name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    settings = await asyncio.get_running_loop().run_in_executor(
        store._thread, lambda: (pragma("journal_mode"), pragma("synchronous"))
    )
    assert settings == ("wal", 2)


async def test_secrets_in_the_store_are_for_its_owner_only(path: Path, store: SqliteStore) -> None:
    leadership = await store.campaign(ANN)
    await store.commit(leadership, [Put("a", b"secret")])
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    assert modes.keys() == {"state.db", "state.db-shm", "state.db-wal", "state.db.lock"}
    assert set(modes.values()) == {"0o600"}


async def test_a_generation_that_a_restore_left_is_part_of_the_epoch(path: Path, store: SqliteStore) -> None:
    await store.resign(await store.campaign(ANN))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE bookkeeping SET generation = 7")
    connection.commit()
    connection.close()
    assert (await store.campaign(ANN)).epoch == Epoch(generation=7, term=2)


def write_text(path: Path) -> None:
    path.write_text("name: shop\nservices: {}\n" * 100)


def write_foreign_tables(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()


def write_foreign_mark(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 1234")
    connection.execute("CREATE TABLE record (key TEXT)")
    connection.close()


def write_newer_format(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.execute("CREATE TABLE record (key TEXT)")
    connection.close()


async def fill(path: Path) -> None:
    store = SqliteStore(path)
    leadership = await store.campaign(ANN)
    await store.commit(leadership, [Put(f"k{number}", b"v" * 3_000) for number in range(100)])
    await store.close()


def write_damaged_pages(path: Path) -> None:
    asyncio.run(fill(path))
    damage(path)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for page in range(
        4_096 * 20, len(content), 4_096
    ):  # of records only: the file opens, and its first pages read well
        content[page : page + 64] = os.urandom(64)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (write_text, "is not an SQLite database"),
        (write_foreign_tables, "database of another program (with tables such as 'bookmarks')"),
        (write_foreign_mark, "database of another program (application id 0x000004d2)"),
        (write_newer_format, f"has format {FORMAT + 1}, this version of Podium reads format {FORMAT}"),
        (write_damaged_pages, "is corrupt"),
    ],
    ids=["text", "foreign tables", "foreign mark", "newer format", "damaged pages"],
)
async def test_a_file_that_is_no_sound_store_is_refused_and_left_alone(
    path: Path, store: SqliteStore, write: Callable[[Path], None], complaint: str
) -> None:
    await asyncio.to_thread(write, path)
    before = path.read_bytes()
    for _ in range(2):  # the refusal holds no lock and opens no door
        with pytest.raises(Invalid) as refusal:
            await store.campaign(ANN)
        assert str(path) in str(refusal.value)
        assert complaint in str(refusal.value)
        assert "it was left as it is" in str(refusal.value)
        assert "\n" not in str(refusal.value)
    await store.close()
    assert path.read_bytes() == before


async def test_a_damaged_file_is_examined_and_left_alone(path: Path, store: SqliteStore) -> None:
    await asyncio.to_thread(write_damaged_pages, path)
    before = path.read_bytes()
    found = await check.of_store(store)
    assert found.findings[0].error
    assert "is corrupt" in found.findings[0].text
    assert "restore the latest backup" in found.findings[0].advice
    await store.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("write", [write_text, write_foreign_tables, write_foreign_mark, write_newer_format])
async def test_what_is_no_store_is_not_read(path: Path, store: SqliteStore, write: Callable[[Path], None]) -> None:
    write(path)
    before = path.read_bytes()
    for look in (store.read, store.examine):
        with pytest.raises(Invalid, match=str(path)):
            await look()
    assert path.read_bytes() == before


async def test_a_store_is_read_and_examined_while_another_process_writes(path: Path, store: SqliteStore) -> None:
    writing = await start_committer(path)
    try:
        first = (await store.read()).snapshot
        assert (await store.examine()).findings == ()
        second = (await store.read()).snapshot
    finally:
        await kill(writing)
    assert 0 < first.revision <= second.revision
    for snapshot in (first, second):  # whole commits only
        assert snapshot.revision == len(snapshot.values) / 2


async def test_a_damaged_file_keeps_the_log_that_a_killed_leader_left(path: Path, store: SqliteStore) -> None:
    """Closing a connection that may write would fold the log into the damaged file: two half truths in one."""
    await fill(path)
    await kill(await start_committer(path))
    log = path.with_name(path.name + "-wal")
    assert log.stat().st_size > 0
    damage(path)
    before = path.read_bytes(), log.read_bytes()
    with pytest.raises(Invalid):
        await store.campaign(ANN)
    await store.close()
    assert (path.read_bytes(), log.read_bytes()) == before


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(Invalid, match=f"{tmp_path}: Is a directory"):
        await store.campaign(ANN)
    await store.close()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting a small disk takes root")
def test_a_full_disk_refuses_commits_and_loses_none(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=3m none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FILLER]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=50).stdout)
    expected = sorted(f"{number}/{part}" for number in range(answer["written"]) for part in ("first", "second"))
    assert answer["written"] > 0
    assert "the disk is full; nothing was written" in answer["refusal"]
    assert answer["keys_when_full"] == expected
    assert answer["keys"] == sorted([*expected, "afterwards"])


async def test_a_commit_whose_sync_failed_is_of_unknown_outcome(path: Path, store: SqliteStore) -> None:
    """The log may be whole on disk although its fsync failed; saying "nothing was written" would be a guess."""
    leadership = await store.campaign(ANN)
    real = store._file._connection
    assert real is not None
    store._file._connection = FailingCommit(real)  # type: ignore[assignment]
    with pytest.raises(OutcomeUnknown, match="the disk failed"):
        await store.commit(leadership, [Put("a", b"")])
    store._file._connection = real
    await store.resign(leadership)
    await store.load(await store.campaign(BOB))


class FailingCommit:
    """A connection whose disk reports an I/O error for COMMIT."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self._real = real

    def execute(self, statement: str, arguments: tuple[str | bytes, ...] = ()) -> sqlite3.Cursor:
        if statement == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return self._real.execute(statement, arguments)

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction
