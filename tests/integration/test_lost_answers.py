"""Every create, repeated a thousand times because its answer was lost on the way, makes one thing.

By the engineers' real door: between it and the caller stands a relay that carries each request and swallows what comes
back. The controller is another one half way through, which knows of a repeat by what the first one wrote alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import msgspec

from common.model import joining as asked
from common.model.api import ApplyRequest, Changes, JobList, ListJobs
from common.model.asset import AssetKind
from common.model.asset_calls import AssetList, AssetPut, ListAssets, PutAsset, PutHow
from common.model.job import Container, JobSpec, TaskSpec
from common.model.trust import Kind, Role
from tests.integration.test_cluster_trust import Cluster, cluster

WAIT_S = 30.0
LOST, ANSWERED, AT_ONCE = 450, 50, 50
"""Of each create under each controller. Few at once: an answer that nobody takes counts against the connection."""
LEAST_ANSWER_BYTES = 30
SPEC = JobSpec(namespace="shop", name="web", replicas=3, task=TaskSpec(container=Container(image="shop:1")))


class Create(msgspec.Struct, frozen=True, kw_only=True):
    method: str
    request: msgspec.Struct
    answer: type[msgspec.Struct]
    told: Callable[[msgspec.Struct], object]
    """What every answer has to say alike."""


def asset(kind: AssetKind) -> Create:
    request = PutAsset(kind=kind, namespace="shop", asset="password", content=b"s" * 20, how=PutHow.CREATE)
    return Create(
        method="Assets/Put", request=request, answer=AssetPut, told=lambda answer: getattr(answer, "digest", None)
    )


def creates() -> Iterable[Create]:
    yield Create(
        method="Jobs/Apply",
        request=ApplyRequest(namespace="shop", specs=(SPEC,), idempotency_key="k1"),
        answer=Changes,
        told=lambda answer: [change.job for change in answer.changes] if isinstance(answer, Changes) else None,
    )
    yield Create(
        method="Trust/CreateToken",
        request=asked.CreateTokenRequest(kind=Kind.AGENT, idempotency_key="k1"),
        answer=asked.CreatedToken,
        told=lambda answer: getattr(answer, "token", None),
    )
    yield Create(
        method="Trust/AddUser",
        request=asked.AddUserRequest(name="ann", role=Role.DEPLOYER, idempotency_key="k1"),
        answer=asked.AddedUser,
        told=lambda answer: getattr(answer, "token", None),
    )
    yield from map(asset, AssetKind)


class Relay:
    """See the module."""

    def __init__(self) -> None:
        self.swallowed_bytes = 0
        self.losing = False
        self._more = asyncio.Event()

    @asynccontextmanager
    async def at(self, upstream: str) -> AsyncIterator[str]:
        host, _, port = upstream.rpartition(":")

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
            ways = asyncio.gather(self._there(reader, there_writer), self._back(there_reader, writer))
            with suppress(OSError):
                await ways
            for each in (writer, there_writer):
                each.close()

        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def swallowed(self, least_bytes: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.swallowed_bytes < least_bytes:
                self._more.clear()
                await self._more.wait()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(65_536):
            writer.write(some)
            await writer.drain()
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(65_536):
            if self.losing:
                self.swallowed_bytes += len(some)
                self._more.set()
            else:
                writer.write(some)
        writer.close()


async def lost(c: Cluster, create: Create) -> None:
    """Some more calls are carried out, whose answers nobody hears."""
    relay = Relay()
    async with relay.at(c.addresses.grpc) as address, c.channel(address) as channel:
        await answered(c, create, channel)  # the connection stands
        relay.losing = True
        calls = [asyncio.ensure_future(answered(c, create, channel)) for _ in range(AT_ONCE)]
        await relay.swallowed(AT_ONCE * LEAST_ANSWER_BYTES)
        for call in calls:
            call.cancel()
        assert all(isinstance(end, BaseException) for end in await asyncio.gather(*calls, return_exceptions=True))


async def answered(c: Cluster, create: Create, channel: grpc.aio.Channel) -> object:
    return create.told(await c.ask(create.method, create.request, create.answer, token=c.first_token, channel=channel))


async def repeated(c: Cluster, create: Create) -> set[str]:
    for _ in range(LOST // AT_ONCE):
        await lost(c, create)
    async with c.channel() as channel:
        return {repr(told) for told in await asyncio.gather(*(answered(c, create, channel) for _ in range(ANSWERED)))}


async def made(c: Cluster) -> dict[str, int]:
    """How many there are of each."""
    jobs = await c.ask("Jobs/List", ListJobs(namespace="shop"), JobList, token=c.first_token)
    assert isinstance(jobs, JobList)
    assert {view.job.version for view in jobs.jobs} == {1}
    counts = {"job": len(jobs.jobs)}
    tokens = await c.ask("Trust/Tokens", asked.ListTokens(), asked.TokenList, token=c.first_token)
    users = await c.ask("Trust/Users", asked.ListUsers(), asked.UserList, token=c.first_token)
    assert isinstance(tokens, asked.TokenList)
    assert isinstance(users, asked.UserList)
    counts |= {"token": len(tokens.tokens), "ann": sum(user.name == "ann" for user in users.users)}
    for kind in AssetKind:
        found = await c.ask("Assets/List", ListAssets(kind=kind, namespace="shop"), AssetList, token=c.first_token)
        assert isinstance(found, AssetList)
        counts[kind.value] = sum(len(view.versions) for view in found.assets)
    return counts


async def test_every_create_repeated_a_thousand_times_after_lost_answers_makes_one(tmp_path: Path) -> None:
    told: list[list[set[str]]] = []
    for _ in range(2):
        async with cluster(tmp_path) as c:
            told.append([await repeated(c, create) for create in creates()])
            assert await made(c) == {"job": 1, "token": 1, "ann": 1, "config": 1, "secret": 1}
    first, second = told
    assert all(len(alike) == 1 for alike in first)
    assert first[1:] == second[1:], "tokens and digests are told again as they were"
