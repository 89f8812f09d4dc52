"""Files that nobody but their owner may read: written whole or not at all, durably, and refused when others may read
them."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from common.errors import Invalid

_MODE = 0o600
_SECRET_BYTES = 24
_LEAST_CHARACTERS = 16
_SECRET_LIMIT_BYTES = 4 * 1024


def write_private(path: Path, text: str, *, replace: bool = True) -> bool:
    """Replace the file, or, unless it is to be replaced, leave the one that is there; whether ours is there now.

    Raises `Invalid` when it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            beside.replace(path)
        else:
            os.link(beside, path)
            beside.unlink()
        _sync_folder(path.parent)
    except FileExistsError:
        beside.unlink(missing_ok=True)
        return False
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Invalid(f"cannot write {path}: {error.strerror}") from None
    return True


def kept_secret(path: Path) -> str:
    """What is in the file, or what was made up and written there now. Raises `Invalid` as the others do, and for less
    than nobody guesses."""
    if (text := read_private(path, limit_bytes=_SECRET_LIMIT_BYTES)) is None:
        write_private(path, secrets.token_urlsafe(_SECRET_BYTES) + "\n", replace=False)
        text = read_private(path, limit_bytes=_SECRET_LIMIT_BYTES) or ""
    if len(text.strip()) < _LEAST_CHARACTERS:
        raise Invalid(f"{path} holds {len(text.strip())} characters: a secret has at least {_LEAST_CHARACTERS}")
    return text.strip()


def read_private(path: Path, *, limit_bytes: int) -> str | None:
    """What is in the file; None when there is none. Raises `Invalid` when others may read it, or it is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        _check_mode(path, os.fstat(file.fileno()).st_mode)
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise Invalid(f"{path} is over {limit_bytes} bytes: not what belongs there")
    return content.decode("utf-8", "replace")


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise Invalid(f"{path} is not a file")
    if mode & 0o077:
        raise Invalid(f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
