"""What HAProxy does beyond the contract of all data planes: HTTP by host and path, TLS, its own metrics, reloads."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from agent.network.haproxy.config import Limits
from agent.network.haproxy.plane import HaproxyPlane
from agent.network.haproxy.program import PAYLOAD_BYTES, find_program
from agent.network.haproxy.site import Web
from agent.network.planes import choose_plane
from common.errors import Unavailable
from common.model.endpoint import Endpoint, Service
from common.model.job import HttpRoute
from tests.certificates import pair, self_signed
from tests.data_planes import HOST, Backend, Crowd, Watched, ask, service
from tests.ports import free_port
from tests.process_table import lives

pytestmark = pytest.mark.skipif(not find_program(), reason="haproxy is not installed")


class Rig:
    """A HAProxy with certificates, and tasks that answer with their name and what they were sent."""

    def __init__(self, directory: Path) -> None:
        self.certs = directory / "certs"
        self.certs.mkdir()
        self.web = Web(address=HOST, http_port=free_port(), https_port=free_port())
        self.directory = directory / "haproxy"
        self.memory = directory / "memory"
        self.plane = self.another_agent()
        self.watched = Watched(self.plane)
        self._runners: dict[int, web.AppRunner] = {}

    def another_agent(self) -> HaproxyPlane:
        return HaproxyPlane(self.directory, self.web, self.certs, random.Random(1), None, self.memory)

    async def task(self, name: str, port: int = 0) -> Endpoint:
        async def answer(request: web.Request) -> web.Response:
            forwarded = {key: request.headers[key] for key in request.headers if key.startswith("X-Forwarded")}
            return web.json_response({"task": name, "path": request.path, **forwarded})

        application = web.Application()
        application.router.add_route("*", "/{rest:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        port = runner.addresses[0][1]
        self._runners[port] = runner
        return Endpoint(task_id=name, slot=1, node_id="n", address=HOST, port=port)

    async def end(self, endpoint: Endpoint) -> None:
        await self._runners.pop(endpoint.port).cleanup()

    async def get(self, host: str, path: str = "/") -> tuple[int, dict[str, str]]:
        url = f"http://{HOST}:{self.web.http_port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers={"Host": host}, allow_redirects=False) as answer,
        ):
            if answer.status == 200:
                return 200, await answer.json()
            return answer.status, {"location": answer.headers.get("Location", "")}

    async def get_secure(self, host: str, path: str = "/") -> tuple[int, dict[str, str]]:
        reader, writer = await self.connect((self.certs / f"{host.partition('.')[0]}.pem").read_bytes(), host)
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), msgspec.json.decode(body, type=dict[str, str])

    async def connect(self, certificate: bytes, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client that trusts this certificate and no other. Raises `SSLError` when it is shown another."""
        context = ssl.create_default_context(cadata=certificate.partition(b"-----BEGIN PRIVATE")[0].decode())
        async with asyncio.timeout(10):
            return await asyncio.open_connection(HOST, self.web.https_port, ssl=context, server_hostname=host)

    async def close(self) -> None:
        await self.plane.close(stop=True)
        for runner in self._runners.values():
            await runner.cleanup()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    await made.plane.start()
    yield made
    await made.close()


def route(host: str, endpoint: Endpoint, path: str = "/", tls: str = "", job: str = "web") -> Service:
    return Service(
        namespace="shop",
        job=job,
        container_port=80,
        http=HttpRoute(host=host, path=path, tls=tls),
        endpoints=(endpoint,),
    )


async def test_requests_go_where_their_host_and_path_say(rig: Rig) -> None:
    shop, cart, blog = [await rig.task(name) for name in ("shop", "cart", "blog")]
    services = route("shop.test", shop), route("shop.test", cart, "/cart", job="cart"), route("blog.test", blog)
    await rig.plane.apply(1, services)
    asked = [("shop.test", "/"), ("SHOP.test:80", "/cart/1"), ("shop.test", "/cart"), ("shop.test", "/carts")]
    assert [(await rig.get(*one))[1]["task"] for one in asked] == ["shop", "cart", "cart", "shop"]
    assert (await rig.get("blog.test", "/x"))[1]["path"] == "/x"
    assert (await rig.get("other.test"))[0] == 404
    state = await rig.watched.until(lambda state: sum(state.requests.values()) == 5)
    assert state.requests == {"shop/web": 3, "shop/cart": 2}
    assert state.connections == state.requests


async def test_the_client_and_what_it_spoke_are_told_in_headers(rig: Rig) -> None:
    self_signed(rig.certs / "shop.pem", "shop.test")
    task = await rig.task("shop")
    await rig.plane.apply(1, (route("shop.test", task, tls="shop"), route("plain.test", task, job="plain")))
    told = {"X-Forwarded-For": HOST, "X-Forwarded-Proto": "https"}
    status, answer = await rig.get_secure("shop.test", "/x")
    assert (status, answer) == (200, {"task": "shop", "path": "/x", **told})
    assert (await rig.get("plain.test"))[1]["X-Forwarded-Proto"] == "http"


async def test_what_asks_for_tls_is_never_served_without(rig: Rig) -> None:
    self_signed(rig.certs / "shop.pem", "shop.test")
    await rig.plane.apply(1, (route("shop.test", await rig.task("shop"), "/cart", tls="shop"),))
    status, answer = await rig.get("shop.test", "/cart/1?x=2")
    assert (status, answer["location"]) == (308, f"https://shop.test:{rig.web.https_port}/cart/1?x=2")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("", "there is neither gone.pem nor gone.crt with gone.key"),
        ("other.test", "it is for other.test, not for gone.test"),
        ("key of another", "the private key belongs to another certificate"),
        ("not PEM", "it holds no certificate in PEM"),
        ("no key", "it holds no private key in PEM"),
    ],
)
async def test_a_certificate_that_cannot_be_served_disturbs_no_other_host(rig: Rig, file: str, text: str) -> None:
    self_signed(rig.certs / "shop.pem", "shop.test")
    whole = self_signed(rig.certs / "spare.pem", "gone.test").read_text()
    chain, mark, _ = whole.partition("-----BEGIN PRIVATE")
    content = {
        "": None,
        "other.test": self_signed(rig.certs / "other.pem", "other.test").read_text(),
        "key of another": chain + mark + (rig.certs / "shop.pem").read_text().split(mark)[1],
        "not PEM": "nonsense",
        "no key": chain,
    }[file]
    if content is not None:
        (rig.certs / "gone.pem").write_text(content)
    task = await rig.task("shop")
    await rig.plane.apply(1, (route("shop.test", task, tls="shop"), route("gone.test", task, tls="gone", job="gone")))
    (problem,) = (await rig.watched.until(lambda state: state.revision == 1)).problems
    assert problem.service == "gone.test/"
    assert problem.text.startswith("gone.test/ of shop/gone: cannot be served: certificate gone: ")
    assert text in problem.text
    assert (await rig.get_secure("shop.test"))[0] == 200
    assert (await rig.get("gone.test"))[0] == 404
    (rig.certs / "gone.pem").write_text(whole)
    await rig.watched.until(lambda state: not state.problems)
    assert (await rig.get_secure("gone.test"))[0] == 200


def secret_route(host: str, endpoint: Endpoint, digest: str, job: str = "web") -> Service:
    return msgspec.structs.replace(route(host, endpoint, tls="cert", job=job), certificate=digest)


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> int:
    """The status of one more request over a connection that stays."""
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
    return int(head.split()[1])


async def test_a_secret_is_shown_and_renewed_without_a_reload_or_a_connection_lost(rig: Rig) -> None:
    old, new = pair("shop.test"), pair("shop.test")
    self_signed(rig.certs / "cert.pem", "shop.test")  # the node's own comes second
    task = await rig.task("shop")
    await rig.plane.apply(1, (secret_route("shop.test", task, "d1"),))
    (problem,) = (await rig.watched.until(lambda state: state.revision == 1)).problems
    assert "certificate cert: it is a secret that no controller has sent yet" in problem.text
    await rig.plane.apply(1, (secret_route("shop.test", task, "d1"),), {"d1": b"Bag\n\nshow env\n\n" + old})
    reader, writer = await rig.connect(old, "shop.test")
    assert await asked(reader, writer, "shop.test") == 200
    worker = rig.plane.worker
    await rig.plane.apply(2, (secret_route("shop.test", task, "d2"),))  # the new one has not come: the old one stays
    assert rig.watched.last.problems == ()
    await rig.plane.apply(2, (secret_route("shop.test", task, "d2"),), {"d2": new})
    assert rig.plane.worker == worker
    (await rig.connect(new, "shop.test"))[1].close()
    with pytest.raises(ssl.SSLError):
        await rig.connect(old, "shop.test")
    assert await asked(reader, writer, "shop.test") == 200
    writer.close()
    (file,) = rig.memory.iterdir()
    assert (file.name, file.stat().st_mode & 0o777, rig.memory.stat().st_mode & 0o777) == (
        *("shop.cert.pem", 0o400, 0o700),
    )
    key = new.splitlines()[-3]
    assert not [one for one in rig.directory.rglob("*") if one.is_file() and key in one.read_bytes()]


async def test_a_secret_outlives_the_agent_and_haproxy_but_not_the_machine(rig: Rig) -> None:
    secret = pair("shop.test")
    services = (
        secret_route("shop.test", await rig.task("shop"), "d1"),
        route("plain.test", await rig.task("x"), job="x"),
    )
    await rig.plane.apply(1, services, {"d1": secret})
    await rig.plane.close(stop=False)
    again = rig.plane = rig.another_agent()
    await again.start()
    watched, worker = Watched(again), again.worker
    await again.apply(2, services)  # no controller has said what is in it
    assert again.worker == worker
    os.kill(again.pid, signal.SIGKILL)
    await watched.until(lambda _: again.worker != worker)
    (await rig.connect(secret, "shop.test"))[1].close()
    await again.close(stop=False)
    os.kill(again.pid, signal.SIGKILL)  # the machine goes down; memory is empty when it is back
    for file in rig.memory.iterdir():
        file.unlink()
    after = rig.plane = rig.another_agent()
    await after.start()
    assert (await rig.get("plain.test"))[0] == 200
    assert (await rig.get("shop.test"))[0] == 308
    await after.apply(3, services, {"d1": secret})
    (await rig.connect(secret, "shop.test"))[1].close()


async def test_a_certificate_that_haproxy_does_not_take_disturbs_no_other(rig: Rig) -> None:
    """It is whole, but its key is one that nobody trusts any more: HAProxy knows which those are."""
    good, weak = pair("shop.test"), pair("weak.test", curve=ec.SECP192R1())
    task = await rig.task("shop")
    both = secret_route("shop.test", task, "d1"), route("weak.test", task, tls="weak", job="weak")
    (rig.certs / "weak.pem").write_bytes(weak)
    await rig.plane.apply(1, both, {"d1": good})
    (await rig.connect(good, "shop.test"))[1].close()
    (problem,) = (await rig.watched.until(lambda state: state.revision == 1)).problems
    assert problem.service == "weak.test/"
    assert "HAProxy refuses" in problem.text


async def test_one_that_is_too_large_for_a_command_is_shown_by_a_reload(rig: Rig) -> None:
    task, long = await rig.task("shop"), pair("shop.test", *(f"host-{number}.shop.test" for number in range(600)))
    assert len(long) > PAYLOAD_BYTES
    await rig.plane.apply(1, (secret_route("shop.test", task, "d1"),), {"d1": pair("shop.test")})
    worker = rig.plane.worker
    await rig.plane.apply(2, (secret_route("shop.test", task, "d2"),), {"d2": long})
    assert rig.plane.worker != worker
    (await rig.connect(long, "shop.test"))[1].close()


async def test_jobs_that_sleep_leave_the_others_half_of_the_connections(tmp_path: Path) -> None:
    """Beyond its limit HAProxy takes none at all, for whomever."""
    few = Limits(connections=100, threads=1)
    web_ = Web(address=HOST, http_port=free_port(), https_port=free_port())
    plane = HaproxyPlane(tmp_path / "haproxy", web_, None, random.Random(1), limits=few)
    await plane.start()
    watched, one, ports = Watched(plane), await Backend("one").start(), [free_port() for _ in range(3)]
    asleep = [service(port, wake_wait_s=60.0, job=f"asleep-{port}") for port in ports[:2]]
    await plane.apply(1, (*asleep, service(ports[2], one)))
    with Crowd(ports[0], 60) as first, Crowd(ports[1], 60) as second:
        await first.come()
        await second.come()
        await watched.until(lambda state: sum(state.parked.values()) == 50 and sum(state.refused.values()) == 70)
        assert await ask(ports[2]) == b"one hello\n"
    one.stop()
    await plane.close(stop=True)


async def test_its_own_metrics_are_for_monitoring(rig: Rig) -> None:
    await rig.plane.apply(1, (route("shop.test", await rig.task("t1")),))
    await rig.get("shop.test")
    text = (await rig.plane.metrics()).decode()
    assert 'haproxy_backend_http_responses_total{proxy="shop.test_' in text
    assert "t1" not in text  # tasks come and go


async def test_endpoints_come_and_go_without_a_reload(rig: Rig) -> None:
    one, two = await rig.task("one"), await rig.task("two")
    await rig.plane.apply(1, (route("shop.test", one),))
    worker = rig.plane.worker
    await rig.plane.apply(2, (route("shop.test", two),))
    assert (await rig.get("shop.test"))[1]["task"] == "two"
    assert rig.plane.worker == worker
    written = (rig.directory / "haproxy.cfg").read_text()
    assert f" {HOST}:{two.port} " in written
    assert f" {HOST}:{one.port} " not in written


async def test_a_file_that_was_damaged_is_no_reason_not_to_serve(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.directory.mkdir()
    (rig.directory / "haproxy.cfg").write_text("nonsense")
    await rig.plane.start()
    await rig.plane.apply(1, (route("shop.test", await rig.task("one")),))
    assert (await rig.get("shop.test"))[1]["task"] == "one"
    await rig.close()


async def test_a_node_changes_from_one_proxy_to_the_other_and_back(tmp_path: Path) -> None:
    web_ = Web(address=HOST, http_port=free_port(), https_port=free_port())
    task, port, before = await Backend("task").start(), free_port(), 0
    for revision, proxy in enumerate(("relay", "haproxy", "relay"), start=1):
        plane = await choose_plane(proxy, tmp_path, web_, None, random.Random(1))
        assert plane.name == proxy
        await plane.start()
        await plane.apply(revision, (service(port, task),))
        assert await ask(port) == b"task hello\n"
        if proxy == "relay":
            assert not before or not lives(before)
        before = plane.pid
        await plane.close(stop=revision == 3)
    task.stop()


async def test_an_endpoint_that_refuses_is_left_out_and_let_in_again(rig: Rig) -> None:
    good, bad = await rig.task("good"), await rig.task("bad")
    both = msgspec.structs.replace(route("shop.test", good), endpoints=(good, bad))
    await rig.plane.apply(1, (both,))
    await rig.end(bad)
    async with asyncio.timeout(10):
        while not rig.plane.left_out:
            assert (await rig.get("shop.test"))[1]["task"] == "good"
    await rig.task("bad", bad.port)
    async with asyncio.timeout(20):
        while (await rig.get("shop.test"))[1]["task"] != "bad":
            pass


async def test_a_dead_worker_is_replaced(rig: Rig) -> None:
    await rig.plane.apply(1, (route("shop.test", await rig.task("one")),))
    worker = rig.plane.worker
    os.kill(worker, signal.SIGKILL)
    await rig.watched.until(lambda _: rig.plane.worker != worker)
    assert (await rig.get("shop.test"))[1]["task"] == "one"


def test_it_starts_reloads_and_ends_on_the_event_loop_of_agents(tmp_path: Path) -> None:
    async def life() -> None:
        made = Rig(tmp_path)
        async with asyncio.timeout(40):
            await made.plane.start()
            await made.plane.apply(1, (route("shop.test", await made.task("one")),))
            assert (await made.get("shop.test"))[1]["task"] == "one"
            await made.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life())


async def test_a_disk_that_takes_nothing_keeps_what_is_served(rig: Rig) -> None:
    one = await rig.task("one")
    await rig.plane.apply(1, (route("shop.test", one),))
    in_the_way = rig.directory / "haproxy.cfg.new"
    in_the_way.mkdir()
    with pytest.raises(Unavailable, match="cannot be written"):
        await rig.plane.apply(2, (route("shop.test", one), route("blog.test", one, job="blog")))
    assert (await rig.get("shop.test"))[0] == 200
    in_the_way.rmdir()
    await rig.plane.apply(2, (route("shop.test", one), route("blog.test", one, job="blog")))
    assert (await rig.get("blog.test"))[0] == 200
