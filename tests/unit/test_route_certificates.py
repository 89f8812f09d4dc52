"""Certificates of routes that are secrets: what may be one, when another is shown, and which nodes get it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from agent.asset_requests import AssetAsker
from agent.route_certificates import RouteCertificates
from common.errors import Conflict, Invalid
from common.model.api import ApplyRequest
from common.model.asset import AssetKind
from common.model.asset_calls import ListAssets, PutAsset, PutHow, RemoveAsset
from common.model.endpoint import Service
from common.model.job import HttpRoute, JobSpec, Port
from common.model.node import NodeDescription
from common.model.session import AssetContent, AssetRequest, Endpoints
from common.route_certificates import check_host, plain_pem, read_pair
from controller.dispatcher.assets import AssetGiver
from controller.state import State
from tests.api_rig import Api
from tests.certificates import pair
from tests.dispatcher_rig import Agent, Rig, description, rig, web_spec
from tests.unit.test_asset_service import AssetsService, serving
from tests.unit.test_assets import VAULT

SECRET = AssetKind.SECRET
DAY_S = 86_400.0
GOOD = pair("shop.test", "*.shop.test")
CHAIN = GOOD.partition(b"-----BEGIN PRIVATE")[0]


def routed(*hosts: str, name: str = "web", namespace: str = "shop") -> JobSpec:
    port = Port(container_port=80, http=tuple(HttpRoute(host=host, tls="cert") for host in hosts))
    return msgspec.structs.replace(web_spec(name, ports=(port,)), namespace=namespace)


def given(content: bytes = GOOD, how: PutHow = PutHow.CREATE, namespace: str = "shop") -> PutAsset:
    return PutAsset(kind=SECRET, namespace=namespace, asset="cert", content=content, how=how)


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[Api, AssetsService]]:
    async with serving() as (a, service):
        a.rig.now_s = time.time()  # certificates are made with the machine's clock
        yield a, service


async def up(a: Api, *specs: JobSpec) -> tuple[str, ...]:
    return (await a.jobs.apply(ApplyRequest(namespace=specs[0].namespace, specs=specs))).warnings


def published(a: Api) -> dict[str, str]:
    """By route, the digest of the certificate that nodes are told of."""
    board = a.rig.dispatcher._board
    board.publish()
    return {service.key: service.certificate for service in board.public_services()}


# --- what may be one


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"nonsense", "it holds no certificate in PEM"),
        (CHAIN, "it holds no private key in PEM"),
        (CHAIN + pair("shop.test").split(b"CERTIFICATE-----\n")[-1], "the private key belongs to another certificate"),
        (pair("other.test"), "it is for other.test, not for shop.test"),
        (pair("shop.test", since_s=-2 * DAY_S, until_s=-DAY_S), "it has expired on 20"),
        (pair("shop.test", since_s=DAY_S, until_s=2 * DAY_S), "it is valid from 20"),
        (pair("shop.test", rsa_bits=1024), "its RSA key has 1024 bits; at least 2048 are needed"),
    ],
)
async def test_a_certificate_that_cannot_be_shown_is_refused_before_anything_is_changed(
    content: bytes, text: str
) -> None:
    async with cluster() as (a, service):
        await service.put(given(content))  # it may be something else so far
        request = ApplyRequest(namespace="shop", specs=(routed("shop.test"),))
        for asked in (a.jobs.plan, a.jobs.apply):
            with pytest.raises(Invalid) as error:
                await asked(request)
            (fault,) = error.value.faults
            assert fault.path == "services.web.x-podium.http"
            assert fault.text.startswith("certificate cert (a secret): ")
            assert text in fault.text
        assert a.rig.state.job_named("shop", "web") is None
        good = await service.put(given(GOOD, PutHow.ROTATE))
        await up(a, routed("shop.test"))
        with pytest.raises(Invalid) as error:
            await service.put(given(content, PutHow.ROTATE))
        assert [fault.path for fault in error.value.faults] == ["secrets.cert"]
        assert text in error.value.faults[0].text
        assert "which shop/web answers" in error.value.faults[0].text
        assert published(a) == {"shop.test/": good.digest}


async def test_one_for_all_hosts_below_is_good_for_each_and_not_for_deeper_ones() -> None:
    good = read_pair(GOOD)
    check_host(good, "a.shop.test")
    with pytest.raises(Invalid):
        check_host(good, "b.a.shop.test")


def test_what_stands_around_a_certificate_is_never_handed_on() -> None:
    """HAProxy is told over its socket, where an empty line ends a content and the next one is a command."""
    first, mark, key = GOOD.partition(b"-----BEGIN PRIVATE")
    plain = plain_pem(read_pair(b"Bag Attributes\n\nshow env\n" + first + b"\n\nshutdown frontend x\n\n" + mark + key))
    assert plain == GOOD
    assert b"\n\n" not in plain
    assert "PRIVATE" not in repr(read_pair(GOOD))


# --- which one is shown


async def test_another_content_is_shown_at_once_and_restarts_nothing() -> None:
    async with cluster() as (a, service):
        warnings = await up(a, routed("shop.test", "a.shop.test"))
        assert any("namespace shop has no secret cert: for shop.test each node shows" in one for one in warnings)
        assert set(published(a).values()) == {""}
        first = (await service.put(given())).digest
        assert published(a) == {"shop.test/": first, "a.shop.test/": first}
        assert not any("no secret" in one for one in await up(a, routed("shop.test", "a.shop.test")))
        second = await service.put(given(pair("shop.test", "*.shop.test"), PutHow.ROTATE))
        assert second.changes == ()
        assert published(a) == {"shop.test/": second.digest, "a.shop.test/": second.digest}
        job = a.rig.state.job_named("shop", "web")
        assert job is not None
        assert job.version == 1
        (view,) = (await service.list_assets(ListAssets(kind=SECRET))).assets
        assert {one.digest: one.jobs for one in view.versions} == {second.digest: ("shop/web",), first: ()}


async def test_one_that_is_shown_cannot_be_removed_and_others_have_their_own() -> None:
    async with cluster() as (a, service):
        await service.put(given())
        await service.put(given(namespace="other"))
        await up(a, routed("shop.test"))
        with pytest.raises(Conflict, match="is used by shop/web"):
            await service.remove(RemoveAsset(kind=SECRET, namespace="shop", asset="cert"))
        await service.remove(RemoveAsset(kind=SECRET, namespace="other", asset="cert"))
        config = PutAsset(kind=AssetKind.CONFIG, namespace="shop", asset="cert", content=b"x", how=PutHow.CREATE)
        await service.put(config)  # of the same name: what it holds is none of the route's business


# --- which nodes get it


def proxied(node_id: str, proxy: str) -> NodeDescription:
    return msgspec.structs.replace(description(node_id), proxy=proxy)


async def agent_of(r: Rig, node: NodeDescription) -> Agent:
    agent = r.dial(node.id)
    agent.description = node
    agent.register()
    await agent.next(Endpoints)
    return agent


async def test_only_nodes_that_serve_the_route_get_it_and_only_what_it_shows_now() -> None:
    """A node that was taken over asks for everything it can name."""
    async with cluster() as (a, service):
        old = (await service.put(given())).digest
        foreign = await service.put(given(pair("other.test"), namespace="other"))
        now = (await service.put(given(pair("shop.test"), PutHow.ROTATE))).digest
        hidden = await service.put(PutAsset(kind=SECRET, namespace="shop", asset="db", content=b"x", how=PutHow.CREATE))
        await up(a, routed("shop.test"))
        await up(a, routed("other.test", namespace="other"))
        records = tuple(a.rig.state.records())
    async with rig(*records) as r:
        r.dispatcher._assets = AssetGiver(r.state, VAULT, r.dispatcher._board.service)
        serving_node, relay = (
            await agent_of(r, proxied("n1", "haproxy")),
            await agent_of(r, proxied("n2", "relay")),
        )
        assert relay.services["shop.test/"].certificate == now  # a digest says nothing

        async def ask(agent: Agent, route: str = "shop.test/", name: str = "cert", digest: str = now) -> AssetContent:
            agent.say(AssetRequest(task_id="", kind=SECRET, name=name, digest=digest, route=route))
            return await agent.next(AssetContent)

        answer = await ask(serving_node)
        assert answer.content == VAULT.content(*_stored(r.state, "shop", now))
        assert (answer.route, answer.refusal) == ("shop.test/", "")
        refused = (
            await ask(relay),
            await ask(serving_node, digest=old),
            await ask(serving_node, name="db", digest=hidden.digest),
            await ask(serving_node, route="other.test/"),
            await ask(serving_node, route="other.test/", digest=foreign.digest, name="db"),
            await ask(serving_node, route="nowhere.test/"),
            await ask(serving_node, route="shop.test/", digest=foreign.digest),
            await ask(serving_node, route=""),
        )
        assert {(one.content, one.refusal.startswith("no ")) for one in refused} == {(b"", True)}


def _stored(state: State, namespace: str, digest: str) -> tuple[object, object]:
    asset = state.assets.get(SECRET, namespace, "cert")
    assert asset is not None
    return asset, state.assets.version(asset.key, digest)


# --- on the node


def service_showing(digest: str) -> Service:
    http = HttpRoute(host="shop.test", tls="cert")
    return Service(namespace="shop", job="web", container_port=80, http=http, certificate=digest)


async def test_a_node_asks_until_it_has_what_is_shown_and_forgets_what_is_not() -> None:
    asker, changed, sent = AssetAsker(), asyncio.Event(), asyncio.Queue[AssetRequest]()
    held = RouteCertificates(asker, changed.set, random.Random(1))
    tasks = [asyncio.create_task(held.run()), asyncio.create_task(asker.run(sent.put))]

    async def answer(**fields: object) -> AssetRequest:
        async with asyncio.timeout(10):
            asked = await sent.get()
        given_ = {name: getattr(asked, name) for name in asked.__struct_fields__}
        asker.take(AssetContent(**given_, **fields))
        return asked

    held.want([service_showing("d1"), msgspec.structs.replace(service_showing(""), job="plain")])
    await answer(refusal="this controller cannot read it", later=True)
    asked = await answer(content=b"first")
    assert (asked.route, asked.task_id, asked.digest) == ("shop.test/", "", "d1")
    async with asyncio.timeout(10):
        await changed.wait()
    assert held.contents == {"d1": b"first"}
    held.want([service_showing("d2")])
    assert held.contents == {}
    changed.clear()
    await answer(content=b"second")
    async with asyncio.timeout(10):
        await changed.wait()
    assert held.contents == {"d2": b"second"}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
