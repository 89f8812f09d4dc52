"""One process at a time: a lock beside a file, which the kernel lets go when its holder dies, and what the holder says.

The text in it is for whoever is refused; only the lock itself decides.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec

from controller.store.interface import LeaderRecord

_TRIES = 5
_RETRY_S = 0.02
"""An observer holds the lock for microseconds while it looks; a candidate must not take that for a refusal."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the lock, in its own words."""

    pid: int
    leader: LeaderRecord


class LockFile:
    """An exclusive advisory lock (`flock`) on `path`. Acquiring blocks for up to a tenth of a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Whether the lock is ours now. Raises `OSError` when the file cannot be opened."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_RETRY_S)
            else:
                self._descriptor = descriptor
                return True
        os.close(descriptor)
        return False

    def sign(self, leader: LeaderRecord) -> None:
        """Say who holds the lock, which must be ours."""
        assert self._descriptor is not None, "only the holder signs"
        text = msgspec.json.encode(Holder(pid=os.getpid(), leader=leader))
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def release(self) -> None:
        """Give the lock up if we hold it. The file stays: removing it would let two processes lock two files."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def holder(self) -> Holder | None:
        """Who holds the lock; None when nobody does, or when the holder has not signed yet."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(descriptor)
        else:
            return None
        finally:
            os.close(descriptor)


def _read(descriptor: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 65_536, 0), type=Holder)
    except msgspec.DecodeError:
        return None
