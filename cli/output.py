"""Printing: data on stdout in the form that was asked for. Colours and borders only where a terminal draws them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TextIO

from cli.options import OutputFormat
from cli.render_json import Plain
from cli.render_table import Grid

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

YAML_COLUMNS = 10_000
"""Whoever reads YAML wants whole lines, not folded ones."""

_STYLES = {
    "running": "green",
    "ready": "green",
    "healthy": "green",
    "complete": "green",
    "active": "green",
    "degraded": "yellow",
    "progressing": "yellow",
    "restarting": "yellow",
    "disconnected": "yellow",
    "unreachable": "yellow",
    "unhealthy": "red",
    "failed": "red",
    "rejected": "red",
    "lost": "red",
    "down": "red",
}


_PAINTS = (
    "cyan",
    "yellow",
    "green",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_yellow",
    "bright_green",
    "bright_magenta",
)
"""Of log prefixes. No red: that is for what went wrong."""


def show(
    output: OutputFormat,
    plain: list[Plain] | Plain,
    *,
    name: Callable[[Plain], str],
    table: Callable[[], Grid | list[str]],
) -> None:
    """Print `plain` (a list of objects, or one) as asked; `table` is made only when it is wanted."""
    match output:
        case OutputFormat.JSON:
            line(json.dumps(plain, indent=2, ensure_ascii=False))
        case OutputFormat.YAML:
            sys.stdout.write(as_yaml(plain))
        case OutputFormat.NAME:
            for item in plain if isinstance(plain, list) else [plain]:
                line(name(item))
        case OutputFormat.TABLE:
            drawn = table()
            grid(drawn) if isinstance(drawn, Grid) else lines(drawn)
    sys.stdout.flush()


def line(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def lines(texts: Iterable[str]) -> None:
    for text in texts:
        line(text)
    sys.stdout.flush()


def as_yaml(plain: list[Plain] | Plain) -> str:
    import io

    from ruamel.yaml import YAML  # slow to import

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # the stub knows only its default
    yaml.width = YAML_COLUMNS
    buffer = io.StringIO()
    yaml.dump(plain, buffer)
    return buffer.getvalue().rstrip("\n") + "\n"


def grid(drawn: Grid) -> None:
    """Aligned columns, each as wide as its longest text; notes below their row."""
    widths = [
        max(len(row[column]) for row in (drawn.headings, *(row for row in drawn.rows if len(row) > 1)))
        for column in range(len(drawn.headings))
    ]
    if not sys.stdout.isatty():
        lines(_aligned(row, widths) if len(row) > 1 else row[0] for row in (drawn.headings, *drawn.rows))
        return
    drawing = console(sys.stdout)
    drawing.print(_aligned(drawn.headings, widths), style="bold", soft_wrap=True)
    for row in drawn.rows:
        drawing.print(_styled(row, widths) if len(row) > 1 else row[0], soft_wrap=True)


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    return "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _styled(row: tuple[str, ...], widths: list[int]) -> Text:
    from rich.text import Text

    text = Text()
    for cell, width in zip(row, widths, strict=True):
        text.append(cell.ljust(width), style=_STYLES.get(cell, ""))
        text.append("   ")
    text.rstrip()
    return text


def console(terminal: TextIO) -> Console:
    """For drawing on a terminal (NO_COLOR is heeded); never reads markup into our data."""
    from rich.console import Console

    return Console(file=terminal, markup=False, highlight=False, emoji=False)


def painter(stream: TextIO) -> Callable[[str, int], str]:
    """Colours a text by a number, so that neighbours differ; leaves it as it is where no colours are drawn."""
    if not stream.isatty():
        return lambda text, _place: text
    drawing = console(stream)
    if drawing.no_color or drawing.color_system is None:
        return lambda text, _place: text
    from rich.style import Style

    styles = [Style.parse(name) for name in _PAINTS]
    return lambda text, place: styles[place % len(styles)].render(text)
