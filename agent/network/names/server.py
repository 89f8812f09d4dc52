"""The node's DNS server: takes questions over UDP and TCP, answers those about jobs, and passes the others on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from agent.core.names import Names
from agent.network.names import answers
from agent.network.names.answers import Question
from agent.network.names.forward import Forwarder
from agent.network.names.zone import Empty, Foreign, Meant, Unknown, Zone
from common.model.endpoint import Service

log = logging.getLogger(__name__)

QUESTIONS_LIMIT = 512
"""That wait for something at a time; more are dropped, and asked again by whoever asked."""
STREAMS_LIMIT = 64
"""Connections at a time; TCP is for the few answers that are too long."""
STREAM_IDLE_S = 5.0

SlotAddress: TypeAlias = Callable[[str, int], Awaitable[str]]
"""Where one slot of a job (`namespace/name`) is reached; empty when there is no room."""


class NameServer:
    """See the module. `offer` says what there is; it listens as long as that has names."""

    def __init__(self, slot_address: SlotAddress) -> None:
        self._slot_address = slot_address
        self._zone = Zone()
        self._where: tuple[str, int] | None = None
        self._forwarders: tuple[str, ...] = ()
        self._forwarder = Forwarder((), ("", 0))
        self._datagrams: asyncio.DatagramTransport | None = None
        self._streams: asyncio.Server | None = None
        self._waiting: set[asyncio.Task[None]] = set()
        self._open = 0

    async def offer(self, services: tuple[Service, ...], names: Names | None) -> str:
        """Answer for these from now on. Returns why that cannot be done, to be tried again; empty when it can."""
        self._zone = Zone(services, names)
        if names is None:
            self.close()
            return ""
        where = names.resolver, names.resolver_port
        if self._forwarders != names.forwarders or self._where != where:
            self._forwarder = Forwarder(names.forwarders, where)
            self._forwarders = names.forwarders
        return await self._listen(where)

    def close(self) -> None:
        if self._datagrams is not None:
            self._datagrams.close()
        if self._streams is not None:
            self._streams.close()
        self._datagrams = self._streams = self._where = None

    async def _listen(self, where: tuple[str, int]) -> str:
        if where == self._where:
            return ""
        self.close()
        loop = asyncio.get_running_loop()
        try:
            self._datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=where)
            self._streams = await asyncio.start_server(self._serve_stream, *where)
        except OSError as error:
            self.close()
            return f"names are not answered on {where[0]}, port {where[1]}: {error.strerror or error}"
        self._where = where
        log.info("names are answered on %s, port %d", *where)
        return ""

    # --- over UDP

    def take(self, query: bytes, asker: tuple[str, int]) -> None:
        """A datagram came."""
        question = answers.read(query)
        match question:
            case None:
                pass
            case bytes():
                self._send(question, asker)
            case Question():
                if len(self._waiting) < QUESTIONS_LIMIT:
                    task = asyncio.get_running_loop().create_task(self._reply(question, query, asker))
                    self._waiting.add(task)
                    task.add_done_callback(self._waiting.discard)

    async def _reply(self, question: Question, query: bytes, asker: tuple[str, int]) -> None:
        self._send(await self._answer(question, query, question.limit_bytes, stream=False), asker)

    def _send(self, answer: bytes, asker: tuple[str, int]) -> None:
        if self._datagrams is not None:
            self._datagrams.sendto(answer, asker)

    # --- over TCP

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= STREAMS_LIMIT:
            writer.close()
            return
        self._open += 1
        try:
            while True:
                async with asyncio.timeout(STREAM_IDLE_S):
                    query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                answer = await self._answer_stream(query)
                if not answer:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(STREAM_IDLE_S):
                    await writer.drain()
        except (OSError, EOFError, TimeoutError):
            return
        finally:
            self._open -= 1
            writer.close()

    async def _answer_stream(self, query: bytes) -> bytes | None:
        question = answers.read(query)
        if isinstance(question, Question):
            return await self._answer(question, query, answers.STREAM_BYTES, stream=True)
        return question

    # --- answers

    async def _answer(self, question: Question, query: bytes, limit_bytes: int, *, stream: bool) -> bytes:
        found = self._zone.find(question.labels)
        match found:
            case Meant():
                address = await self._address(found)
                if address:
                    return answers.tell(question, found, address, limit_bytes=limit_bytes)
                return answers.fail(question)
            case Empty() | Unknown():
                return answers.tell_nothing(question, exists=isinstance(found, Empty), limit_bytes=limit_bytes)
            case Foreign():
                return await self._forwarder.ask(query, stream=stream) or answers.fail(question)

    async def _address(self, meant: Meant) -> str:
        if meant.slot is None:
            return meant.job.address
        return await self._slot_address(meant.job.job_name, meant.slot)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.take(data, addr)
