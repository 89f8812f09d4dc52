"""The token by which probes and scrapers read this node's HTTP: in a file that the first start makes, or the operator.

It is read for each request, so that a replaced file counts at once.
"""

from __future__ import annotations

import logging
from hmac import compare_digest
from pathlib import Path

from common.errors import Invalid
from common.private_files import kept_secret

logger = logging.getLogger(__name__)


class HttpToken:
    def __init__(self, path: Path) -> None:
        """Raises `Invalid` for a file that others may read, or with less in it than nobody guesses."""
        self._path = path
        kept_secret(path)
        logger.info("health and metrics of this node are read with the token in %s", path)

    def reads(self, shown: str) -> bool:
        """Whether it is the token; never while the file is not what it should be."""
        try:
            return compare_digest(kept_secret(self._path).encode(), shown.encode())
        except Invalid as error:
            logger.error("nobody can read health and metrics: %s", error)
            return False
