"""Reads a store's SQLite file without disturbing whoever leads on it: through a connection that cannot write."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from common.errors import Invalid
from common.model.epoch import Epoch
from common.model.store import Finding
from controller.store.interface import Contents, Examination, LeaderRecord, Snapshot
from controller.store.sqlite_file import BUSY_S, FORMAT, check_header, explained

_FAULTS_SHOWN = 5


def read(path: Path, leader: LeaderRecord | None) -> Contents:
    """Everything in the file at one moment. Raises `Invalid` where there is no store."""
    with explained(path), _only_reading(path) as connection:
        connection.execute("BEGIN")
        revision, generation, term = connection.execute("SELECT revision, generation, term FROM bookkeeping").fetchone()
        values: dict[str, bytes] = dict(connection.execute("SELECT key, value FROM record"))
        return Contents(
            snapshot=Snapshot(revision=revision, values=values),
            epoch=Epoch(generation=generation, term=term),
            leader=leader,
        )


def get(path: Path, key: str) -> bytes | None:
    """One value; None also where no store was begun yet."""
    if not path.exists() or not path.stat().st_size:
        return None
    with explained(path), _only_reading(path) as connection:
        row = connection.execute("SELECT value FROM record WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])


def examine(path: Path) -> Examination:
    """SQLite's own full check: about a second per 100 MB."""
    with explained(path), _only_reading(path) as connection:
        faults = _faults(connection)
        (pages,), (page_bytes,) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
        )
    facts = {"file": str(path), "bytes": str(pages * page_bytes), "format": str(FORMAT)}
    return Examination(facts=facts, findings=tuple(_corrupt(path, faults)))


def _faults(connection: sqlite3.Connection) -> list[str]:
    try:
        return [fault for (fault,) in connection.execute("PRAGMA integrity_check") if fault != "ok"]
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # it is locked, or the disk fails: nothing was found out
            raise
        return [str(error)]


def _corrupt(path: Path, faults: list[str]) -> Iterator[Finding]:
    if faults:
        yield Finding(
            error=True,
            subject=str(path),
            text=f"is corrupt: {'; '.join(faults[:_FAULTS_SHOWN])}",
            why="the next controller that starts on it refuses it, and what it holds cannot be trusted",
            advice="restore the latest backup into a new file (podium store restore), and look after the disk",
        )


@contextlib.contextmanager
def _only_reading(path: Path) -> Iterator[sqlite3.Connection]:
    check_header(path)
    if not path.stat().st_size:
        raise Invalid(f"{path}: is empty: no controller has ever led on it")
    url = f"{path.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(url, uri=True, timeout=BUSY_S, isolation_level=None)) as connection:
        (written_by,) = connection.execute("PRAGMA user_version").fetchone()
        if written_by != FORMAT:
            raise Invalid(f"{path}: has format {written_by}, this version of Podium reads format {FORMAT}")
        yield connection
