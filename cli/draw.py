"""Drawing a deployment's progress on stderr: a live table on a terminal, else one line per change."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from cli.messages import say
from cli.progress import Phase, Row
from cli.render_table import clipped

if TYPE_CHECKING:
    from rich.table import Table

REFRESHES_PER_S = 8
LINE_INTERVAL_S = 1.0
REPEAT_INTERVAL_S = 30.0
"""A log is read afterwards: what a crash loop does ten times a second helps nobody there, nor the same two lines in
turn for as long as an image cannot be pulled."""
LINE_CHARACTERS = 300
"""Of a line that stands alone: an engine's words have room."""

_MARKS = {Phase.WORKING: "…", Phase.DONE: "✓", Phase.FAILED: "✗"}
_STYLES = {Phase.WORKING: "yellow", Phase.DONE: "green", Phase.FAILED: "red"}


class Drawing(Protocol):
    def update(self, rows: tuple[Row, ...]) -> None:
        """Show the jobs as they are now."""


@contextmanager
def drawing() -> Iterator[Drawing]:
    """The drawing that fits stderr; a live one leaves its last state on the screen."""
    if not sys.stderr.isatty():
        yield PlainDrawing()
        return
    from rich.live import Live

    from cli.output import console

    with Live(console=console(sys.stderr), refresh_per_second=REFRESHES_PER_S) as live:
        yield LiveDrawing(live.update)


class PlainDrawing:
    """A line when a job's line changes, but while it is under way at most one per job in a moment, and none twice in a
    while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: dict[str, tuple[str, float]] = {}
        """By job, its last line and when that was said."""
        self._said_s: dict[str, float] = {}
        """When each line was last said; what was said long ago is left out."""

    def update(self, rows: tuple[Row, ...]) -> None:
        now_s = self._clock()
        self._said_s = {text: said_s for text, said_s in self._said_s.items() if now_s - said_s < REPEAT_INTERVAL_S}
        for row in rows:
            text = clipped(str(row), LINE_CHARACTERS)
            shown, shown_s = self._shown.get(row.job, ("", -math.inf))
            due = now_s - shown_s >= LINE_INTERVAL_S and text not in self._said_s
            if text != shown and (due or row.phase is not Phase.WORKING):
                self._shown[row.job] = text, now_s
                self._said_s[text] = now_s
                say(text)


class LiveDrawing:
    """All jobs as a table that is drawn again in place. `draw` is of rich's `Live`."""

    def __init__(self, draw: _Draw) -> None:
        self._draw = draw

    def update(self, rows: tuple[Row, ...]) -> None:
        self._draw(_table(rows))


class _Draw(Protocol):
    def __call__(self, table: Table, /) -> None: ...


def _table(rows: tuple[Row, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(
            _MARKS[row.phase], row.job, f"{row.done}/{row.desired}", clipped(row.text), style=_STYLES[row.phase]
        )
    return table
