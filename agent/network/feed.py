"""What agent and relay say to each other over the relay's local socket: one JSON value per line, both ways.

The agent sends `Feed` (everything, each time) and `Quit`; the relay answers with `RelayState` when it connects and at
every change. The last feed also lies on the relay's disk, so that a relay that starts alone serves what was known.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from agent.core.names import Names
from agent.network.interface import Listener
from common.model.endpoint import Service, TrafficProblem

PROTOCOL = 3
"""Raised when these messages change meaning; an agent replaces a relay that speaks another one."""

LINE_LIMIT_BYTES = 64 * 1024 * 1024
"""One feed of 100,000 endpoints is about 15 MiB; a longer line is not ours."""

SOCKET, STATE, PID, LOG = "relay.sock", "relay.json", "relay.pid", "relay.log"


class Feed(msgspec.Struct, frozen=True, kw_only=True, tag="feed"):
    """Serve exactly these services at these places, from now on."""

    revision: int
    services: tuple[Service, ...] = ()
    """Also those that have a name here and are carried by another program."""
    listeners: tuple[Listener, ...] = ()
    names: Names | None = None
    """Answer names; None: no."""


class Quit(msgspec.Struct, frozen=True, kw_only=True, tag="quit"):
    """End, closing every connection and removing the relay's files."""


Order: TypeAlias = Feed | Quit


class RelayState(msgspec.Struct, frozen=True, kw_only=True):
    protocol: int = PROTOCOL
    pid: int
    revision: int
    """Of the feed that is carried out; -1 before the first."""
    draining: tuple[str, ...] = ()
    """Task ids of withdrawn endpoints that still carry connections."""
    problems: tuple[TrafficProblem, ...] = ()
    connections: dict[str, int] = {}
    """Accepted so far, by job name."""
    open: dict[str, int] = {}
    parked: dict[str, int] = {}
    refused: dict[str, int] = {}
    wanted: tuple[str, ...] = ()
    """These four as in `DataPlaneState`."""


@contextmanager
def socket_path(directory: Path, name: str = SOCKET) -> Iterator[str]:
    """A path of a socket in `directory` that is short enough for the kernel, whatever the directory's length.

    A Unix socket's path may have 107 bytes; a data directory may have more. The kernel resolves `/proc/self/fd/N` of an
    open directory like the directory itself.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
