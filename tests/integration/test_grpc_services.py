"""The listener as clients meet it: sessions, calls, streams and errors over real gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import grpc
import pytest

from common import wire
from common.errors import Fenced, Invalid, NotFound, NotLeader
from common.grpc_errors import error_of
from common.model.api import (
    ApplyRequest,
    Changes,
    EventBatch,
    EventsRequest,
    JobList,
    JobRef,
    ListJobs,
    LogLines,
    LogsRequest,
)
from common.model.job import Container, JobSpec, TaskSpec
from common.model.node import NodeStatus
from common.model.session import (
    AgentMessage,
    Assignments,
    CloseLog,
    ControllerMessage,
    Endpoints,
    Heartbeat,
    LogChunk,
    LogLine,
    OpenLog,
    Redirect,
    Register,
    Registered,
)
from common.settings import LIMITS
from controller.api.authority import AuthorityService
from controller.api.gate import Gate
from controller.api.grpc_server import GrpcServer, dispatcher_service
from controller.api.grpc_services import api_services
from controller.api.trust import TrustService
from controller.audit import AuditLog
from controller.dispatcher.front import FrontDispatcher
from controller.store.interface import LeaderRecord
from protos.v1 import api_pb2_grpc, dispatcher_pb2_grpc
from tests.api_rig import Api, api
from tests.dispatcher_rig import WAIT_S, description, job_records, task_of, web_spec

LEADER = LeaderRecord(controller_id="b", address="10.0.0.9:7077")


class Served:
    """A leader behind a listener, and a channel to it."""

    def __init__(self, a: Api, front: FrontDispatcher, channel: grpc.aio.Channel) -> None:
        self.api = a
        self.dispatcher = front
        self.channel = channel
        self.jobs = api_pb2_grpc.JobsStub(channel)
        self.cluster = api_pb2_grpc.ClusterStub(channel)
        self.agents = dispatcher_pb2_grpc.DispatcherStub(channel)


@asynccontextmanager
async def served(*, leading: bool = True) -> AsyncIterator[Served]:
    async with api() as a:
        server = GrpcServer("grpc_listen", "127.0.0.1:0", None)
        front = FrontDispatcher(lambda: LEADER, server.address)
        api_front = a.front if leading else type(a.front)(lambda: LEADER.address)
        audit = AuditLog(None, time.time)
        gate = Gate(guarded=False, clock=time.time, audit=audit)
        services = [
            dispatcher_service(front, lambda call: gate.agent(None, call)),
            *api_services(api_front, gate, TrustService(api_front, None, 0, audit), AuthorityService(api_front, None)),
        ]
        async with (
            server.serving(services, shutdown_s=0.2),
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            with front.lead(a.rig.dispatcher) if leading else nullcontext():
                yield Served(a, front, channel)


def spec(name: str = "web") -> JobSpec:
    return JobSpec(namespace="shop", name=name, task=TaskSpec(container=Container(image="shop:1")))


async def test_a_write_is_answered_with_what_it_did() -> None:
    async with served() as s:
        request = wire.encode(ApplyRequest(namespace="shop", specs=(spec(),)))
        answer = wire.decode(Changes, await s.jobs.Apply(request, timeout=WAIT_S))
        assert [(change.job, change.action) for change in answer.changes] == [("shop/web", "create")]


async def test_faults_arrive_with_their_paths() -> None:
    async with served() as s:
        request = wire.encode(ApplyRequest(namespace="shop", specs=(spec("A"), spec("B"))))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await s.jobs.Apply(request, timeout=WAIT_S)
        error = error_of(refused.value)
        assert isinstance(error, Invalid)
        assert [fault.path for fault in error.faults] == ["services[0].name", "services[1].name"]


async def test_what_is_not_there_is_not_found() -> None:
    async with served() as s:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await s.jobs.Inspect(wire.encode(JobRef(namespace="shop", name="x")), timeout=WAIT_S).read()
        assert isinstance(error_of(refused.value), NotFound)


async def test_a_list_longer_than_a_piece_arrives_whole() -> None:
    async with served() as s:
        for number in range(3):
            specs = tuple(spec(f"web-{number}-{one}") for one in range(500))
            await s.jobs.Apply(wire.encode(ApplyRequest(namespace="shop", specs=specs)), timeout=WAIT_S)
        pieces = [piece async for piece in s.jobs.List(wire.encode(ListJobs()), timeout=WAIT_S)]
        assert [len(piece.jobs) for piece in pieces] == [LIMITS.items_per_piece, 500]
        names = {view.job.name for piece in pieces for view in wire.decode(JobList, piece).jobs}
        assert len(names) == 1_500


async def test_a_request_over_the_limit_is_refused_by_its_size() -> None:
    async with served() as s:
        request = wire.encode(JobRef(namespace="shop", name="x" * 5_000_000))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await s.jobs.Inspect(request, timeout=WAIT_S).read()
        error = error_of(refused.value)
        assert isinstance(error, Invalid)
        assert "4194304" in str(error)


async def test_a_follower_names_the_leader_to_engineers_and_agents() -> None:
    async with served(leading=False) as s:
        for call in (
            s.jobs.Inspect(wire.encode(JobRef(namespace="shop", name="x")), timeout=WAIT_S).read(),
            s.cluster.Events(wire.encode(EventsRequest()), timeout=WAIT_S).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            error = error_of(refused.value)
            assert isinstance(error, NotLeader)
            assert error.leader == LEADER.address
        session = s.agents.Session(timeout=WAIT_S)
        message = wire.decode(ControllerMessage, await session.read())
        assert isinstance(message.body, Redirect)
        assert message.body.leader == LEADER.address


async def test_a_write_whose_term_ended_is_for_the_leader() -> None:
    async with served() as s:
        s.api.rig.store.commit_failures.append(Fenced("another term has begun"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await s.jobs.Apply(wire.encode(ApplyRequest(namespace="shop", specs=(spec(),))), timeout=WAIT_S)
        assert isinstance(error_of(refused.value), NotLeader)


async def test_a_stream_ends_with_the_term() -> None:
    async with served() as s:
        following = s.cluster.Events(wire.encode(EventsRequest(follow=True)), timeout=WAIT_S)
        await s.jobs.Apply(wire.encode(ApplyRequest(namespace="shop", specs=(spec(),))), timeout=WAIT_S)
        batch = wire.decode(EventBatch, await following.read())
        assert batch.events[0].kind == "job.created"
        s.api.term.over.set()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await following.read()
        assert isinstance(error_of(ended.value), NotLeader)


async def test_a_stream_whose_client_leaves_is_let_go() -> None:
    async with served() as s:
        await s.api.rig.write(*job_records(web_spec()), task_of("t1"))
        agent = await s.api.rig.agent("n1")
        reading = s.jobs.Logs(wire.encode(LogsRequest(namespace="shop", name="web", follow=True)))
        reading_first = asyncio.create_task(reading.read())
        opened = await agent.next(OpenLog)
        agent.say(LogChunk(request_id=opened.request_id, lines=(LogLine(task_id="t1", text="hello"),)))
        assert wire.decode(LogLines, await reading_first).lines[0].text == "hello"
        reading.cancel()
        assert (await agent.next(CloseLog)).request_id == opened.request_id


async def test_an_agents_session_over_the_wire() -> None:
    async with served() as s:
        gone = asyncio.Event()
        s.api.rig.presence.subscribe(lambda _before, after: None if after.status is NodeStatus.READY else gone.set())
        session = s.agents.Session()
        await session.write(wire.encode(AgentMessage(body=Register(node=description("n1")))))
        async with asyncio.timeout(WAIT_S):
            first = wire.decode(ControllerMessage, await session.read())
            assert isinstance(first.body, Registered)
            assert first.epoch == s.api.rig.ledger.epoch
            assert isinstance(wire.decode(ControllerMessage, await session.read()).body, Endpoints)
            assert isinstance(wire.decode(ControllerMessage, await session.read()).body, Assignments)
            session.cancel()
            await gone.wait()
        assert s.api.rig.dispatcher.sessions == 0


async def test_a_session_that_begins_wrongly_is_refused() -> None:
    async with served() as s:
        session = s.agents.Session(timeout=WAIT_S)
        await session.write(wire.encode(AgentMessage(body=Heartbeat(sequence=1))))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await session.read()
        assert isinstance(error_of(refused.value), Invalid)
