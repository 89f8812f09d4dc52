"""Calls to etcd: which server is asked, how long it may take, and what its errors mean. Knows no key of ours.

Uses one server at a time and moves on to the next when one fails. A channel per server, rather than one channel over
all, lets TLS check each server's own name. No call is repeated here but through `first_answer`: only callers know what
may be sent twice.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import grpc
from aetcd import rpc

from common.errors import Invalid, PodiumError, Unavailable
from common.tls import TlsFiles, channel_credentials

logger = logging.getLogger(__name__)

# aetcd ships no types: its messages are Any to the type checker.
Message: TypeAlias = Any
Stub: TypeAlias = Callable[..., Awaitable[Message]]
Answer = TypeVar("Answer")

OPTIONS = (
    # Store handles in one process must not share connections: one controller's trouble is not another's.
    ("grpc.use_local_subchannel_pool", 1),
    # etcd closes connections that are pinged more often than every 5 s; an unanswered ping or unacknowledged bytes
    # close ours after 2 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The defaults go up to two minutes: a leader has two seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
METADATA = (("hasleader", "true"),)
"""A member without a quorum answers so at once, instead of letting requests wait."""

_REFUSED = {
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}
"""Codes by which etcd says that it looked at a request and did not carry it out."""


class AnswerLost(Unavailable):
    """No answer came: the request may or may not have been, or still be, carried out."""


class Refused(Unavailable):
    """etcd answered with an error: the request was not carried out. `code` is gRPC's status code."""

    def __init__(self, text: str, code: grpc.StatusCode) -> None:
        self.code = code
        super().__init__(text)


class _Server:
    """One member's channel and stubs."""

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.endpoint = endpoint
        self.checked = False
        self.channel = (
            grpc.aio.insecure_channel(endpoint, options=OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(endpoint, credentials, options=OPTIONS)
        )
        self.kv = rpc.KVStub(self.channel)
        self.lease = rpc.LeaseStub(self.channel)
        self.watch = rpc.WatchStub(self.channel)
        self.maintenance = rpc.MaintenanceStub(self.channel)
        self.cluster = rpc.ClusterStub(self.channel)


class EtcdClient:
    """See the module. Errors: `AnswerLost`, `Refused`, `Unavailable` when nothing was sent, and `Invalid` for a request
    over etcd's limits and for an etcd we do not run on."""

    def __init__(self, endpoints: Sequence[str], tls: TlsFiles | None, *, check_timeout_s: float) -> None:
        """`endpoints` as `host:port`. Raises `Invalid` when the TLS files cannot be used."""
        assert endpoints, "an etcd cluster has members"
        self.credentials = None if tls is None else channel_credentials(tls)
        self._endpoints = tuple(endpoints)
        self._check_timeout_s = check_timeout_s
        self._servers: dict[str, _Server] = {}
        self._current = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All of them, the one in use first."""
        return (*self._endpoints[self._current :], *self._endpoints[: self._current])

    async def first_answer(self, ask: Callable[[], Coroutine[Any, Any, Answer]], *, patience_s: float) -> Answer:
        """What `ask` says, of this server or of the next: asked beside it when `patience_s` pass without an answer.

        For what may be sent twice and cannot wait: a server behind a cut cable keeps silent until the deadline. Each
        server is asked once at most. Raises what the last one failed with when all that were asked have failed.
        """
        asking: set[asyncio.Task[Answer]] = set()
        try:
            for others in reversed(range(len(self._endpoints))):
                asked = self._endpoints[self._current]
                asking.add(asyncio.create_task(ask()))
                answer = await _first_success(asking, patience_s if others else None)
                if answer is not None:
                    return answer.result()
                self._leave(asked)
            raise AssertionError("without a limit it waits for an answer or for all to fail")
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def read(self, request: Message, *, timeout_s: float) -> Message:
        return await self._call(lambda server: server.kv.Range, request, timeout_s)

    async def transact(self, request: Message, *, timeout_s: float) -> Message:
        return await self._call(lambda server: server.kv.Txn, request, timeout_s)

    async def compact(self, revision: int, *, timeout_s: float) -> None:
        await self._call(lambda server: server.kv.Compact, rpc.CompactionRequest(revision=revision), timeout_s)

    async def grant(self, ttl_s: int, *, timeout_s: float) -> tuple[int, int]:
        """A new lease: its id, and the seconds it lasts (the server may give more than asked for)."""
        answer = await self._call(lambda server: server.lease.LeaseGrant, rpc.LeaseGrantRequest(TTL=ttl_s), timeout_s)
        return answer.ID, answer.TTL

    async def revoke(self, lease_id: int, *, timeout_s: float) -> None:
        """End a lease and delete its keys. A lease that is gone already is no error."""
        try:
            await self._call(lambda server: server.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease_id), timeout_s)
        except Refused as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise

    async def renew(self, lease_id: int, *, timeout_s: float) -> int:
        """Keep a lease alive once; the seconds it lasts now, 0 when it is gone."""
        server = await self._ready()
        request = rpc.LeaseKeepAliveRequest(ID=lease_id)
        stream = server.lease.LeaseKeepAlive(timeout=timeout_s, metadata=METADATA)
        try:
            await stream.write(request)
            answer = await self._next(server, stream)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self._failed(server, error) from error
        finally:
            stream.cancel()
        return int(answer.TTL)

    async def wait_for_change(self, key: bytes, *, after: int, limit_s: float) -> None:
        """Return when `key` may have changed after revision `after`, at the latest after `limit_s`.

        A watch is a hint: it may be cancelled because of a compaction, or be silent on a stream that looks healthy. So
        the caller always reads again. `after` must be the header of a read, which has seen all up to it; the header of
        a watch's answer can be ahead of events that are still to come.
        """
        server = await self._ready()
        create = rpc.WatchCreateRequest(key=key, start_revision=after + 1)
        stream = server.watch.Watch(metadata=METADATA)
        try:
            async with asyncio.timeout(limit_s):
                await stream.write(rpc.WatchRequest(create_request=create))
                answer = await self._next(server, stream)
                while not (answer.events or answer.canceled):
                    answer = await self._next(server, stream)
        except TimeoutError:
            return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self._failed(server, error) from error
        finally:
            stream.cancel()

    async def status_of(self, endpoint: str, *, timeout_s: float) -> Message:
        """What one server says of itself, of whatever version it is. Raises `Unavailable`."""
        return await self._ask_one(endpoint, lambda one: one.maintenance.Status(rpc.StatusRequest(), timeout=timeout_s))

    async def members_by(self, endpoint: str, *, timeout_s: float) -> Message:
        """The members of the cluster as one server knows them. Raises `Unavailable`."""
        request = rpc.MemberListRequest()
        return await self._ask_one(endpoint, lambda one: one.cluster.MemberList(request, timeout=timeout_s))

    async def alarms_by(self, endpoint: str, *, timeout_s: float) -> Message:
        """The alarms that stand, as one server knows them. Raises `Unavailable`."""
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET)
        return await self._ask_one(endpoint, lambda one: one.maintenance.Alarm(request, timeout=timeout_s))

    async def _ask_one(self, endpoint: str, ask: Callable[[_Server], Awaitable[Message]]) -> Message:
        """On a connection of its own: the one in use is not disturbed."""
        if self._closed:
            raise Unavailable("this store is closed")
        server = _Server(endpoint, self.credentials)
        try:
            return await ask(server)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"etcd {endpoint}: {error.details()}") from error
        finally:
            await server.channel.close()

    async def close(self) -> None:
        self._closed = True
        for server in self._servers.values():
            await server.channel.close()
        self._servers.clear()

    async def _call(self, stub: Callable[[_Server], Stub], request: Message, timeout_s: float) -> Message:
        server = await self._ready()
        try:
            return await stub(server)(request, timeout=timeout_s, metadata=METADATA)
        except grpc.aio.AioRpcError as error:
            raise self._failed(server, error) from error

    async def _next(self, server: _Server, stream: Message) -> Message:
        answer = await stream.read()
        if answer is grpc.aio.EOF:
            self._move_on(server)
            raise AnswerLost(f"etcd {server.endpoint}: ended the stream")
        return answer

    async def _ready(self) -> _Server:
        """The server in use, known to be one we run on. That much failed: nothing was sent."""
        if self._closed:
            raise Unavailable("this store is closed")
        endpoint = self._endpoints[self._current]
        server = self._servers.get(endpoint)
        if server is None:
            server = self._servers[endpoint] = _Server(endpoint, self.credentials)
        if not server.checked:
            try:
                status = await server.maintenance.Status(rpc.StatusRequest(), timeout=self._check_timeout_s)
            except grpc.aio.AioRpcError as error:
                self._failed(server, error)
                raise Unavailable(f"etcd {endpoint}: does not answer: {error.details()}") from error
            check_version(endpoint, status.version)
            server.checked = True
        return server

    def _failed(self, server: _Server, error: grpc.aio.AioRpcError | asyncio.InvalidStateError) -> PodiumError:
        if isinstance(error, asyncio.InvalidStateError):  # the stream had ended before we wrote to it
            self._move_on(server)
            return AnswerLost(f"etcd {server.endpoint}: the stream ended")
        code, text = error.code(), f"etcd {server.endpoint}: {error.details()}"
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return Invalid(text)
        if code not in _REFUSED:
            self._move_on(server)
            return AnswerLost(f"{text} ({code.name})")
        if "space exceeded" in text:
            text += ". Nothing can be written until it is compacted, defragmented and its alarm disarmed (etcdctl)"
        return Refused(f"{text} ({code.name})", code)

    def _move_on(self, server: _Server) -> None:
        """Ask another server next time; this one is checked again when its turn comes: it may be upgraded meanwhile."""
        server.checked = False
        self._leave(server.endpoint)

    def _leave(self, endpoint: str) -> None:
        if endpoint == self._endpoints[self._current]:
            self._current = (self._current + 1) % len(self._endpoints)


async def _first_success(asking: set[asyncio.Task[Answer]], limit_s: float | None) -> asyncio.Task[Answer] | None:
    """The first of these that succeeds within `limit_s`; those that fail leave the set, the last one raises."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while True:
                done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None:
                        return task
                asking -= done
                if not asking:
                    done.pop().result()
    return None


def check_version(endpoint: str, version: str) -> None:
    """Raises `Invalid` when this etcd loses data or is too old for what we ask of it."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    number = tuple(int(part) for part in match.groups()) if match else (0, 0, 0)
    if (3, 5, 0) <= number <= (3, 5, 2):
        raise Invalid(f"etcd {endpoint}: version {version} can corrupt its data (3.5.0 to 3.5.2 do); upgrade to 3.5.3")
    if number < (3, 4, 0):
        raise Invalid(f"etcd {endpoint}: version {version!r} is not supported; 3.4 and 3.5.3 or later are")
