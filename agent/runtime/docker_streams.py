"""The engine's byte streams cut into frames and lines: a decoder is fed bytes and gives back what is complete.

Decides nothing about containers and never reads a socket, so every way a stream can be chopped up can be tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from common.errors import Unavailable
from common.model.session import LogStream

HEADER_BYTES = 8
FRAME_BYTES = 1024 * 1024
"""The engine writes frames of at most 32 KiB; a longer one means that this is not its stream."""
JSON_LINE_BYTES = 1024 * 1024
"""An event repeats all labels of its container, and a label may be long."""
LINE_BYTES = 16 * 1024
"""Longer output lines come in pieces of this length, as the engine itself stores them."""


class Frame(msgspec.Struct, frozen=True):
    """One write of the program, with the stream it went to."""

    stream: LogStream
    payload: bytes


class FrameDecoder:
    """Takes apart what the engine multiplexes into one stream when there is no terminal.

    Each frame has a header of one byte for the stream (1 or 2), three of zero, four of big-endian length.
    """

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames completed by `chunk`. Raises `Unavailable` on a stream that cannot be the engine's."""
        self._pending += chunk
        return list(self._complete())

    def _complete(self) -> Iterator[Frame]:
        pending = self._pending
        while len(pending) >= HEADER_BYTES:
            length = int.from_bytes(pending[4:HEADER_BYTES], "big")
            if length > FRAME_BYTES:
                raise Unavailable(
                    f"Docker Engine sent an output frame of {length} bytes; at most {FRAME_BYTES} are sane"
                )
            end = HEADER_BYTES + length
            if len(pending) < end:
                return
            stream = LogStream.STDERR if pending[0] == 2 else LogStream.STDOUT
            yield Frame(stream, bytes(pending[HEADER_BYTES:end]))
            del pending[:end]


class JsonLineDecoder:
    """Cuts a stream of JSON values, one a line."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines completed by `chunk`, without blank ones."""
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        if len(self._pending) > JSON_LINE_BYTES:
            raise Unavailable(f"Docker Engine sent a line of more than {JSON_LINE_BYTES} bytes")
        return [line for line in lines if line.strip()]


def stamped_lines(payload: bytes) -> Iterator[tuple[float, str]]:
    """(Unix time, text) of each line of a log frame; with `timestamps` the engine sets the time before each."""
    for line in payload.rstrip(b"\n").split(b"\n"):
        stamp, _, text = line.partition(b" ")
        time_s = unix_time_s(stamp.decode("ascii", "replace"))
        shown = text if time_s else line
        for start in range(0, max(len(shown), 1), LINE_BYTES):
            yield time_s, shown[start : start + LINE_BYTES].rstrip(b"\r").decode("utf-8", "replace")


def unix_time_s(text: str) -> float:
    """Unix time of an RFC 3339 time; 0 for the engine's year 1, which says `never`, and for what is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return max(moment.timestamp(), 0.0) if moment.tzinfo is not None else 0.0
