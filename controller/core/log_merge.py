"""In which order the lines of several logs go to one reader: by their times, as far as waiting for that is worth it.

Lines of one source keep their order. A source that has nothing to say holds the others up only for a moment, since
nobody can know whether what it says next is older than what they have said. Pure: the caller brings the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from common.model.session import LogLine


class MergePatience(msgspec.Struct, frozen=True, kw_only=True):
    """How long lines wait for lines of other sources that may be older."""

    line_s: float
    """From its arrival; then it goes out whatever the others do."""
    opening_s: float
    """The same while another source has not been heard at all: its node opens the log only now."""


FOLLOWING = MergePatience(line_s=0.2, opening_s=2.0)
"""People watch: a fifth of a second is no delay to them, and covers what nodes and their links differ by."""
READING = MergePatience(line_s=5.0, opening_s=5.0)
"""Everything is there already and comes as fast as it can; only a node in trouble takes longer."""


class _Source:
    def __init__(self, name: str, opened_at_s: float) -> None:
        self.name = name
        self.opened_at_s = opened_at_s
        self.heard = False
        self.open = True
        self.last_s = 0.0
        self.waiting: deque[tuple[float, float, LogLine]] = deque()
        """(time to sort by, when it arrived, line)."""


class LogMerge:
    """See the module. `now_s` never runs back."""

    def __init__(self, patience: MergePatience) -> None:
        self._patience = patience
        self._sources: dict[str, _Source] = {}

    def open(self, name: str, now_s: float) -> None:
        self._sources[name] = _Source(name, now_s)

    def add(self, name: str, lines: Iterable[LogLine], now_s: float) -> None:
        source = self._sources[name]
        source.heard = True
        for line in lines:
            source.last_s = max(source.last_s, line.time_s)  # a line without a time stays behind the one before it
            source.waiting.append((source.last_s, now_s, line))

    def close(self, name: str) -> None:
        """No more lines will come of it."""
        self._sources[name].open = False

    def waiting(self, name: str) -> int:
        """Lines of a source that have not gone out."""
        source = self._sources.get(name)
        return len(source.waiting) if source is not None else 0

    def take(self, now_s: float, limit: int) -> tuple[list[LogLine], float | None]:
        """Up to `limit` lines that may go out, and when to look again if nothing else happens (None: not at all)."""
        taken: list[LogLine] = []
        while len(taken) < limit:
            first = min((s for s in self._sources.values() if s.waiting), key=lambda s: s.waiting[0][0], default=None)
            if first is None:
                break
            due_s = self._due_s(first)
            if due_s > now_s:
                return taken, due_s
            taken.append(first.waiting.popleft()[2])
        self._forget_ended()
        return taken, None

    def _due_s(self, first: _Source) -> float:
        """When the earliest line may go out: at once unless a silent source may still bring an older one."""
        arrived_s, due_s = first.waiting[0][1], 0.0
        for other in self._sources.values():
            if other.open and not other.waiting:
                opening_s = 0.0 if other.heard else other.opened_at_s + self._patience.opening_s
                due_s = max(due_s, arrived_s + self._patience.line_s, opening_s)
        return due_s

    def _forget_ended(self) -> None:
        for name in [source.name for source in self._sources.values() if not source.open and not source.waiting]:
            del self._sources[name]
