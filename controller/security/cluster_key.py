"""The file of cluster keys: readable by its owner alone, one key a line, the current one first.

    # Podium cluster keys: give this file to each controller of the cluster, and to nobody else.
    Jx0v...=

It is written whole or not at all, and read again at every start.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from common.errors import Fault, Invalid
from controller.security.sealing import KEY_BYTES, ClusterKey

_HEADER = "# Podium cluster keys: give this file to each controller of the cluster, and to nobody else.\n"
_LIMIT_BYTES = 64 * 1024
_MODE = 0o600


def read_keys(path: Path) -> tuple[ClusterKey, ...]:
    """The keys in the file, the current one first; none when there is no file.

    Raises `Invalid` for a file that others may read, or that holds anything but keys.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _fault(f"cannot read {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        _check_mode(path, os.fstat(file.fileno()).st_mode)
        content = file.read(_LIMIT_BYTES + 1)
    if len(content) > _LIMIT_BYTES:
        raise _fault(f"{path} is over {_LIMIT_BYTES} bytes: not a file of cluster keys")
    keys = tuple(_keys(path, content.decode("ascii", "replace")))
    if not keys:
        raise _fault(f"{path} holds no key; copy the file of another controller")
    return keys


def write_keys(path: Path, keys: Sequence[ClusterKey]) -> None:
    """Replace the file, durably. Raises `Invalid` when that is not possible."""
    write_owners(path, _HEADER + "".join(f"{base64.b64encode(key.secret).decode()}\n" for key in keys))


def write_owners(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, whole or not at all, durably. Raises `Invalid` when it cannot be."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _fault(f"cannot write {path}: {error.strerror}") from None


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise _fault(f"{path} is not a file")
    if mode & 0o077:
        raise _fault(f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")


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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fault(text: str) -> Invalid:
    return Invalid([Fault(path="cluster_key", text=text)])
