"""Backup files: what goes in comes out, and nothing comes out of one that is not whole."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Conflict, Invalid
from common.model.epoch import Epoch
from controller.store import archive
from controller.store.interface import Contents, Snapshot

NOW_S = 1_790_000_000.0


def header(values: dict[str, bytes]) -> archive.Header:
    contents = Contents(snapshot=Snapshot(revision=42, values=values), epoch=Epoch(generation=1, term=3), leader=None)
    return archive.header_of(contents, store="sqlite", version="0.1.0", now_s=NOW_S)


def written(path: Path, values: dict[str, bytes]) -> Path:
    archive.write(path, header(values), values)
    return path


VALUES = {"jobs/1": b'{"a":1}', "tasks/2": b'{"b":[1.5,null,"\xc3\xa4"]}', "tasks/1": b"[]"}


def test_a_file_says_what_it_is_and_holds_everything(tmp_path: Path) -> None:
    path = written(tmp_path / "b", VALUES)
    found = archive.read(path)
    assert found.values == VALUES
    assert found.header == header(VALUES)
    assert found.header.records == {"jobs": 1, "tasks": 2}
    first, *records, last = (json.loads(line) for line in path.read_text().splitlines())
    assert first["podium_backup"] == 1
    assert first["taken_at"] == "2026-09-21T14:13:20+00:00"
    assert [record["key"] for record in records] == ["jobs/1", "tasks/1", "tasks/2"]
    assert records[0]["value"] == {"a": 1}
    assert set(last) == {"sha256"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["b"]


def test_a_value_written_over_several_lines_takes_one(tmp_path: Path) -> None:
    path = written(tmp_path / "b", {"jobs/1": b'{\n  "a": 1\n}'})
    assert archive.read(path).values == {"jobs/1": b'{"a":1}'}


def test_a_value_that_is_no_json_is_kept_as_it_is(tmp_path: Path) -> None:
    broken = {"jobs/1": b"{half", "jobs/2": b"\xff\x00"}
    assert archive.read(written(tmp_path / "b", broken)).values == broken


@given(st.dictionaries(st.text(max_size=20), st.recursive(st.integers() | st.text(), st.lists, max_leaves=5)))
def test_pieces_read_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]) -> None:
    given_values = {key: msgspec.json.encode(value) for key, value in values.items()}
    path = tmp_path_factory.mktemp("archive") / "b"
    archive.write(path, header(given_values), given_values)
    assert archive.read(path).values == given_values


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "b", VALUES)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(Invalid):
            archive.read(path)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "b", VALUES)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(Invalid, match=str(path)):
            archive.read(path)


def test_a_lost_line_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "b", VALUES)
    lines = path.read_bytes().splitlines(keepends=True)
    for lost in range(len(lines)):
        path.write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
        with pytest.raises(Invalid):
            archive.read(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "ends too early"),
        (b"name: shop\nservices:\n", ":1: .*not the header of a backup"),
        (b"x" * 3_000_000, "longer than any record"),
        (
            b'{"podium_backup":2,"podium":"9","taken_at":"","store":"","generation":0,"term":0,"revision":0,"records":{}}\n{}\n',
            "format 2, written by Podium 9; this version reads format 1",
        ),
    ],
)
def test_what_is_no_backup_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "b"
    path.write_bytes(content)
    with pytest.raises(Invalid, match=complaint):
        archive.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="gone: No such file"):
        archive.read(tmp_path / "gone")


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_text("mine")
    with pytest.raises(Conflict, match="exists; name another file, or replace it with --force"):
        written(path, VALUES)
    assert path.read_text() == "mine"
    archive.write(path, header(VALUES), VALUES, force=True)
    assert archive.read(path).values == VALUES


def test_a_backup_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_text("mine")

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        archive.write_pieces(path, broken(), force=True)
    assert path.read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["b"]


def test_large_stores_come_in_pieces_that_fit_into_a_message() -> None:
    values = {f"tasks/{number}": msgspec.json.encode("x" * 1000) for number in range(5_000)}
    sizes = [len(piece) for piece in archive.pieces(header(values), values)]
    assert len(sizes) > 3
    assert max(sizes) < 3 * 1024 * 1024
