"""What does not get in: certificates and tokens that are old, foreign, guessed, used or meant for something else."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path

import grpc
import msgspec
import pytest

from common.certificates import new_key, signing_request
from common.errors import Forbidden, Invalid, Unauthenticated, Unavailable
from common.identity import Identity
from common.model import joining as asked
from common.model.asset import AssetKind
from common.model.asset_calls import AssetPut, PutAsset, PutHow
from common.model.trust import Authority, Kind, Role
from common.private_files import write_private
from common.tokens import JOIN, Token, parse_token
from controller.app import Addresses, serve
from controller.core.joining import CERTIFICATE_S
from controller.security.authority import issue, new_authority
from controller.security.cluster_key import read_keys
from controller.security.sealing import KeyRing, new_cluster_key
from controller.settings import ControllerSettings
from controller.store.keys import AUTHORITY, check_record
from controller.store.open import open_store
from tests.etcd import EtcdServer
from tests.integration.test_cluster_trust import Cluster, cluster, found, refused, registered

WAIT_S = 20.0


async def authority_of(folder: Path) -> Authority:
    """As a thief of the store and the cluster key would have it."""
    store = open_store(f"sqlite://{folder}/store.db")
    try:
        content = await store.get(AUTHORITY)
        assert content is not None
        record = check_record(AUTHORITY, content)
        assert isinstance(record, Authority)
        return record
    finally:
        await store.close()


async def test_an_expired_certificate_ends_in_the_handshake(tmp_path: Path) -> None:
    async with cluster(tmp_path):
        pass
    ring, authority, key = KeyRing(read_keys(tmp_path / "cluster.key")), await authority_of(tmp_path), new_key()
    who = Identity(cluster_id=authority.cluster_id, kind=Kind.AGENT, id="n1")
    old, fresh = (
        issue(ring, authority, who, signing_request(key), time.time() - age_s) for age_s in (CERTIFICATE_S + 60, 0)
    )
    async with cluster(tmp_path) as c:
        async with c.channel(c.addresses.agents, key=key, chain=old) as channel:
            assert isinstance(await refused(registered(channel, "n1")), Unavailable)
        async with c.channel(c.addresses.agents, key=key, chain=fresh) as channel:
            assert await registered(channel, "n1")


async def test_an_authority_of_the_same_name_is_another_one(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        ring, key = KeyRing([new_cluster_key()]), new_key()
        forged = msgspec.structs.replace(new_authority(ring, time.time(), random.Random(1)), cluster_id=c.cluster_id)
        who = Identity(cluster_id=c.cluster_id, kind=Kind.AGENT, id="n1")
        chain = issue(ring, forged, who, signing_request(key), time.time())
        async with c.channel(c.addresses.agents, key=key, chain=chain) as channel:
            assert isinstance(await refused(registered(channel, "n1")), Unavailable)


async def test_an_agents_certificate_makes_no_controller(tmp_path: Path) -> None:
    """Who holds one and sits on a controller's address is not believed by anybody."""
    async with cluster(tmp_path) as c:
        key = new_key()
        joined = await c.join(await c.join_token(), key)
        server = grpc.aio.server()
        port = server.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([(key.encode(), joined.chain.encode())])
        )
        await server.start()
        try:
            async with c.channel(f"127.0.0.1:{port}") as channel:
                asking = c.ask("Trust/FindDoors", asked.FindDoorsRequest(), asked.Doors, channel=channel)
                assert isinstance(await refused(asking), Unavailable)
        finally:
            await server.stop(None)


@pytest.mark.parametrize(
    "method", ["Trust/Users", "Trust/Tokens", "Cluster/ReleaseBrake", "Store/Check", "Store/StopStrays"]
)
async def test_a_machine_is_no_engineer(tmp_path: Path, method: str) -> None:
    async with cluster(tmp_path) as c:
        request = asked.CreateTokenRequest(kind=Kind.CONTROLLER)
        made = await c.ask("Trust/CreateToken", request, asked.CreatedToken, token=c.first_token)
        assert isinstance(made, asked.CreatedToken)
        for token, name in ((await c.join_token(), "n1"), (parse_token(made.token, JOIN), "c2")):
            key = new_key()
            joined = await c.join(token, key, name)
            async with c.channel(c.addresses.agents, key=key, chain=joined.chain) as channel:
                for_users = c.ask(method, asked.ListUsers(), asked.UserList, channel=channel)
                assert isinstance(await refused(for_users), Forbidden)
                if joined.kind is Kind.CONTROLLER:
                    assert isinstance(await refused(registered(channel, name)), Forbidden)


async def test_tokens_that_do_not_count_are_all_answered_alike(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        real = await c.join_token()
        await c.join(real, new_key(), "n1")
        short = await c.join_token(ttl_s=1.0)
        await asyncio.sleep(1.1)
        texts = set()
        for token in (
            msgspec.structs.replace(real, secret="A" * 32),  # guessed
            Token(purpose=JOIN, id="nobody", secret="A" * 32, pin=real.pin),
            real,  # seen by somebody after its one use
            short,  # expired
        ):
            error = await refused(c.join(token, new_key(), "n2"))
            assert isinstance(error, Unauthenticated)
            texts.add(str(error))
        assert len(texts) == 1


async def test_a_token_is_for_one_thing(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        join = await c.join_token()
        asking = c.ask("Trust/WhoAmI", asked.WhoAmIRequest(), asked.Caller, token=str(join))
        error = await refused(asking)
        assert isinstance(error, Unauthenticated)
        assert "for joining the cluster" in str(error)
        person = await c.user("ann", Role.VIEWER, ttl_s=1.0)
        await asyncio.sleep(1.1)
        late = c.ask("Trust/WhoAmI", asked.WhoAmIRequest(), asked.Caller, token=person)
        assert "has expired" in str(await refused(late))


# --- further controllers

NOBODY = "127.0.0.1:1"


async def joined_controller(
    folder: Path, store: str, token: str, stop: asyncio.Event, **more: object
) -> tuple[asyncio.Task[None], Addresses]:
    folder.mkdir()
    listens = {"grpc_listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
    given = {"cluster_key": str(folder / "cluster.key"), **listens, **more}
    settings = ControllerSettings(store=store, join_token=token, **given)
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(settings, ready=ready.set_result, stop=stop))
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    return task, await ready


async def test_a_further_controller_joins_by_a_token_and_serves_for_the_first(
    tmp_path: Path, etcd_server: EtcdServer, etcd_prefix: str
) -> None:
    store = f"etcd://{etcd_server.endpoint}?prefix={etcd_prefix}"
    first = tmp_path / "first"
    first.mkdir()
    stop = asyncio.Event()
    async with asyncio.timeout(2 * WAIT_S):
        async with cluster(first, store=store) as c:
            with pytest.raises(Invalid, match="join by a token"):
                await joined_controller(tmp_path / "stranger", store, "", stop)
            agents = await c.join_token()
            with pytest.raises(Invalid, match="this token is for agents"):
                await joined_controller(tmp_path / "wrong", store, str(agents), stop)
            made = await c.ask(
                "Trust/CreateToken",
                asked.CreateTokenRequest(kind=Kind.CONTROLLER),
                asked.CreatedToken,
                token=c.first_token,
            )
            assert isinstance(made, asked.CreatedToken)
            write_private(tmp_path / "join.token", made.token)
            joins = {"join_file": str(tmp_path / "join.token"), "join_at": (NOBODY, c.addresses.grpc)}
            second, addresses = await joined_controller(tmp_path / "second", store, "", stop, **joins)
            assert read_keys(tmp_path / "second" / "cluster.key") == read_keys(first / "cluster.key")
            token = c.first_token
        try:  # the first has gone
            again = await found(tmp_path / "second", addresses)
            await until_it_leads(again, token)
        finally:
            stop.set()
            await second


SECRET = PutAsset(kind=AssetKind.SECRET, namespace="shop", asset="password", content=b"hidden", how=PutHow.CREATE)


async def test_a_key_replaced_by_token_shuts_out_who_has_only_the_one_before(
    tmp_path: Path, etcd_server: EtcdServer, etcd_prefix: str
) -> None:
    store = f"etcd://{etcd_server.endpoint}?prefix={etcd_prefix}"
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir()
    other.mkdir()
    stop = asyncio.Event()
    async with asyncio.timeout(3 * WAIT_S), cluster(first, store=store) as c:
        await c.ask("Assets/Put", SECRET, AssetPut, token=c.first_token)
        shutil.copy(first / "cluster.key", other / "cluster.key")  # stolen, or of a controller that is to go
        (before,) = read_keys(other / "cluster.key")
        request = asked.RotateKeyRequest(by_token=True, idempotency_key="k1")
        for _ in range(2):  # the first answer was lost
            view = await c.ask("Trust/RotateKey", request, asked.AuthorityView, token=c.first_token)
            assert isinstance(view, asked.AuthorityView)
            assert (view.key_id != before.id, view.next_key_id) == (True, "")
            assert [key.id for key in read_keys(first / "cluster.key")] == [view.key_id, before.id]
        await nothing_is_sealed_under(before.id, store)
        own = str(other / "cluster.key")
        listens = {"grpc_listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
        with pytest.raises(Invalid, match=f"sealed under the cluster key {view.key_id}"):
            await serve(ControllerSettings(store=store, cluster_key=own, **listens), stop=stop)
        made = await c.ask(
            "Trust/CreateToken",
            asked.CreateTokenRequest(kind=Kind.CONTROLLER),
            asked.CreatedToken,
            token=c.first_token,
        )
        assert isinstance(made, asked.CreatedToken)
        task, _ = await joined_controller(tmp_path / "stays", store, made.token, stop, cluster_key=own)
        assert read_keys(other / "cluster.key") == read_keys(first / "cluster.key")
        stop.set()
        await task


async def nothing_is_sealed_under(key_id: str, url: str) -> None:
    """Looks into the store until it is so: secrets follow the authority."""
    store = open_store(url, lease_s=3.0)
    try:
        while any(key_id.encode() in content for content in (await store.read()).snapshot.values.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    finally:
        await store.close()


async def until_it_leads(c: Cluster, token: str) -> None:
    async with c.channel() as channel:
        while True:
            try:
                await c.ask("Trust/WhoAmI", asked.WhoAmIRequest(), asked.Caller, token=token, channel=channel)
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return
