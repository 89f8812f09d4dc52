"""Frames, JSON lines and time stamps come out the same however the engine's stream was chopped up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.docker_streams import FrameDecoder, JsonLineDecoder, stamped_lines, unix_time_s
from common.errors import Unavailable
from common.model.session import LogStream

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=20)


def encoded(frames: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload for stream, payload in frames)


def chopped(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, rest = [], data
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    return [*pieces, rest]


@given(FRAMES, st.lists(st.integers(0, 30), max_size=40))
def test_frames_survive_any_chopping(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    decoder = FrameDecoder()
    found = [frame for piece in chopped(encoded(frames), sizes) for frame in decoder.feed(piece)]
    streams = {1: LogStream.STDOUT, 2: LogStream.STDERR}
    assert [(frame.stream, frame.payload) for frame in found] == [(streams[number], data) for number, data in frames]


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=10))), st.lists(st.integers(0, 30), max_size=40))
def test_json_lines_survive_any_chopping(values: list[dict[str, str]], sizes: list[int]) -> None:
    decoder = JsonLineDecoder()
    data = b"".join(json.dumps(value).encode() + b"\r\n" for value in values)
    found = [json.loads(line) for piece in chopped(data, sizes) for line in decoder.feed(piece)]
    assert found == values


def test_what_cannot_be_the_engines_stream_is_refused_before_it_is_stored() -> None:
    with pytest.raises(Unavailable, match="frame"):
        FrameDecoder().feed(b"HTTP/1.1 400 Bad")
    with pytest.raises(Unavailable, match="line"):
        JsonLineDecoder().feed(b"x" * (1024 * 1024 + 1))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:00.5Z", 60.5),
        ("1970-01-01T02:01:00.123456789+02:00", 60.123456),
        ("0001-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:01:00", 0.0),
        ("never", 0.0),
        ("", 0.0),
    ],
)
def test_times_of_the_engine(text: str, seconds: float) -> None:
    assert unix_time_s(text) == pytest.approx(seconds)


def test_a_stamp_is_taken_off_its_line_and_a_missing_one_is_no_time() -> None:
    assert list(stamped_lines(b"1970-01-01T00:01:00Z hello there\r\n")) == [(60.0, "hello there")]
    assert list(stamped_lines(b"1970-01-01T00:01:00Z \n")) == [(60.0, "")]
    assert list(stamped_lines(b"no stamp here")) == [(0.0, "no stamp here")]
    assert list(stamped_lines(b"1970-01-01T00:01:00Z a\n1970-01-01T00:02:00Z b\n")) == [(60.0, "a"), (120.0, "b")]


def test_a_line_longer_than_16_kib_comes_in_pieces() -> None:
    lines = list(stamped_lines(b"1970-01-01T00:01:00Z " + b"x" * 40_000))
    assert [len(text) for _, text in lines] == [16_384, 16_384, 7_232]
    assert {time_s for time_s, _ in lines} == {60.0}
