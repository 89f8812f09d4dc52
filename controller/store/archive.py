"""The backup file: a whole cluster's state as lines of JSON that check themselves. Knows nothing of backends.

    {"podium_backup": 1, "podium": "0.1.0", "taken_at": "...", "store": "sqlite", "generation": 0, "term": 3,
     "revision": 42, "records": {"jobs": 1, "tasks": 3, ...}}           one line
    {"key": "jobs/...", "value": {...}}                                 one line for each record, by key
    {"sha256": "..."}                                                   of all bytes before this line

A value that is no JSON, which only a damaged store has, is kept as {"key": ..., "base64": ...}, so that a backup never
fails on what it is there to save. A reader takes nothing from a file before all of it has been checked.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from common.errors import Conflict, Fault, Invalid
from controller.store.interface import Contents

FORMAT = 1
_LINE_LIMIT_BYTES = 2 * 1024 * 1024
"""A store takes 1.4 MB at most; more on one line is no backup of ours."""
_PIECE_BYTES = 1024 * 1024
"""Of a backup on its way: well below what a message may hold."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """First line: what this is, and where in the cluster's history it was taken."""

    podium_backup: int
    podium: str
    """Version of the program that took it."""
    taken_at: str
    store: str
    generation: int
    term: int
    revision: int
    records: dict[str, int]


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """A backup file that has been read and found whole."""

    header: Header
    values: dict[str, bytes]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: str
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    base64: bytes | msgspec.UnsetType = msgspec.UNSET


class _Trailer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sha256: str


def header_of(contents: Contents, *, store: str, version: str, now_s: float) -> Header:
    return Header(
        podium_backup=FORMAT,
        podium=version,
        taken_at=datetime.datetime.fromtimestamp(now_s, datetime.UTC).isoformat(timespec="seconds"),
        store=store,
        generation=contents.epoch.generation,
        term=contents.epoch.term,
        revision=contents.snapshot.revision,
        records=_counts(contents.snapshot.values),
    )


def pieces(header: Header, values: Mapping[str, bytes]) -> Iterator[bytes]:
    """The file's bytes, in pieces that fit into a message."""
    digest = hashlib.sha256()
    piece = bytearray()
    for line in _lines(header, values):
        digest.update(line)
        piece += line
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece) + msgspec.json.encode(_Trailer(sha256=digest.hexdigest())) + b"\n"


def _lines(header: Header, values: Mapping[str, bytes]) -> Iterator[bytes]:
    yield msgspec.json.encode(header) + b"\n"
    for key in sorted(values):
        yield msgspec.json.encode(_record(key, values[key])) + b"\n"


def _record(key: str, value: bytes) -> _Record:
    try:
        return _Record(
            key=key, value=msgspec.Raw(msgspec.json.format(value, indent=-1))
        )  # on one line, whatever it was
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Record(key=key, base64=value)


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(key.partition("/")[0] for key in values).items()))


# --- files


@contextlib.contextmanager
def being_written(path: Path, *, force: bool) -> Iterator[Path]:
    """A place to write to; the file appears under its name when the context ends well, whole and on the disk.

    Readable by us alone, since specs carry secrets. Raises `Conflict` when the name is taken, unless `force` is given.
    """
    _check_free(path, force)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    written = Path(name)
    try:
        yield written
        _sync(written)
        _check_free(path, force)
        written.replace(path)
        _sync(path.parent)
    finally:
        written.unlink(missing_ok=True)


def write(path: Path, header: Header, values: Mapping[str, bytes], *, force: bool = False) -> None:
    write_pieces(path, pieces(header, values), force=force)


def write_pieces(path: Path, content: Iterable[bytes], *, force: bool) -> None:
    with being_written(path, force=force) as temporary, temporary.open("wb") as file:
        for piece in content:
            file.write(piece)


def read(path: Path) -> Archive:
    """The whole file, checked to its last byte. Raises `Invalid` saying what is wrong with it, with the line."""
    try:
        with path.open("rb") as file:
            return _checked(path, file)
    except OSError as error:
        raise Invalid([Fault(path="", file=str(path), text=error.strerror or str(error))]) from None


def _checked(path: Path, file: Iterable[bytes]) -> Archive:
    digest = hashlib.sha256()
    values: dict[str, bytes] = {}
    header: Header | None = None
    last = b""
    number = 0
    for number, line in enumerate(file, 1):
        if len(line) > _LINE_LIMIT_BYTES:
            raise _wrong(path, number, "is longer than any record: this is no backup of Podium")
        if last:
            digest.update(last)
            if header is None:
                header = _header(path, last)
            else:
                _take(path, number - 1, last, values)
        last = line
    if header is None or not last.endswith(b"\n"):
        raise _wrong(path, number, "the file ends too early: it is cut off, or no backup of Podium")
    _check_trailer(path, number, last, digest.hexdigest())
    if header.records != _counts(values):
        raise _wrong(path, number, f"the records are {_counts(values)}, announced were {header.records}")
    return Archive(header=header, values=values)


def _header(path: Path, line: bytes) -> Header:
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, 1, f"is not the header of a backup ({error})") from None
    if header.podium_backup != FORMAT:
        text = f"is a backup of format {header.podium_backup}, written by Podium {header.podium}"
        raise _wrong(path, 1, f"{text}; this version reads format {FORMAT}")
    return header


def _take(path: Path, number: int, line: bytes, values: dict[str, bytes]) -> None:
    try:
        record = msgspec.json.decode(line, type=_Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, number, f"is not a record ({error}): the file is damaged") from None
    if record.key in values:
        raise _wrong(path, number, f"has {record.key} for the second time")
    if isinstance(record.base64, bytes):
        values[record.key] = record.base64
    elif isinstance(record.value, msgspec.Raw):
        values[record.key] = bytes(record.value)
    else:
        raise _wrong(path, number, f"has no value for {record.key}")


def _check_trailer(path: Path, number: int, line: bytes, digest: str) -> None:
    try:
        trailer = msgspec.json.decode(line, type=_Trailer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _wrong(path, number, "is not the checksum that ends a backup: the file is cut off") from None
    if trailer.sha256 != digest:
        raise _wrong(path, number, f"the checksum is {trailer.sha256}, that of the lines above {digest}: it is damaged")


def _check_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise Invalid(f"{path}: is a directory; name a file")
    if path.exists() and not force:
        raise Conflict(f"{path} exists; name another file, or replace it with --force")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _wrong(path: Path, line: int, text: str) -> Invalid:
    return Invalid([Fault(path="", file=str(path), line=line, text=text)])
