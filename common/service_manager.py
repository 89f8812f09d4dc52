"""What systemd is told of a process that serves (`Type=notify`): that it is ready, how it fares, that its event loop
turns, that it stops. Owns the datagrams of sd_notify(3); what ready means is the caller's, what to do about silence is
the service manager's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import TypeAlias

import msgspec

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often is looked for readiness until it is there."""
LOOK_AGAIN_S = 5.0
"""How often is looked for a text that changed afterwards: `systemctl status` shows it."""
START_EXTENSION_S = 30.0
"""A process that turns but waits (etcd is away, nobody leads) asks for this much more time with each look. One that
hangs asks for nothing, and the start time-out ends it."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How a process fares."""

    ready: bool
    """Once true, the start is over; later ones only change the text."""
    text: str


Look: TypeAlias = Callable[[], Awaitable[Condition]]
Beside: TypeAlias = Callable[[Look], Coroutine[None, None, None]]
"""Runs beside what serves, until cancelled, and may look at how that fares."""


class ServiceManager:
    """The one that started this process and waits for its word. `watchdog_s`: longest silence it bears, None: any."""

    def __init__(self, send: Callable[[bytes], None], watchdog_s: float | None = None) -> None:
        self._send = send
        self._watchdog_s = watchdog_s

    @classmethod
    def of(cls, environ: MutableMapping[str, str], pid: int) -> ServiceManager | None:
        """Who asks to be told, by the environment of process `pid`; None when nobody does.

        Takes the variables away: what this process starts has nothing to say in its name.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", str(pid)) == str(pid)
        if not address.startswith(("/", "@")):
            return None
        watchdog_s = int(watchdog_us) / 1e6 if watched and watchdog_us.isdecimal() else 0.0
        return cls(_sender(address), watchdog_s or None)

    async def accompany(self, look: Look, stop: asyncio.Event) -> None:
        """Until cancelled: say when `look` finds it ready, how it fares, that the loop turns, that `stop` is set."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._say_stopping(stop))
            group.create_task(self._report(look))
            if self._watchdog_s is not None:
                group.create_task(self._turn(self._watchdog_s / 2))

    async def _say_stopping(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._tell("STOPPING=1")

    async def _turn(self, interval_s: float) -> None:
        """A ping of the loop's own: one that is stuck sends none, which is the point."""
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    async def _report(self, look: Look) -> None:
        while not (condition := await look()).ready:
            self._tell(f"STATUS={condition.text}", f"EXTEND_TIMEOUT_USEC={START_EXTENSION_S * 1e6:.0f}")
            await asyncio.sleep(LOOK_S)
        self._tell(f"STATUS={condition.text}", "READY=1")
        said = condition.text
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            text = (await look()).text
            if text != said:
                said = text
                self._tell(f"STATUS={said}")

    def _tell(self, *assignments: str) -> None:
        lines = (" ".join(assignment.splitlines()) for assignment in assignments)
        self._send("\n".join(lines).encode())


def beside(stop: asyncio.Event) -> Beside | None:
    """What runs beside this process's work when systemd asks how it fares."""
    manager = ServiceManager.of(os.environ, os.getpid())
    return None if manager is None else lambda look: manager.accompany(look, stop)


def _sender(address: str) -> Callable[[bytes], None]:
    """Sends datagrams there and never waits: a service manager that reads nothing must not hold up what it manages."""
    # A name that begins with @ is abstract: it is in no file system, and its first byte is zero.
    name = f"\0{address[1:]}" if address.startswith("@") else address
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK

    def send(datagram: bytes) -> None:
        try:
            with socket.socket(socket.AF_UNIX, kind) as channel:
                channel.sendto(datagram, name)
        except OSError as error:
            logger.debug("systemd was not told %r: %s", datagram, error)

    return send
