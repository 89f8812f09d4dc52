"""What a run leaves behind: its event log, and what went wrong in it. Two runs of one seed leave the same bytes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from tests.sim.loop import who

LINES_KEPT = 400
"""For the message of a failed run; `--log` writes all."""
PACKAGES = ("agent", "controller", "common")


class Violation(AssertionError):
    """An invariant did not hold, or the cluster did not converge."""


class Record:
    """See the module. `log` gets every line, for people; the digest covers all of them."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.violations: list[str] = []
        self.counts: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self._log = log

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def note(self, kind: str, text: str) -> None:
        line = f"{asyncio.get_running_loop().time():12.6f} {kind:9} {text}"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._digest.update(line.encode() + b"\n")
        self._keep(line)

    def remark(self, text: str) -> None:
        """For people only, e.g. what the product logs."""
        self._keep(f"{asyncio.get_running_loop().time():12.6f} {text}")

    def violated(self, text: str) -> None:
        """Noted here, raised by the driver: an exception inside the product's own tasks would be taken for its own."""
        self.violations.append(f"at {asyncio.get_running_loop().time():.3f} s: {text}")
        self.note("VIOLATION", text)

    def unhandled(self, context: dict[str, object]) -> None:
        """An exception handler of the loop."""
        what = context.get("task") or context.get("future") or ""
        self.violated(f"nobody handled {context.get('exception')!r}: {context.get('message')} {what!r}")

    def check(self) -> None:
        """Raises `Violation`."""
        if self.violations:
            raise Violation("; ".join(self.violations[:5]))

    def _keep(self, line: str) -> None:
        self.lines.append(line)
        if self._log is not None:
            self._log.append(line)


class _Handler(logging.Handler):
    """An error that the product logs is a fault of the product."""

    def __init__(self, record: Record, verbose: bool) -> None:
        super().__init__()
        self._record = record
        self._verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self._record.violated(f"{record.name} logged: {self.format(record)}")
        elif self._verbose:
            self._record.remark(f"  {who()}: {record.name}: {record.getMessage()}")


@contextmanager
def listening(record: Record, *, verbose: bool) -> Iterator[None]:
    """Hear what the product logs: errors always, the rest when `verbose`."""
    handler = _Handler(record, verbose)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if verbose else logging.ERROR)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
