"""Reads the output a supervisor keeps: two files of stamped lines, of which the newer one grows and is renamed away.

Reads only; the supervisor alone writes. Following looks at the file now and then: the kernel's notification of changes
is not to be had from the standard library, and a tenth of a second is no delay to people.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from io import FileIO
from pathlib import Path

from agent.runtime.interface import ContainerIdentity
from common.model.session import LogLine, LogStream

LOOK_S = 0.1
READ_BYTES = 256 * 1024


class OutputReader:
    """One reading of one task's output, from its beginning."""

    def __init__(self, directory: Path, identity: ContainerIdentity) -> None:
        self._path = directory / "output.log"
        self._older = directory / "output.log.1"
        self._identity = identity
        self._partial = b""

    async def lines(
        self, *, tail: int, since_s: float, ended: Callable[[], bool] | None
    ) -> AsyncGenerator[LogLine, None]:
        """With `ended`, follow until that says so; without, what is there."""
        kept: deque[LogLine] = deque(maxlen=max(tail, 0))
        file = None
        try:
            for path in (self._older, self._path):
                file = _reopened(path, file)
                while chunk := file.read(READ_BYTES) if file else b"":
                    for line in self._decoded(chunk, since_s):
                        if tail < 0:
                            yield line
                        else:
                            kept.append(line)
                    await asyncio.sleep(0)  # megabytes of output must not hold up heartbeats
            for line in kept:
                yield line
            while ended is not None:
                last = ended()  # asked before reading: what was written before the end is read after it
                file, chunk = self._next(file)
                for line in self._decoded(chunk, since_s):
                    yield line
                if last and not chunk:
                    return
                if not chunk:
                    await asyncio.sleep(LOOK_S)
        finally:
            if file is not None:
                file.close()

    def _next(self, file: FileIO | None) -> tuple[FileIO | None, bytes]:
        """More of the output; goes on to the new file when this one was renamed away and read to its end."""
        chunk = file.read(READ_BYTES) if file is not None else b""
        if not chunk and not _is_at(file, self._path):
            file = _reopened(self._path, file)
            chunk = file.read(READ_BYTES) if file is not None else b""
        return file, chunk

    def _decoded(self, chunk: bytes, since_s: float) -> Iterator[LogLine]:
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            stamp, _, rest = line.partition(b" ")
            stream, _, text = rest.partition(b" ")
            try:
                time_s = float(stamp)
            except ValueError:
                continue  # a torn line: the disk was full
            if time_s >= since_s:
                yield self._line(time_s, stream, text)

    def _line(self, time_s: float, stream: bytes, text: bytes) -> LogLine:
        return LogLine(
            task_id=self._identity.task_id,
            job=f"{self._identity.namespace}/{self._identity.job}",
            slot=self._identity.slot,
            time_s=time_s,
            stream=LogStream.STDERR if stream == b"e" else LogStream.STDOUT,
            text=text.decode("utf-8", "replace"),
        )


def _reopened(path: Path, file: FileIO | None) -> FileIO | None:
    if file is not None:
        file.close()
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None


def _is_at(file: FileIO | None, path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return True  # between two files, or removed: nothing newer to read
    return file is not None and os.path.samestat(os.fstat(file.fileno()), found)
