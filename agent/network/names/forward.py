"""Asks other servers for the names that are not ours: those that were given, or the machine's own, in their order."""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path

log = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""For one server; those who ask wait five seconds as a rule, and there is a next one."""
SERVERS_LIMIT = 3
"""As the C library has it."""
AT_ONCE_LIMIT = 256
"""Questions that are under way at a time; who comes when there are more is told to try again."""

_MACHINE = Path("/etc/resolv.conf")
_PORT = 53
_HEADER_BYTES = 12
_LARGEST_BYTES = 65_535


class Forwarder:
    """See the module. Never asks `own`, where we answer ourselves."""

    def __init__(self, given: tuple[str, ...], own: tuple[str, int], machine: Path = _MACHINE) -> None:
        self._given = given
        self._own = own
        self._machine = machine
        self._under_way = 0

    async def ask(self, query: bytes, *, stream: bool) -> bytes | None:
        """What the first server says that says something; None when none does, or too many ask at once.

        The question goes out under another number and from another port each time, so that nobody can guess them and
        answer in a server's place.
        """
        if self._under_way >= AT_ONCE_LIMIT:
            return None
        self._under_way += 1
        try:
            disguised = secrets.token_bytes(2) + query[2:]
            for server in self._servers():
                answer = await _patiently(server, disguised, stream=stream)
                if answer is not None:
                    return query[:2] + answer[2:]
            return None
        finally:
            self._under_way -= 1

    def _servers(self) -> list[tuple[str, int]]:
        servers = [_place(text) for text in self._given or machine_servers(self._machine)]
        return [server for server in servers if server != self._own][:SERVERS_LIMIT]


def machine_servers(path: Path = _MACHINE) -> tuple[str, ...]:
    """The `nameserver` lines of the machine's resolver configuration; read each time, since networks change."""
    return tuple(words[0] for words in _lines(path, "nameserver"))


def machine_search(path: Path = _MACHINE) -> tuple[str, ...]:
    """The domains in which the machine looks for short names."""
    lists = _lines(path, "search") or _lines(path, "domain")
    return tuple(lists[-1]) if lists else ()


def _lines(path: Path, keyword: str) -> list[list[str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [line[1:] for line in words if len(line) > 1 and line[0] == keyword]


def _place(text: str) -> tuple[str, int]:
    """`address`, `address:port` or `[address]:port`."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        return address, int(port.removeprefix(":") or _PORT)
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        return address, int(port)
    return text, _PORT


async def _patiently(server: tuple[str, int], query: bytes, *, stream: bool) -> bytes | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await (_over_stream(server, query) if stream else _over_datagrams(server, query))
    except (OSError, EOFError, TimeoutError) as error:
        log.debug("name server %s says nothing: %r", server, error)
        return None


class _Awaiting(asyncio.DatagramProtocol):
    """Takes the first datagram that is an answer to the question."""

    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and answers(data, self._query):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _over_datagrams(server: tuple[str, int], query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, awaiting = await loop.create_datagram_endpoint(lambda: _Awaiting(query), remote_addr=server)
    try:
        transport.sendto(query)
        return await awaiting.answer
    finally:
        transport.close()


async def _over_stream(server: tuple[str, int], query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
    if not answers(answer, query):
        raise OSError("its answer is to another question")
    return answer


def answers(data: bytes, query: bytes) -> bool:
    """Whether `data` answers `query`: it is a response with its number and its question, where it repeats that."""
    if len(data) < _HEADER_BYTES or data[:2] != query[:2] or not data[2] & 0x80:
        return False
    repeated = int.from_bytes(data[4:6], "big")
    asked = _question(query)
    return not repeated or data[_HEADER_BYTES : _HEADER_BYTES + len(asked)].lower() == asked.lower()


def _question(query: bytes) -> bytes:
    """The bytes of the one question, which is not compressed: nothing stands before it."""
    at = _HEADER_BYTES
    while at < len(query) and query[at]:
        at += query[at] + 1
    return query[_HEADER_BYTES : at + 5]
