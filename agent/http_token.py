"""The token by which probes and scrapers read this node's HTTP: in a file that the first start makes, or the operator.

It is read for each request, so that a replaced file counts at once.
"""

from __future__ import annotations

import logging
import secrets
from hmac import compare_digest
from pathlib import Path

from common.errors import Invalid
from common.private_files import read_private, write_private

logger = logging.getLogger(__name__)

_BYTES = 24
_LEAST_CHARACTERS = 16
_LIMIT_BYTES = 4 * 1024


class HttpToken:
    def __init__(self, path: Path) -> None:
        """Raises `Invalid` for a file that others may read, or with less in it than nobody guesses."""
        self._path = path
        if read_private(path, limit_bytes=_LIMIT_BYTES) is None:
            write_private(path, f"{secrets.token_urlsafe(_BYTES)}\n", replace=False)
            logger.info("health and metrics of this node are read with the token in %s", path)
        self._token()

    def reads(self, shown: str) -> bool:
        """Whether it is the token; never while the file is not what it should be."""
        try:
            return compare_digest(self._token().encode(), shown.encode())
        except Invalid as error:
            logger.error("nobody can read health and metrics: %s", error)
            return False

    def _token(self) -> str:
        token = (read_private(self._path, limit_bytes=_LIMIT_BYTES) or "").strip()
        if len(token) < _LEAST_CHARACTERS:
            raise Invalid(f"{self._path} holds {len(token)} characters: a token has at least {_LEAST_CHARACTERS}")
        return token
