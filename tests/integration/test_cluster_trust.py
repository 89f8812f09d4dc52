"""A controller whose cluster has an authority of its own, on real sockets: who gets through which door, and how in."""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import aiohttp
import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2_grpc

from agent.app import serve as serve_agent
from agent.crowd import serve as serve_crowd
from agent.network.pretended import PretendedDataPlane
from agent.settings import AgentSettings
from client.client import Client
from client.settings import ClientSettings
from common import wire
from common.certificates import facts, load_certificate, new_key, signing_request
from common.errors import Conflict, Forbidden, Invalid, PodiumError, Unauthenticated, Unavailable
from common.grpc_errors import error_of
from common.identity import server_name
from common.model import joining as asked
from common.model.api import ListNodes, NodeChanges, NodeList, RemoveNodesRequest, WatchedJobs, WatchJobs
from common.model.node import NodeDescription
from common.model.session import AgentMessage, ControllerMessage, Redirect, Register, Registered
from common.model.trust import Kind, Role
from common.pinning import pinned_authority
from common.tokens import JOIN, USER, Token, parse_token
from controller.app import Addresses, serve
from controller.security.cluster_key import read_keys
from controller.settings import ControllerSettings
from tests.dispatcher_rig import description
from tests.integration.test_controller_app import until_leading
from tests.ports import free_ports

WAIT_S = 20.0


class Cluster:
    """One controller and what its operator has: the file of its keys and the first user's token."""

    def __init__(self, folder: Path, addresses: Addresses, authority: str, cluster_id: str) -> None:
        self.folder = folder
        self.addresses = addresses
        self.authority = authority
        self.cluster_id = cluster_id

    @property
    def first_token(self) -> str:
        return (self.folder / "admin.token").read_text().strip()

    def channel(self, address: str = "", *, key: str = "", chain: str = "", roots: str = "") -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            (roots or self.authority).encode(), key.encode() or None, chain.encode() or None
        )
        options = (("grpc.ssl_target_name_override", server_name(self.cluster_id)),)
        return grpc.aio.secure_channel(address or self.addresses.grpc, credentials, options=options)

    async def ask(
        self,
        method: str,
        request: msgspec.Struct,
        answer: type[msgspec.Struct],
        *,
        token: str = "",
        channel: grpc.aio.Channel | None = None,
    ) -> msgspec.Struct:
        used = channel or self.channel()
        try:
            call = used.unary_unary(
                f"/podium.v1.{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=wire.message_type(answer).FromString,
            )
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            return wire.decode(answer, await call(wire.encode(request), timeout=WAIT_S, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        finally:
            if channel is None:
                await used.close()

    async def join_token(self, **fields: object) -> Token:
        request = asked.CreateTokenRequest(kind=Kind.AGENT, **fields)
        made = await self.ask("Trust/CreateToken", request, asked.CreatedToken, token=self.first_token)
        assert isinstance(made, asked.CreatedToken)
        return parse_token(made.token, JOIN)

    async def join(self, token: Token, key: str, identifier: str = "n1") -> asked.Joined:
        request = asked.JoinRequest(
            token_id=token.id, secret=token.secret, signing_request=signing_request(key), id=identifier
        )
        joined = await self.ask("Trust/Join", request, asked.Joined)
        assert isinstance(joined, asked.Joined)
        return joined

    async def user(self, name: str, role: Role, **fields: object) -> str:
        request = asked.AddUserRequest(name=name, role=role, **fields)
        added = await self.ask("Trust/AddUser", request, asked.AddedUser, token=self.first_token)
        assert isinstance(added, asked.AddedUser)
        return added.token


@asynccontextmanager
async def cluster(folder: Path, **more: object) -> AsyncIterator[Cluster]:
    settings = ControllerSettings(
        grpc_listen="127.0.0.1:0",
        **{"store": f"sqlite://{folder}/store.db", "http_listen": "127.0.0.1:0"} | more,
        cluster_key=str(folder / "cluster.key"),
    )
    addresses: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, ready=addresses.set_result, stop=stop))
        try:
            made = await found(folder, await addresses)
            async with made.channel() as channel:
                await until_leading(health_pb2_grpc.HealthStub(channel))
            yield made
        finally:
            stop.set()


async def found(folder: Path, addresses: Addresses) -> Cluster:
    """The cluster as somebody finds it who has the first user's token."""
    pin = parse_token((folder / "admin.token").read_text(), USER).pin
    authority = await pinned_authority(addresses.grpc, pin, timeout_s=WAIT_S)
    name = load_certificate(authority).subject.rfc4514_string()
    return Cluster(folder, addresses, authority, name.partition("authority of ")[2].partition(" ")[0])


async def refused(call: object) -> PodiumError:
    with pytest.raises(PodiumError) as error:
        await call  # type: ignore[misc]
    return error.value


async def test_the_first_start_makes_a_key_an_authority_and_a_first_user(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        for name in ("cluster.key", "admin.token"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        who = await c.ask("Trust/WhoAmI", asked.WhoAmIRequest(), asked.Caller, token=c.first_token)
        assert who == asked.Caller(cluster_id=c.cluster_id, kind="user", name="admin", role=Role.ADMIN)
        doors = await c.ask("Trust/FindDoors", asked.FindDoorsRequest(), asked.Doors)
        port = int(c.addresses.agents.rpartition(":")[2])
        assert doors == asked.Doors(cluster_id=c.cluster_id, certificates=(c.authority,), agent_port=port)


async def test_the_authority_outlives_the_controller(tmp_path: Path) -> None:
    async with cluster(tmp_path) as first:
        token = first.first_token
    async with cluster(tmp_path) as again:
        assert again.authority == first.authority
        assert await again.ask("Trust/WhoAmI", asked.WhoAmIRequest(), asked.Caller, token=token)


async def test_a_controller_without_the_cluster_key_is_told_to_copy_it(tmp_path: Path) -> None:
    async with cluster(tmp_path):
        pass
    (tmp_path / "cluster.key").rename(tmp_path / "elsewhere.key")
    with pytest.raises(ExceptionGroup) as error:
        async with cluster(tmp_path):
            pytest.fail("it started")
    assert error.group_contains(Invalid, match=r"cluster\.key is not there.*copy the file")


async def test_a_machine_joins_by_a_token_once_and_opens_a_session(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        token, key = await c.join_token(), new_key()
        joined = await c.join(token, key)
        assert facts(joined.chain).identity.id == "n1"
        assert joined.cluster_keys == ()
        assert (await c.join(token, key)).id == "n1"  # the answer was lost
        assert isinstance(await refused(c.join(token, new_key(), "n2")), Unauthenticated)
        async with c.channel(c.addresses.agents, key=key, chain=joined.chain) as channel:
            assert await registered(channel, "n1")


def session(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(
        "/podium.v1.Dispatcher/Session",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=wire.message_type(ControllerMessage).FromString,
    )(timeout=WAIT_S)


def node(node_id: str) -> NodeDescription:
    return msgspec.structs.replace(description("one"), id=node_id)


async def registered(channel: grpc.aio.Channel, node_id: str) -> ControllerMessage:
    call = session(channel)
    try:
        await call.write(wire.encode(AgentMessage(body=Register(node=node(node_id)))))
        return wire.decode(ControllerMessage, await call.read())
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from None
    finally:
        call.cancel()


async def test_a_machine_speaks_for_itself_only(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        key = new_key()
        joined = await c.join(await c.join_token(), key)
        async with c.channel(c.addresses.agents, key=key, chain=joined.chain) as channel:
            error = await refused(registered(channel, "n2"))
            assert isinstance(error, Forbidden)
            assert "certificate of node n1: it cannot register as 'n2'" in str(error)
            listing = c.ask("Trust/Users", asked.ListUsers(), asked.UserList, channel=channel)
            assert isinstance(await refused(listing), Forbidden)


async def test_agents_come_by_their_own_door(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        async with c.channel() as channel:
            assert isinstance(await refused(registered(channel, "n1")), Forbidden)
        async with c.channel(c.addresses.agents) as channel:
            assert isinstance(await refused(registered(channel, "n1")), Unavailable)


async def test_a_certificate_of_another_cluster_ends_in_the_handshake(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    async with cluster(tmp_path / "one") as one, cluster(tmp_path / "other") as other:
        key = new_key()
        joined = await other.join(await other.join_token(), key)
        async with one.channel(one.addresses.agents, key=key, chain=joined.chain) as channel:
            assert isinstance(await refused(registered(channel, "n1")), Unavailable)
        async with one.channel(other.addresses.grpc) as channel:
            finding = one.ask("Trust/FindDoors", asked.FindDoorsRequest(), asked.Doors, channel=channel)
            assert isinstance(await refused(finding), Unavailable)


async def test_a_machine_renews_with_its_certificate_and_recovers_with_its_key(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        key, next_key = new_key(), new_key()
        joined = await c.join(await c.join_token(), key)
        async with c.channel(c.addresses.agents, key=key, chain=joined.chain) as channel:
            request = asked.RenewRequest(signing_request=signing_request(next_key))
            renewed = await c.ask("Trust/Renew", request, asked.Joined, channel=channel)
        assert isinstance(renewed, asked.Joined)
        async with c.channel(c.addresses.agents, key=next_key, chain=renewed.chain) as channel:
            assert await registered(channel, "n1")
        back = asked.RecoverRequest(id="n1", signing_request=signing_request(next_key))
        assert await c.ask("Trust/Recover", back, asked.Joined)
        stolen = asked.RecoverRequest(id="n1", signing_request=signing_request(new_key()))
        assert isinstance(await refused(c.ask("Trust/Recover", stolen, asked.Joined)), Unauthenticated)


async def test_a_token_for_controllers_hands_the_cluster_key_out(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        request = asked.CreateTokenRequest(kind=Kind.CONTROLLER)
        made = await c.ask("Trust/CreateToken", request, asked.CreatedToken, token=c.first_token)
        assert isinstance(made, asked.CreatedToken)
        joined = await c.join(parse_token(made.token, JOIN), new_key(), "c2")
        assert joined.cluster_keys == tuple(key.secret for key in read_keys(tmp_path / "cluster.key"))


async def test_a_removed_node_with_a_valid_certificate_is_nobody(tmp_path: Path) -> None:
    async with asyncio.timeout(WAIT_S), cluster(tmp_path) as c:
        key = new_key()
        joined = await c.join(await c.join_token(), key)
        async with c.channel(c.addresses.agents, key=key, chain=joined.chain) as channel:
            waiting = session(channel)  # was let in while it counted, and has not said yet who it is
            call = session(channel)
            await call.write(wire.encode(AgentMessage(body=Register(node=node("n1")))))
            assert isinstance(wire.decode(ControllerMessage, await call.read()).body, Registered)
            removal = RemoveNodesRequest(nodes=("n1",))
            await c.ask("Nodes/Remove", removal, NodeChanges, token=c.first_token)
            while (message := await call.read()) is not grpc.aio.EOF:  # ends at once, with the reason
                last = wire.decode(ControllerMessage, message)
            assert last.body == Redirect(leader="", reason="this node was removed from the cluster", retry_after_s=ANY)
            assert isinstance(await refused(registered(channel, "n1")), Unauthenticated)
            await waiting.write(wire.encode(AgentMessage(body=Register(node=node("n1")))))
            with pytest.raises(grpc.aio.AioRpcError, match="counts no more: its node was removed"):
                await waiting.read()
            renewal = asked.RenewRequest(signing_request=signing_request(new_key()))
            renewing = c.ask("Trust/Renew", renewal, asked.Joined, channel=channel)
            assert isinstance(await refused(renewing), Unauthenticated)
        back = asked.RecoverRequest(id="n1", signing_request=signing_request(key))
        assert isinstance(await refused(c.ask("Trust/Recover", back, asked.Joined)), Unauthenticated)
        anew = await c.join(await c.join_token(), new_key())  # a new token is the way back
        assert anew.id == "n1"


async def test_users_may_what_their_role_says_where_it_counts(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        viewer = await c.user("vera", Role.VIEWER, namespaces=("shop",))
        mine = await c.ask("Trust/WhoAmI", asked.WhoAmIRequest(), asked.Caller, token=viewer)
        assert isinstance(mine, asked.Caller)
        assert (mine.name, mine.namespaces) == ("vera", ("shop",))
        error = await refused(c.ask("Trust/Users", asked.ListUsers(), asked.UserList, token=viewer))
        assert isinstance(error, Forbidden)
        assert "vera is viewer; to read user takes admin" in str(error)
        can = await c.ask("Trust/CanI", asked.CanIRequest(verb="apply", kind="job"), asked.Permission, token=viewer)
        assert isinstance(can, asked.Permission)
        assert "takes deployer" in can.refusal
        await c.ask("Trust/RemoveUser", asked.RemoveUserRequest(name="vera"), asked.UserList, token=c.first_token)
        gone = c.ask("Trust/WhoAmI", asked.WhoAmIRequest(), asked.Caller, token=viewer)
        assert isinstance(await refused(gone), Unauthenticated)
        assert isinstance(await refused(c.user("admin", Role.VIEWER)), Conflict)


async def test_what_a_removed_user_watches_ends(tmp_path: Path) -> None:
    async with asyncio.timeout(WAIT_S), cluster(tmp_path) as c, c.channel() as channel:
        token = await c.user("vera", Role.VIEWER)
        call = channel.unary_stream(
            "/podium.v1.Jobs/Watch",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=wire.message_type(WatchedJobs).FromString,
        )(wire.encode(WatchJobs(namespace="shop")), metadata=(("authorization", f"Bearer {token}"),))
        await call.read()
        await c.ask("Trust/RemoveUser", asked.RemoveUserRequest(name="vera"), asked.UserList, token=c.first_token)
        with pytest.raises(grpc.aio.AioRpcError, match="the token of vera counts no more"):
            await call.read()


async def test_whoever_shows_nothing_reads_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c, c.channel() as channel:
        call = channel.unary_stream(
            "/podium.v1.Nodes/List",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=wire.message_type(NodeList).FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(wire.encode(ListNodes()), timeout=WAIT_S).read()
        assert isinstance(error_of(error.value), Unauthenticated)


async def test_an_added_user_is_answered_alike_when_the_answer_was_lost(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        first = await c.user("bot", Role.DEPLOYER, idempotency_key="k1")
        assert await c.user("bot", Role.DEPLOYER, idempotency_key="k1") == first
    async with cluster(tmp_path) as again:  # under another leader too
        assert await again.user("bot", Role.DEPLOYER, idempotency_key="k1") == first
        assert isinstance(await refused(again.user("bot", Role.DEPLOYER, idempotency_key="k2")), Conflict)


async def test_the_wrong_pin_and_a_port_without_tls_are_told_apart(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        with pytest.raises(Invalid, match="not of the cluster that the token is for"):
            await pinned_authority(c.addresses.grpc, "00" * 32, timeout_s=WAIT_S)
        with pytest.raises(Invalid, match="speaks no TLS"):
            await pinned_authority(c.addresses.http, "00" * 32, timeout_s=WAIT_S)
    with pytest.raises(Unavailable):
        await pinned_authority(c.addresses.grpc, "00" * 32, timeout_s=WAIT_S)


async def test_http_that_others_reach_is_read_with_its_own_token_over_tls(tmp_path: Path) -> None:
    async with cluster(tmp_path, http_listen="0.0.0.0:0") as c, aiohttp.ClientSession() as session:
        port = c.addresses.http.rpartition(":")[2]
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        token = (tmp_path / "http.token").read_text().strip()
        for shown, expected in ((token, 200), ("x" * 32, 401), (c.first_token, 401)):
            headers = {"Authorization": f"Bearer {shown}"}
            asked_for = session.get(
                f"https://127.0.0.1:{port}/metrics",
                ssl=context,
                server_hostname="controller.podium",
                headers=headers,
            )
            async with asked_for as response:
                assert response.status == expected
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{port}/metrics")
    async with cluster(tmp_path) as c, aiohttp.ClientSession() as session:  # on loopback it needs neither
        assert (await session.get(f"http://{c.addresses.http}/metrics")).status == 200


# --- whole agents


async def test_a_node_s_http_that_others_reach_shows_its_certificate_and_asks_for_a_token(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url, folder = f"https://127.0.0.1:{port}/metrics", tmp_path / "n1"
    async with asyncio.timeout(WAIT_S), cluster(tmp_path) as c, aiohttp.ClientSession() as session:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

        async def status(shown: str, *, host: str = "127.0.0.1") -> int:
            headers = {"Authorization": f"Bearer {shown}", "Host": host}
            asked_for = session.get(url, ssl=context, server_hostname="agent.podium", headers=headers)
            async with asked_for as response:
                return response.status

        token = str(await c.join_token())
        async with agent(c, folder, join_token=token, http_listen=f"0.0.0.0:{port}") as ready:
            await ready.wait()
            own = (folder / "http.token").read_text().strip()
            assert await status(own) == 200
            assert [await status(shown) for shown in ("", "x" * 32, c.first_token)] == [401, 401, 401]
            assert await status(own, host="evil.example.com") == 421
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{port}/metrics")
            with pytest.raises(aiohttp.ClientError):  # it is no controller, whoever asks for one
                await session.get(url, ssl=context, server_hostname=server_name(c.cluster_id))
        async with agent(c, folder, http_listen=f"0.0.0.0:{port}", http_open=True) as ready:
            await ready.wait()
            assert await status("") == 200


@asynccontextmanager
async def agent(c: Cluster, data_dir: Path, **more: object) -> AsyncIterator[asyncio.Event]:
    """A node until the context ends; the event is set when a controller has taken it in."""
    stop, ready = asyncio.Event(), asyncio.Event()
    settings = AgentSettings(
        controllers=(c.addresses.grpc,), data_dir=str(data_dir), name=data_dir.name, runtimes=("fake",), **more
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve_agent(settings, stop=stop, on_ready=ready.set, data_plane=PretendedDataPlane(), stop_tasks=True)
        )
        try:
            yield ready
        finally:
            stop.set()


async def test_a_node_joins_with_a_token_and_comes_back_without(tmp_path: Path) -> None:
    async with asyncio.timeout(WAIT_S), cluster(tmp_path) as c:
        token = await c.join_token()
        async with agent(c, tmp_path / "n1", join_token=str(token)) as ready:
            await ready.wait()
        async with agent(c, tmp_path / "n1") as ready:
            await ready.wait()
        tokens = await c.ask("Trust/Tokens", asked.ListTokens(), asked.TokenList, token=c.first_token)
        assert tokens == asked.TokenList()


async def test_a_node_with_a_token_that_does_not_count_ends_and_says_so(tmp_path: Path) -> None:
    async with asyncio.timeout(WAIT_S), cluster(tmp_path) as c:
        token = await c.join_token()
        await c.ask("Trust/RevokeToken", asked.RevokeTokenRequest(id=token.id), asked.TokenList, token=c.first_token)
        with pytest.raises(ExceptionGroup) as error:
            async with agent(c, tmp_path / "n1", join_token=str(token)) as ready:
                await ready.wait()
        assert error.group_contains(Unauthenticated, match="does not count")


async def test_a_crowd_joins_by_one_token_each_node_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    async with asyncio.timeout(WAIT_S), cluster(tmp_path) as c:
        token, stop = await c.join_token(uses=3), asyncio.Event()
        settings = AgentSettings(
            controllers=(c.addresses.grpc,),
            data_dir=str(tmp_path / "crowd"),
            name="crowd",
            count=3,
            runtimes=("fake",),
            join_token=str(token),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(serve_crowd(settings, stop=stop))
            async with Client(ClientSettings(controllers=(c.addresses.grpc,), token=c.first_token)) as client:
                while len(await client.nodes()) < 3:  # noqa: ASYNC110  each comes when it comes
                    await asyncio.sleep(0.05)
            stop.set()
        files = (tmp_path / "crowd" / "identities").iterdir()
        assert len({facts(msgspec.json.decode(file.read_bytes())["chain"]).serial for file in files}) == 3
