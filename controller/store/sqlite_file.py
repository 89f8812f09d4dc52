"""The blocking half of the SQLite store: the file, its format, its lock, and what SQLite's errors mean to a caller.

Called from one thread only. A file is inspected before anything is written to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from common.errors import Conflict, Fenced, Invalid, OutcomeUnknown, PodiumError, Unavailable
from common.model.epoch import Epoch
from controller.store.interface import Delete, LeaderRecord, Operation, Put, Snapshot
from controller.store.lock_file import LockFile

APPLICATION_ID = 0x506F6469
"""`Podi` in ASCII, in the place SQLite keeps for telling whose file it is."""
FORMAT = 1

_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100
BUSY_S = 5.0
"""Another program, such as a backup, may hold a lock of SQLite's for a moment."""
_FAULTS_SHOWN = 3

_SCHEMA = (
    "CREATE TABLE record (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL)",
    """CREATE TABLE bookkeeping (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        revision INTEGER NOT NULL, term INTEGER NOT NULL, generation INTEGER NOT NULL
    )""",
    "INSERT INTO bookkeeping (id, revision, term, generation) VALUES (1, 0, 0, 0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)

_UNTOUCHED = (
    "it was left as it is. Name another file, or move this one away, with the -wal and -shm files beside it, and put a "
    "copy in its place (docs/operations.md)"
)
_CONFIGURATION_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENOENT}


class SqliteFile:
    """See the module. Every method raises the typed errors of the `Store` protocol."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = LockFile(path.with_name(path.name + ".lock"))
        self._connection: sqlite3.Connection | None = None
        self._leader: LeaderRecord | None = None

    def elect(self, candidate: LeaderRecord) -> Epoch:
        """Check the file, keep others out of it and begin the next term."""
        with explained(self._path):
            connection = self._open()
            self._acquire()
            try:
                epoch = _begin_term(connection)
                self._leader = msgspec.structs.replace(candidate, epoch=epoch)
                self._lock.sign(self._leader)
            except BaseException:
                self.release()
                raise
            return epoch

    def check(self, epoch: Epoch) -> None:
        """Raises `Fenced` unless this is the file's term and we lead it."""
        with explained(self._path):
            self._check_term(self._open(), epoch)

    def resign(self, epoch: Epoch) -> None:
        if self._leader is not None and self._leader.epoch == epoch:
            self.release()

    def release(self) -> None:
        """Let others lead, without a word to anybody."""
        self._leader = None
        self._lock.release()

    def leader(self) -> LeaderRecord | None:
        if self._leader is not None:
            return self._leader
        with explained(self._path):
            holder = self._lock.holder()
        return None if holder is None else holder.leader

    def load(self, epoch: Epoch) -> Snapshot:
        with explained(self._path), _transaction(self._open(), "DEFERRED") as connection:
            self._check_term(connection, epoch)
            (revision,) = connection.execute("SELECT revision FROM bookkeeping").fetchone()
            values: dict[str, bytes] = dict(connection.execute("SELECT key, value FROM record"))
            return Snapshot(revision=revision, values=values)

    def commit(self, epoch: Epoch, operations: Sequence[Operation]) -> int:
        with explained(self._path), _transaction(self._open(), "IMMEDIATE") as connection:
            self._check_term(connection, epoch)
            for operation in operations:
                _carry_out(connection, operation)
            return _next_revision(connection)

    def raise_generation(self, epoch: Epoch, generation: int, operations: Sequence[Operation]) -> int:
        """Carry out the operations and raise the generation: the last commit of this term."""
        with explained(self._path), _transaction(self._open(), "IMMEDIATE") as connection:
            self._check_term(connection, epoch)
            for operation in operations:
                _carry_out(connection, operation)
            connection.execute("UPDATE bookkeeping SET generation = ?", (generation,))
            return _next_revision(connection)

    def ping(self) -> None:
        with explained(self._path):
            self._open().execute("SELECT revision FROM bookkeeping").fetchone()

    def close(self) -> None:
        self.release()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # what is committed is safe; the rest is tidiness
                connection.close()

    def _acquire(self) -> None:
        if self._lock.acquire():
            return
        holder = self._lock.holder()
        by = "another process" if holder is None else f"process {holder.pid} ({holder.leader.controller_id})"
        raise Conflict(
            f"{self._path} is in use by {by}, which holds {self._lock.path}; stop it or give this controller another "
            "file. Several controllers can share an etcd store only"
        )

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _connect(self._path)
        return self._connection

    def _check_term(self, connection: sqlite3.Connection, epoch: Epoch) -> None:
        """The lock alone would do, were it not for people who remove lock files by hand."""
        if self._leader is None or self._leader.epoch != epoch:
            raise Fenced(f"term {epoch.term} is over: this process does not lead it")
        current = _epoch(connection)
        if current != epoch:
            self.release()
            raise Fenced(f"term {epoch.term} is over: {self._path} is in term {current.term}")


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that is ours, or has just become ours because it was empty."""
    _create(path)
    check_header(path)
    _check_pages(path)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        _initialise(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    """An empty file readable by us alone (specs carry secrets), with a name that survives power loss."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    for directory in {path.parent, *(made.parent for made in missing)}:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_header(path: Path) -> None:
    """Refuse what is not ours before SQLite opens it: it would recover the journal of somebody else's file."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header:
        return
    if not header.startswith(_MAGIC):
        raise Invalid(f"{path}: is not an SQLite database (or its first page is damaged); {_UNTOUCHED}")
    application_id = int.from_bytes(header[68:72])
    if application_id not in (0, APPLICATION_ID):
        raise _foreign(path, f"application id {application_id:#010x}")


def _initialise(path: Path, connection: sqlite3.Connection) -> None:
    """Make an empty database a store, in the old journal mode so that its first page says at once whose it is."""
    with _transaction(connection, "IMMEDIATE"):
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (written_by,) = connection.execute("PRAGMA user_version").fetchone()
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if application_id != APPLICATION_ID:
            if tables:
                raise _foreign(path, f"with tables such as {tables[0]!r}")
            for statement in _SCHEMA:
                connection.execute(statement)
        elif written_by != FORMAT:
            raise Invalid(
                f"{path}: has format {written_by}, this version of Podium reads format {FORMAT}; it was left as it is. "
                "Use the version that wrote it, or restore a backup into a new file"
            )


def _foreign(path: Path, mark: str) -> Invalid:
    return Invalid(f"{path}: is the SQLite database of another program ({mark}); {_UNTOUCHED}")


def _check_pages(path: Path) -> None:
    """About a second per GB: worth it once per start, because a leader trusts every byte it loads.

    Through a connection that can only read: one that can write folds what a killed predecessor left in the log into
    the file when it closes, also into a damaged one.
    """
    if not path.stat().st_size or path.with_name(path.name + "-journal").exists():
        return  # made this moment, or its making was interrupted: SQLite undoes that when the file is opened
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as only:
        faults = [fault for (fault,) in only.execute("PRAGMA quick_check") if fault != "ok"]
    if faults:
        raise _corrupt(path, "; ".join(faults[:_FAULTS_SHOWN]))


def _corrupt(path: Path, what: str) -> Invalid:
    return Invalid(f"{path}: is corrupt ({' '.join(what.split())}); {_UNTOUCHED}")


def _begin_term(connection: sqlite3.Connection) -> Epoch:
    with _transaction(connection, "IMMEDIATE"):
        connection.execute("UPDATE bookkeeping SET term = term + 1")
        return _epoch(connection)


def _epoch(connection: sqlite3.Connection) -> Epoch:
    generation, term = connection.execute("SELECT generation, term FROM bookkeeping").fetchone()
    return Epoch(generation=generation, term=term)


def _carry_out(connection: sqlite3.Connection, operation: Operation) -> None:
    match operation:
        case Put(key=key, value=value):
            connection.execute("INSERT OR REPLACE INTO record (key, value) VALUES (?, ?)", (key, value))
        case Delete(key=key):
            connection.execute("DELETE FROM record WHERE key = ?", (key,))


def _next_revision(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE bookkeeping SET revision = revision + 1")
    (revision,) = connection.execute("SELECT revision FROM bookkeeping").fetchone()
    return int(revision)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, kind: str) -> Iterator[sqlite3.Connection]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield connection
        _commit(connection)
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # what went wrong first is what the caller must hear
                connection.execute("ROLLBACK")
        raise


def _commit(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if _code(error) == sqlite3.SQLITE_IOERR:
            # The log may hold the whole transaction although its fsync failed: recovery would then bring it back.
            raise OutcomeUnknown(f"the disk failed while a commit was being written: {error}") from error
        raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the system into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain_sqlite(path, error) from error
    except OSError as error:
        if error.errno in _CONFIGURATION_ERRORS:
            raise Invalid(f"{error.filename or path}: {error.strerror}; the store needs a file it may write") from error
        raise Unavailable(f"{error.filename or path}: {error.strerror}") from error


def _explain_sqlite(path: Path, error: sqlite3.Error) -> PodiumError:
    match _code(error):
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _corrupt(path, str(error))
        case sqlite3.SQLITE_FULL:
            return Unavailable(f"{path}: the disk is full; nothing was written. Free space on it, writes then go on")
        case _:
            return Unavailable(f"{path}: {error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})")


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
