"""How jobs find each other on one node, whichever program carries their traffic: with real processes and sockets."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import msgspec
import pytest

from agent.network.haproxy.plane import HaproxyPlane
from agent.network.haproxy.program import find_program
from agent.network.haproxy.site import Web
from agent.network.interface import DataPlane
from agent.network.names.book import AddressBook
from agent.network.names.place import open_book
from agent.network.planes import BesideRelay
from agent.network.relay_plane import RelayPlane
from common.model.endpoint import Service
from tests.data_planes import HOST, Backend, Watched, ask
from tests.ports import free_port

PORT = 8080
"""Of the job's containers: at an address of its own nobody else can have it."""


class Node:
    """A data plane with names, and somebody who asks."""

    def __init__(self, plane: DataPlane, book: AddressBook, relay: RelayPlane, upstream: Upstream) -> None:
        self.plane = plane
        self.book = book
        self.relay = relay
        self.upstream = upstream
        self.backends: list[Backend] = []

    async def backend(self, name: str) -> Backend:
        self.backends.append(await Backend(name).start())
        return self.backends[-1]

    async def ask(self, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        way = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        names = self.book.names
        return await way(query, names.resolver, timeout=20, port=names.resolver_port)

    async def addresses(self, name: str) -> list[str]:
        return [record.to_text() for answer in (await self.ask(name)).answer for record in answer]


class Upstream(asyncio.DatagramProtocol):
    """The machine's own name server: knows that everything is at 192.0.2.1, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text()
        self.asked.append(name)
        answer = dns.message.make_response(query)
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.1"))
        assert self.transport is not None
        self.transport.sendto(answer.to_wire(), addr)


def relay(directory: Path, book: AddressBook) -> tuple[DataPlane, RelayPlane]:
    plane = RelayPlane(directory, HOST, random.Random(1), book)
    return plane, plane


def haproxy(directory: Path, book: AddressBook) -> tuple[DataPlane, RelayPlane]:
    web = Web(address=HOST, http_port=free_port(), https_port=free_port())
    proxy = HaproxyPlane(directory, web, None, random.Random(1), book)
    beside = RelayPlane(directory / "relay", HOST, random.Random(1), book, datagrams_only=True)
    return BesideRelay(proxy, beside, names=True), beside


needs_haproxy = pytest.mark.skipif(not find_program(), reason="haproxy is not installed")


@pytest.fixture(params=[pytest.param(relay, id="relay"), pytest.param(haproxy, id="haproxy", marks=needs_haproxy)])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    make: Callable[[Path, AddressBook], tuple[DataPlane, RelayPlane]] = request.param
    upstream, where = Upstream(), free_port()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: upstream, local_addr=(HOST, where))
    book = open_book("auto", tmp_path, HOST, containers=False, forwarders=(f"{HOST}:{where}",))
    assert book is not None
    plane, beside = make(tmp_path / "network", book)
    await plane.start()
    node = Node(plane, book, beside, upstream)
    yield node
    await plane.close(stop=True)
    book.close(stop=True)
    transport.close()
    for backend in node.backends:
        backend.stop()


def job(name: str, *backends: Backend, aliases: tuple[str, ...] = ()) -> Service:
    """Not published; its slots count from 1."""
    return Service(
        namespace="shop",
        job=name,
        container_port=PORT,
        endpoints=tuple(backend.endpoint_of(slot) for slot, backend in enumerate(backends, start=1)),
        aliases=aliases,
    )


async def test_jobs_find_each_other_by_name_and_slot(node: Node) -> None:
    one, two, other = [await node.backend(name) for name in ("one", "two", "other")]
    await node.plane.apply(1, (job("web", one, two, aliases=("www",)), job("db", other)))
    (web,), (db,) = await node.addresses("web"), await node.addresses("db.shop.podium")
    assert [await node.addresses(name) for name in ("WEB.Shop", "www.shop.podium", "web.shop.podium")] == [[web]] * 3
    assert {await ask(PORT, at=web) for _ in range(4)} == {b"one hello\n", b"two hello\n"}
    assert await ask(PORT, at=db) == b"other hello\n"
    (second,) = await node.addresses("2.web.shop.podium")
    assert {await ask(PORT, at=second) for _ in range(4)} == {b"two hello\n"}
    assert node.upstream.asked == []


async def test_the_ports_of_slots_are_told_to_who_chooses_for_himself(node: Node) -> None:
    await node.plane.apply(1, (job("web", await node.backend("one"), await node.backend("two")),))
    (answer,) = (await node.ask("web.shop.podium", "SRV")).answer
    assert {record.to_text() for record in answer} == {f"0 1 {PORT} {slot}.web.shop.podium." for slot in (1, 2)}
    (answer,) = (await node.ask("2.web.shop.podium", "SRV")).answer
    assert [record.to_text() for record in answer] == [f"0 1 {PORT} 2.web.shop.podium."]


async def test_an_answer_too_long_for_a_datagram_comes_over_tcp(node: Node) -> None:
    endpoints = tuple(Backend(f"t{slot}").endpoint_of(slot) for slot in range(1, 201))
    await node.plane.apply(1, (msgspec.structs.replace(job("web"), endpoints=endpoints),))
    assert (await node.ask("web.shop", "SRV")).flags & dns.flags.TC
    (answer,) = (await node.ask("web.shop", "SRV", tcp=True)).answer
    assert len(answer) == 200


async def test_what_is_no_job_is_asked_of_others_and_what_would_be_is_not(node: Node) -> None:
    await node.plane.apply(1, (job("web", await node.backend("one")),))
    assert await node.addresses("example.com") == ["192.0.2.1"]
    assert node.upstream.asked == ["example.com."]
    nobody = await node.ask("nobody.shop.podium")
    assert (nobody.rcode(), len(nobody.authority)) == (dns.rcode.NXDOMAIN, 1)
    sixth = await node.ask("web.shop.podium", "AAAA")
    assert (sixth.rcode(), sixth.answer) == (dns.rcode.NOERROR, [])
    assert node.upstream.asked == ["example.com."]


async def test_names_follow_their_jobs_and_an_address_stays(node: Node) -> None:
    one = await node.backend("one")
    await node.plane.apply(1, (job("web", one),))
    (before,), (slot,) = await node.addresses("web.shop.podium"), await node.addresses("1.web.shop.podium")
    two = await node.backend("two")
    await node.plane.apply(2, (job("web", two),))
    assert await node.addresses("web.shop.podium") == [before]
    assert (await ask(PORT, at=before), await ask(PORT, at=slot)) == (b"two hello\n", b"two hello\n")
    await node.plane.apply(3, (job("web"),))
    assert await node.addresses("web.shop.podium") == [before]  # connections wait there for somebody to answer
    await node.plane.apply(4, ())
    assert (await node.ask("web.shop.podium")).rcode() == dns.rcode.NXDOMAIN


async def test_names_need_no_agent(node: Node) -> None:
    """The process that answers them is killed while nobody is there, and found again by the next agent."""
    await node.plane.apply(1, (job("web", await node.backend("one")),))
    before = await node.addresses("web.shop.podium")
    await node.plane.close(stop=False)
    assert await node.addresses("web.shop.podium") == before
    assert await ask(PORT, at=before[0]) == b"one hello\n"
    os.kill(node.relay.pid, signal.SIGKILL)
    watched = Watched(node.plane)
    await node.plane.start()
    await watched.until(lambda state: state.revision == 1)  # what lay on the disk, of its own accord
    assert await node.addresses("web.shop.podium") == before
