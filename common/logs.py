"""How processes log: one line per record on stderr, with time, level and the part that speaks. Never decides what."""

from __future__ import annotations

import logging
import sys


def configure(level: str = "info") -> None:
    """Send records of `level` (a name as in `logging`, any case) and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # aiohttp reports every scrape; nobody reads that.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
