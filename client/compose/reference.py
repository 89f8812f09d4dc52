"""Writes the key tables of docs/compose.md from the tables of `keys`: `python -m client.compose.reference FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from client.compose.keys import SECTIONS
from client.compose.section import Section

BEGIN = "<!-- tables -->\n"
END = "<!-- /tables -->"


def tables() -> str:
    """One table for each section, in Markdown."""
    return "\n".join(_table(path, section) for path, section in SECTIONS.items())


def with_tables(text: str) -> str:
    """A document with what stands between the two marks brought up to date."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


def _table(path: str, section: Section) -> str:
    columns = (("honoured", section.honoured), ("ignored", section.ignored), ("refused", section.refused))
    rows = [f"| `{key}` | {treatment} | {remark} |" for treatment, keys in columns for key, remark in keys.items()]
    return "\n".join((f"### `{path}`", "", "| key | | |", "|---|---|---|", *rows, ""))


def main() -> None:
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
