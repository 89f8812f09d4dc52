"""Host ports of process tasks: which task has which, none given twice at the same time.

A port is set aside machine-wide by holding an abstract Unix socket of its name, which agents that share the machine
see and which vanishes with its process; the port itself stays free for the task to bind. New ones come from outside
the kernel's ephemeral range, where no outgoing connection can take them. Never listens on a port.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from common.errors import Conflict, Unavailable
from common.model.ids import Rng
from common.model.job import Port, Protocol, PublishMode
from common.model.task import PortBinding

FIRST_PORT = 20_000
"""Below lie the ports people publish on."""
LAST_PORT = 65_535
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

_KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


class PortAllocator:
    """See the module. `address` is where the node's ports are reached."""

    def __init__(self, address: str, rng: Rng) -> None:
        self._address = address
        self._rng = rng
        self._held: dict[str, tuple[PortBinding, ...]] = {}
        self._locks: dict[tuple[int, Protocol], socket.socket] = {}

    def reserve(self, task_id: str, ports: tuple[Port, ...]) -> tuple[PortBinding, ...]:
        """A host port for each port; the same answer for the same task until it is released.

        Raises `Conflict` when a port that must be a certain one is taken, `Unavailable` when none is free.
        """
        if task_id not in self._held:
            bindings: list[PortBinding] = []
            try:
                for port in ports:
                    bindings.append(self._bind(port))  # noqa: PERF401 - those before a refused one must be let go
            except BaseException:
                self._unlock(bindings)
                raise
            self._held[task_id] = tuple(bindings)
        return self._held[task_id]

    def adopt(self, task_id: str, bindings: tuple[PortBinding, ...]) -> None:
        """The task has these already, from before the agent's restart."""
        for binding in bindings:
            self._lock(binding.host_port, binding.protocol)
        self._held[task_id] = bindings

    def release(self, task_id: str) -> None:
        self._unlock(self._held.pop(task_id, ()))

    def close(self) -> None:
        """Let go of everything; tasks keep their ports by listening on them."""
        for task_id in list(self._held):
            self.release(task_id)

    def _bind(self, port: Port) -> PortBinding:
        if port.mode is PublishMode.HOST and port.published_port:
            if not self._take(port.published_port, port.protocol):
                taken = f"port {port.published_port}/{port.protocol.value} on {self._address}"
                raise Conflict(f"{taken} is taken by another task or program on this node")
            return self._binding(port, port.published_port)
        for number in self._candidates():
            if self._take(number, port.protocol):
                return self._binding(port, number)
        raise Unavailable(f"no port is free on {self._address}")

    def _binding(self, port: Port, number: int) -> PortBinding:
        return PortBinding(
            container_port=port.container_port,
            host_address=self._address,
            host_port=number,
            protocol=port.protocol,
        )

    def _candidates(self) -> Iterator[int]:
        """All ports once, from a random one on, those outside the ephemeral range first."""
        low, high = ephemeral_range()
        quiet = [*range(FIRST_PORT, low), *range(high + 1, LAST_PORT + 1)]
        for group in (quiet, range(max(low, FIRST_PORT), high + 1)):
            start = int(self._rng.random() * len(group))
            yield from (*group[start:], *group[:start])

    def _take(self, number: int, protocol: Protocol) -> bool:
        if not self._lock(number, protocol):
            return False
        free = False
        try:
            free = _is_free(self._address, number, protocol)
        finally:
            if not free:
                self._locks.pop((number, protocol)).close()
        return free

    def _lock(self, number: int, protocol: Protocol) -> bool:
        if (number, protocol) in self._locks:
            return False
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0podium-port/{self._address}/{number}/{protocol.value}")
        except OSError:
            lock.close()
            return False
        self._locks[number, protocol] = lock
        return True

    def _unlock(self, bindings: tuple[PortBinding, ...] | list[PortBinding]) -> None:
        for binding in bindings:
            lock = self._locks.pop((binding.host_port, binding.protocol), None)
            if lock is not None:
                lock.close()


def ephemeral_range() -> tuple[int, int]:
    """First and last port the kernel gives to outgoing connections."""
    try:
        low, high = _EPHEMERAL.read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32_768, 60_999  # Linux's default


def _is_free(address: str, number: int, protocol: Protocol) -> bool:
    """Whether a program could listen there now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, _KINDS[protocol]) as probe:
        if protocol is Protocol.TCP:
            # As servers do: connections of an earlier listener that are still dying do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
            if protocol is Protocol.TCP:
                probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise Unavailable(
                f"cannot use {address} for tasks' ports: {error.strerror}; is --advertise right?"
            ) from None
    return True
