"""The clusters of this machine that this user started, known to the same user's commands without being told of them.

Whoever serves on an address (`podium dev`, `podium controller`) leaves a context there for as long as it runs: one file
per address, of mode 0600, below the user's configuration. One whose process has ended counts no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from client.contexts import Context, config_folder
from common.errors import Invalid
from common.private_files import read_private, write_private
from common.tls import host_of

_LIMIT_BYTES = 64 * 1024


class LocalContext(msgspec.Struct, frozen=True, kw_only=True):
    process_id: int
    process_began: str
    """When that process began, in the kernel's ticks: its id may be another's by now."""
    context: Context


def folder(environ: Mapping[str, str]) -> Path:
    return config_folder(environ) / "local"


def found(environ: Mapping[str, str], addresses: Iterable[str]) -> Context | None:
    """What is known of the first of these addresses that something is known of. Raises `Invalid` when others could
    read it."""
    for address in addresses:
        known = _read(folder(environ) / _name(address))
        if known is not None and _lives(known):
            return known.context
    return None


@contextmanager
def told(environ: Mapping[str, str], addresses: Iterable[str], context: Context) -> Iterator[None]:
    """Known while the block runs, at all these addresses. Raises `Invalid` when it cannot be written."""
    own = LocalContext(process_id=os.getpid(), process_began=_began(os.getpid()), context=context)
    paths = [folder(environ) / _name(address) for address in addresses]
    _forget_ended(folder(environ))
    try:
        for path in paths:
            write_private(path, msgspec.json.encode(own).decode())
        yield
    finally:
        for path in paths:
            _remove(path, own)
        for place in (folder(environ), *folder(environ).parents[:2]):
            with suppress(OSError):  # it holds something else
                place.rmdir()


def _name(address: str) -> str:
    """Of the file; the names of this machine's loopback are one."""
    host, port = host_of(address), address.rpartition(":")[2]
    return f"{'127.0.0.1' if host == 'localhost' else host}_{port}.json".replace("/", "_")


def _read(path: Path) -> LocalContext | None:
    text = read_private(path, limit_bytes=_LIMIT_BYTES)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=LocalContext)
    except msgspec.DecodeError:
        return None  # of another version, or being written; whoever serves there writes it anew


def _lives(known: LocalContext) -> bool:
    return known.process_began == _began(known.process_id)


def _began(process_id: int) -> str:
    """Empty when there is no such process."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _remove(path: Path, own: LocalContext) -> None:
    with suppress(OSError, Invalid):
        if _read(path) == own:
            path.unlink()


def _forget_ended(place: Path) -> None:
    """What processes left that were killed."""
    for path in place.glob("*.json") if place.is_dir() else ():
        with suppress(OSError, Invalid):
            known = _read(path)
            if known is None or not _lives(known):
                path.unlink()
