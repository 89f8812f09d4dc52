"""The file of cluster keys: readable by its owner alone, one key a line, the current one first.

    # Podium cluster keys: give this file to each controller of the cluster, and to nobody else.
    Jx0v...=

It is read again at every start.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

from common.errors import Fault, Invalid
from common.private_files import read_private, write_private
from controller.security.sealing import KEY_BYTES, ClusterKey, new_cluster_key

_HEADER = "# Podium cluster keys: give this file to each controller of the cluster, and to nobody else.\n"
_LIMIT_BYTES = 64 * 1024


def read_keys(path: Path) -> tuple[ClusterKey, ...]:
    """The keys in the file, the current one first; none when there is no file.

    Raises `Invalid` for a file that others may read, or that holds anything but keys.
    """
    try:
        text = read_private(path, limit_bytes=_LIMIT_BYTES)
    except Invalid as error:
        raise _fault(str(error)) from None
    if text is None:
        return ()
    keys = tuple(_keys(path, text))
    if not keys:
        raise _fault(f"{path} holds no key; copy the file of another controller")
    return keys


def begin_keys(path: Path) -> tuple[ClusterKey, ...]:
    """The keys of a new file; of several controllers that begin at once on one machine, one writes it for all."""
    keys = (new_cluster_key(),)
    return keys if write_private(path, _text(keys), replace=False) else read_keys(path)


def write_keys(path: Path, keys: Sequence[ClusterKey]) -> None:
    """Replace the file, durably. Raises `Invalid` when that is not possible."""
    write_private(path, _text(keys))


def _text(keys: Sequence[ClusterKey]) -> str:
    return _HEADER + "".join(f"{base64.b64encode(key.secret).decode()}\n" for key in keys)


def _keys(path: Path, text: str) -> list[ClusterKey]:
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            secret = base64.b64decode(line.strip(), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != KEY_BYTES:
            raise _fault(f"{path}:{number}: not a key ({KEY_BYTES} bytes in base 64)")
        keys.append(ClusterKey(secret=secret))
    return keys


def _fault(text: str) -> Invalid:
    return Invalid([Fault(path="cluster_key", text=text)])
