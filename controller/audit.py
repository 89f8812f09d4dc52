"""The audit log: one JSON line for each write, each exec and each refusal, in a file that is rotated.

Each controller writes what it was asked itself, so a cluster's log is that of all its controllers together. The latest
records are also kept in memory, for `podium audit`. A disk that takes no more is complained of once and costs no call:
whether a cluster can still be commanded must not depend on its log.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections import deque
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from common.model.audit import AuditRecord

logger = logging.getLogger(__name__)

_FILE_BYTES = 10 * 1024 * 1024
_FILES = 10
"""Beside the current one: a hundred megabytes are half a million records."""
_KEPT = 10_000
"""In memory: about 4 MB."""
_MODE = 0o600


class AuditLog:
    """Without a path only in memory. `clock` is Unix time."""

    def __init__(self, path: Path | None, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._kept: deque[AuditRecord] = deque(maxlen=_KEPT)
        self._handler = None if path is None else _Handler(path)

    def tell(self, record: AuditRecord) -> None:
        self._kept.append(record)
        if self._handler is not None:
            self._handler.handle(logging.makeLogRecord({"msg": line_of(record)}))

    def latest(self, limit: int, since_s: float) -> tuple[AuditRecord, ...]:
        """At most `limit`, oldest first."""
        found = [record for record in self._kept if record.time_s >= since_s]
        return tuple(found[max(0, len(found) - limit) :])

    def close(self) -> None:
        if self._handler is not None:
            self._handler.close()


def line_of(record: AuditRecord) -> str:
    """The record as one line of JSON; what the caller chose cannot begin another one."""
    when = datetime.datetime.fromtimestamp(record.time_s, datetime.UTC)
    plain = {
        "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "caller": record.caller,
        "address": record.address,
        "verb": record.verb,
        "kind": record.kind,
        "namespaces": list(record.namespaces),
        "names": list(record.names),
        "allowed": not record.refusal,
        "refusal": record.refusal,
    }
    return json.dumps(plain)


class _Handler(RotatingFileHandler):
    """Its owner's alone, also after a rotation; says once that it cannot write."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(path, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8", delay=True)
        self._complained = False

    def _open(self):  # type: ignore[no-untyped-def]  # as the standard library's
        Path(self.baseFilename).touch(_MODE)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        if not self._complained:
            self._complained = True
            logger.error("the audit log %s cannot be written", self.baseFilename, exc_info=True)
