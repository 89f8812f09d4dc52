"""docs/architecture.md names every room there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("agent", "cli", "client", "common", "controller", "protos")


def rooms() -> set[str]:
    """Folders that hold code: the packages, and those right below them."""
    holding = {path.parent.relative_to(ROOT).parts[:2] for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    return {"/".join(parts) for parts in holding}


def test_every_room_is_named_with_a_file_to_begin_with() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w/]+)` \|[^|]+\| (.+) \|$", text, re.MULTILINE)
    assert {room for room, _ in rows} == rooms() - {"agent", "controller", "protos"}
    for room, first in rows:
        for name in re.findall(r"`([^`]+)`", first):
            assert (ROOT / room / name).exists(), f"{room}/{name}"
