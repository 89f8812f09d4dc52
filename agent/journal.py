"""What the agent must remember across its own restarts: one SQLite file, `journal.db`, in its data directory.

Owns the node's identity and address, the highest epoch it obeyed, the controllers it heard of, every task's memory,
the crash records nobody has acknowledged, and the last known services. One agent per directory holds the lock. A
journal that cannot be read moves nothing: opening it fails with what to do, and what runs keeps running. Never decides.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.core.task_memory import TaskMemory
from common.errors import Conflict, Fault, Invalid, Unavailable
from common.model.endpoint import Service
from common.model.epoch import Epoch
from common.model.ids import Rng, new_id
from common.model.task import Attempt
from common.settings import LIMITS

logger = logging.getLogger(__name__)

FILE = "journal.db"
LOCK = "agent.lock"
IDENTITY = "node-id"
VERSION = 1
"""Of the tables and of what is in them; a journal of a later version is refused."""

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tasks (task_id TEXT PRIMARY KEY, memory BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE attempts (task_id TEXT, number INTEGER, record BLOB NOT NULL, PRIMARY KEY (task_id, number)) WITHOUT ROWID;
"""

ValueT = TypeVar("ValueT")


class KnownServices(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoints as last heard of."""

    revision: int
    services: tuple[Service, ...] = ()


class Journal:
    """See the module. Calls are synchronous: one small write into a log file, well under a millisecond."""

    def __init__(self, database: sqlite3.Connection, path: str, lock: int | None) -> None:
        self._database = database
        self._path = path
        self._lock = lock
        self._epoch: Epoch | None = None

    @classmethod
    def open(cls, data_dir: Path, rng: Rng) -> Journal:
        """Open or create. Raises `Conflict` when another agent uses the directory, `Invalid` when it is corrupt."""
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take_lock(data_dir / LOCK)
        except OSError as error:
            raise Invalid([Fault(path="data_dir", text=f"cannot use {data_dir}: {error.strerror}")]) from None
        try:
            path = data_dir / FILE
            with _readable(str(path)):
                _check(path)
                journal = cls(_open_database(path), str(path), lock)
                path.chmod(0o600)  # it has the environments of all tasks; its log takes this over
                journal._settle_identity(data_dir / IDENTITY, rng)
        except BaseException:
            os.close(lock)
            raise
        return journal

    @classmethod
    def in_memory(cls, node_id: str) -> Journal:
        """A journal that is forgotten with its object, for simulations and tests."""
        journal = cls(_open_database(None), ":memory:", None)
        journal._put("node_id", node_id)
        return journal

    def close(self) -> None:
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- identity, epoch, controllers, services

    @property
    def node_id(self) -> str:
        node_id = self._get("node_id", str)
        assert node_id, "made when the journal was opened"
        return node_id

    @property
    def highest_epoch(self) -> Epoch:
        if self._epoch is None:  # asked with every message that comes
            self._epoch = self._get("highest_epoch", Epoch) or Epoch()
        return self._epoch

    def remember_epoch(self, epoch: Epoch) -> None:
        """On disk (fsync) when this returns: what an epoch orders is only obeyed after that."""
        with self._durably():
            self._put("highest_epoch", epoch)
        self._epoch = epoch

    @property
    def controllers(self) -> tuple[str, ...]:
        """Those heard of, the last leader first."""
        return self._get("controllers", tuple[str, ...]) or ()

    def remember_controllers(self, addresses: tuple[str, ...]) -> None:
        self._put("controllers", addresses)

    @property
    def address(self) -> str:
        """Where the node was when a controller last took it in; empty when none has."""
        return self._get("address", str) or ""

    def remember_address(self, address: str) -> None:
        self._put("address", address)

    @property
    def services(self) -> KnownServices | None:
        return self._get("services", KnownServices)

    def remember_services(self, known: KnownServices) -> None:
        self._put("services", known)

    # --- tasks

    def tasks(self) -> tuple[TaskMemory, ...]:
        rows = self._database.execute("SELECT memory FROM tasks ORDER BY task_id")
        return tuple(msgspec.json.decode(row[0], type=TaskMemory) for row in rows)

    def attempts(self) -> dict[str, tuple[Attempt, ...]]:
        """Crash records that were not acknowledged, by task, oldest first."""
        found: dict[str, tuple[Attempt, ...]] = {}
        for task_id, record in self._database.execute("SELECT task_id, record FROM attempts ORDER BY task_id, number"):
            found[task_id] = (*found.get(task_id, ()), msgspec.json.decode(record, type=Attempt))
        return found

    def save(self, memory: TaskMemory, ended: tuple[Attempt, ...] = ()) -> None:
        """Keep a task's memory and, with it or not at all, the attempts that ended by the same step."""
        with self._together():
            row = (memory.task_id, msgspec.json.encode(memory))
            self._database.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?)", row)
            for record in ended:
                self._keep_attempt(record)

    def forget(self, task_id: str) -> None:
        with self._together():
            self._database.execute("DELETE FROM tasks WHERE task_id = ?", (task_id,))
            self._database.execute("DELETE FROM attempts WHERE task_id = ?", (task_id,))

    def drop_attempts(self, task_id: str, numbers: tuple[int, ...]) -> None:
        """The controller has them."""
        with self._together():
            rows = [(task_id, number) for number in numbers]
            self._database.executemany("DELETE FROM attempts WHERE task_id = ? AND number = ?", rows)

    def _keep_attempt(self, record: Attempt) -> None:
        row = (record.task_id, record.number, msgspec.json.encode(record))
        self._database.execute("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?)", row)
        # A slot keeps no more than this anyway, and a node that is cut off may crash-loop for days.
        oldest = (record.task_id, record.number - LIMITS.attempts_kept)
        self._database.execute("DELETE FROM attempts WHERE task_id = ? AND number <= ?", oldest)

    # --- below

    def _get(self, name: str, kind: type[ValueT]) -> ValueT | None:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=kind)

    def _put(self, name: str, value: object) -> None:
        with self._together():
            row = (name, msgspec.json.encode(value))
            self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", row)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """One transaction. Raises `Unavailable` when the disk refuses."""
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.OperationalError as error:
            raise Unavailable(f"cannot write {self._path}: {error}; is its disk full or read-only?") from error

    @contextmanager
    def _durably(self) -> Iterator[None]:
        """What is committed inside survives a power cut; the rest may lose its last moment, as containers do then."""
        self._database.execute("PRAGMA synchronous=FULL")
        try:
            yield
        finally:
            self._database.execute("PRAGMA synchronous=NORMAL")

    def _settle_identity(self, spare: Path, rng: Rng) -> None:
        """Make the node's id once, with a spare copy beside the journal.

        So a node whose corrupt journal was moved away is still itself and finds its containers by their labels.
        """
        known = self._get("node_id", str)
        if known is None:
            known = (spare.read_text().strip() if spare.exists() else "") or new_id(rng)
            with self._durably():
                self._put("node_id", known)
        if not spare.exists():
            spare.write_text(known + "\n")

    def read_all(self) -> None:
        """Read everything once, so that what cannot be read shows before anything is done."""
        problem = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        facts = self._get("node_id", str), self.highest_epoch, self.controllers, self.services
        logger.debug("%s: %d tasks, %d with attempts", facts[0], len(self.tasks()), len(self.attempts()))


def _check(path: Path) -> None:
    """Read an existing journal through a connection that cannot write.

    One that can would fold the log of a killed agent into the file when it closes, also into a damaged one.
    """
    if not path.exists() or not path.stat().st_size:
        return
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        if _version(database, path) == VERSION:
            Journal(database, str(path), None).read_all()


def _version(database: sqlite3.Connection, path: Path) -> int:
    """Of the tables; 0: there are none yet."""
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        text = f"was written by a later version ({version}, this one knows {VERSION}): use that podium, or a newer"
        raise Invalid([Fault(path="", text=text, file=str(path))])
    return version


def _open_database(path: Path | None) -> sqlite3.Connection:
    """None: in memory."""
    database = sqlite3.connect(path or ":memory:", isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        if database.execute("PRAGMA user_version").fetchone()[0] < VERSION:
            database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={VERSION}; COMMIT;")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as error:
        because = " ".join(str(error).split())
        text = (
            f"the agent's journal cannot be read ({because}). Nothing was touched; running containers keep running. "
            f"Move it away (mv {path} {path}.broken): the agent then starts with an empty one, keeps its node id, and "
            f"takes up the containers it finds (docs/operations.md)."
        )
        raise Invalid([Fault(path="", text=text, file=path)]) from error


def _take_lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        text = f"another agent (pid {pid}) uses the data directory {path.parent}; stop it, or give --data-dir another"
        raise Conflict(text) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
