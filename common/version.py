"""Which version of the distribution runs."""

from __future__ import annotations

import importlib.metadata
from functools import cache


@cache
def own_version() -> str:
    """Read once: a thousand pretended nodes in one process would parse the same file a thousand times."""
    return importlib.metadata.version("podium")
