"""A token that is left in a file for whoever needs it: in no argument, environment or unit that others may read.

The file may come later than the program that waits for it (a volume of containers that start together, a machine that
is set up before it is let in), and is replaced as a whole.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from common.errors import Invalid
from common.private_files import read_private
from common.tokens import parse_token

logger = logging.getLogger(__name__)

_LIMIT_BYTES = 4 * 1024
_LOOK_S = 0.5


def token_in(path: Path, purpose: str) -> str:
    """Empty while there is no such file. Raises `Invalid` when others may read it, or it holds no such token."""
    text = read_private(path, limit_bytes=_LIMIT_BYTES)
    if text is None:
        return ""
    try:
        return str(parse_token(text, purpose))
    except Invalid as error:
        raise Invalid(f"{path}: {error}") from None


async def awaited_token(path: Path, purpose: str) -> str:
    """Waits for the file. Raises as `token_in`."""
    told = False
    while not (token := token_in(path, purpose)):
        if not told:
            logger.warning("waiting for a token in %s (podium token create --out)", path)
            told = True
        await asyncio.sleep(_LOOK_S)
    return token
