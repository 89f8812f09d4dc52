"""A directory that every user of the machine may enter: pytest's own are for their owner only, and are made so again by
every other run of pytest on the machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Empty, and gone after the test."""
    with tempfile.TemporaryDirectory(prefix="podium-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
