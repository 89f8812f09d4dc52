"""What is drawn on a terminal and nowhere else."""

from __future__ import annotations

import io
import re

import pytest

from cli.output import painter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_neighbours_differ_in_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    paint = painter(Terminal())
    assert paint("web.1 |", 0) == paint("web.1 |", 0) != paint("web.1 |", 1)
    assert re.fullmatch(r"\x1b\[\d+mweb\.1 \|\x1b\[0m", paint("web.1 |", 0))


def test_no_colours_for_a_file_or_for_who_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert painter(io.StringIO())("web.1 |", 0) == "web.1 |"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painter(Terminal())("web.1 |", 0) == "web.1 |"
