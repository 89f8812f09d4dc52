"""Ports that tests may listen on: nobody listens there now, and nobody is given one of them meanwhile.

They lie below those that the kernel gives to outgoing connections and to whoever asks for port 0, and below those that
agents give to tasks: between the choice of a port and its use, minutes later perhaps, only a test could take it. Other
test processes of this machine see which are taken by abstract sockets, which vanish with their process.
"""

from __future__ import annotations

import random
import socket

_FIRST, _BEYOND = 10_000, 20_000
_held: list[socket.socket] = []
"""Until this process ends, so that no port is given out twice."""


def free_port() -> int:
    """One that no program listens on at any address of this machine, by TCP or UDP."""
    for port in random.sample(range(_FIRST, _BEYOND), _BEYOND - _FIRST):
        if _is_free(port) and _is_ours(port):
            return port
    raise AssertionError(f"no port from {_FIRST} to {_BEYOND - 1} is free")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]


def _is_ours(port: int) -> bool:
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0podium-tests/port/{port}")
    except OSError:
        holder.close()
        return False
    _held.append(holder)
    return True


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True
