"""The transport over real gRPC: values in and out, leader hints, and what is certain about a failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import grpc.aio
import pytest

from client.client import Client
from client.client_grpc import GrpcTransport
from client.settings import ClientSettings
from client.transport import APPLY, JOBS
from common import wire
from common.backoff import Backoff
from common.errors import Fault, Fenced, Invalid, NotLeader, OutcomeUnknown, PodiumError, Unavailable
from common.grpc_errors import abort
from common.model.api import ApplyRequest, Changes, JobChange, JobDetail, JobList, ListJobs, WatchedJobs
from protos.v1 import api_pb2, api_pb2_grpc
from tests.builders import job_spec, job_view


class Jobs(api_pb2_grpc.JobsServicer):
    """Raises what `refusal` says, else answers; answers nothing at all once `silent`."""

    def __init__(self) -> None:
        self.refusal: PodiumError | None = None
        self.silent = False
        self.released = asyncio.Event()
        """Set to have the silent ones answer after all."""
        self.pieces = 1
        self.applied: list[ApplyRequest] = []
        self.asked = asyncio.Event()

    async def _refuse(self, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        if self.refusal is not None:
            await abort(context, self.refusal)
        if self.silent:
            await self.released.wait()

    async def Apply(self, request: api_pb2.ApplyRequest, context: grpc.aio.ServicerContext) -> object:  # type: ignore[type-arg, override]  # noqa: N802
        self.applied.append(wire.decode(ApplyRequest, request))
        self.asked.set()
        await self._refuse(context)
        return wire.encode(Changes(changes=(JobChange(job="shop/web", action="create", version=1),)))

    async def List(  # type: ignore[override]  # noqa: N802
        self,
        request: api_pb2.ListJobs,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> AsyncIterator[object]:
        await self._refuse(context)
        for _ in range(self.pieces):
            yield wire.encode(JobList(jobs=(job_view(),)))

    async def Watch(  # type: ignore[override]  # noqa: N802
        self,
        request: api_pb2.WatchJobs,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> AsyncIterator[object]:
        await self._refuse(context)
        yield wire.encode(WatchedJobs(jobs=(JobDetail(view=job_view()),)))
        await asyncio.Event().wait()


class Controller:
    """One listening controller on a free port."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.jobs = Jobs()
        self.server = grpc.aio.server()
        api_pb2_grpc.add_JobsServicer_to_server(self.jobs, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port(address)}"


@pytest.fixture
async def controllers() -> AsyncIterator[tuple[Controller, Controller]]:
    pair = Controller(), Controller()
    for controller in pair:
        await controller.server.start()
    yield pair
    for controller in pair:
        await controller.server.stop(None)


def settings(*controllers: Controller) -> ClientSettings:
    return ClientSettings(
        controllers=tuple(controller.address for controller in controllers),
        silence_limit_s=0.2,
        deadline_s=5.0,
        backoff=Backoff(first_s=0.001, limit_s=0.01),
    )


def client(*controllers: Controller) -> Client:
    return Client(settings(*controllers), rng=random.Random(1))


async def test_values_go_in_and_out(controllers: tuple[Controller, Controller]) -> None:
    async with client(controllers[0]) as podium:
        done = await podium.apply("shop", [job_spec()], remove_orphans=True)
        assert done.changes == (JobChange(job="shop/web", action="create", version=1),)
        assert await podium.jobs() == (job_view(),)
    (request,) = controllers[0].jobs.applied
    assert (request.specs, request.remove_orphans) == ((job_spec(),), True)


async def test_an_answer_in_pieces_is_whole_again(controllers: tuple[Controller, Controller]) -> None:
    controllers[0].jobs.pieces = 3
    async with client(controllers[0]) as podium:
        assert await podium.jobs() == (job_view(),) * 3


async def test_follows_the_leader_named_in_the_trailing_metadata(controllers: tuple[Controller, Controller]) -> None:
    follower, leader = controllers
    follower.jobs.refusal = NotLeader(leader.address)
    async with client(follower) as podium:
        assert len(await podium.jobs()) == 1
        assert len((await podium.apply("shop", [job_spec()])).changes) == 1
    assert (len(follower.jobs.applied), len(leader.jobs.applied)) == (0, 1)


async def test_a_watch_moves_on_when_its_controller_dies(controllers: tuple[Controller, Controller]) -> None:
    first, second = controllers
    async with client(first, second) as podium:
        news = podium.watch("shop")
        before = await anext(news)
        await first.server.stop(None)
        assert await anext(news) == before
        await news.aclose()


async def test_every_fault_of_a_refusal_arrives(controllers: tuple[Controller, Controller]) -> None:
    faults = (Fault(path="services.web.image", text="is nothing"), Fault(path="", text="and more", file="f", line=2))
    controllers[0].jobs.refusal = Invalid(faults)
    async with client(controllers[0]) as podium:
        with pytest.raises(Invalid) as raised:
            await podium.apply("shop", [job_spec()])
    assert raised.value.faults == faults


async def ask(
    controllers: tuple[Controller, Controller], timeout_s: float = 5.0, address: str = ""
) -> Changes | PodiumError:
    transport = GrpcTransport(settings(controllers[0]))
    try:
        request = ApplyRequest(namespace="shop", specs=())
        return await transport.ask(address or controllers[0].address, APPLY, request, timeout_s=timeout_s)
    except PodiumError as error:
        return error
    finally:
        await transport.close()


async def test_nobody_there_is_certain_that_nothing_was_asked(controllers: tuple[Controller, Controller]) -> None:
    await controllers[1].server.stop(None)
    error = await ask(controllers, address=controllers[1].address)
    assert isinstance(error, Unavailable)
    assert not isinstance(error, OutcomeUnknown)
    assert controllers[1].address in str(error)


async def test_no_answer_in_time_may_have_happened(controllers: tuple[Controller, Controller]) -> None:
    controllers[0].jobs.silent = True
    assert isinstance(await ask(controllers, timeout_s=0.1), OutcomeUnknown)
    assert len(controllers[0].jobs.applied) == 1


async def test_a_server_that_dies_over_a_write_leaves_its_outcome_unknown(
    controllers: tuple[Controller, Controller],
) -> None:
    controllers[0].jobs.silent = True
    asking = asyncio.create_task(ask(controllers))
    await controllers[0].jobs.asked.wait()
    await controllers[0].server.stop(None)
    assert isinstance(await asking, OutcomeUnknown)


async def until_refused(transport: GrpcTransport, address: str) -> None:
    while True:
        with suppress(OutcomeUnknown):  # asked just as it began to leave
            await transport.ask(address, JOBS, ListJobs(), timeout_s=30)


async def test_who_finds_a_controller_leaving_does_not_cut_off_those_it_still_answers(
    controllers: tuple[Controller, Controller],
) -> None:
    leaving, jobs = controllers[0], controllers[0].jobs
    transport = GrpcTransport(ClientSettings(controllers=(leaving.address,)))
    jobs.silent = True
    request = ApplyRequest(namespace="shop", specs=(job_spec(),))
    asking = asyncio.create_task(transport.ask(leaving.address, APPLY, request, timeout_s=30))
    await jobs.asked.wait()
    jobs.silent = False
    stopping = asyncio.create_task(leaving.server.stop(grace=30))
    with pytest.raises(Unavailable, match="nobody listens"):
        await until_refused(transport, leaving.address)
    jobs.released.set()
    assert [change.job for change in (await asking).changes] == ["shop/web"]
    await stopping
    await transport.close()


async def test_a_term_that_ended_meanwhile_means_another_leader(controllers: tuple[Controller, Controller]) -> None:
    controllers[0].jobs.refusal = Fenced("its term is over")
    error = await ask(controllers)
    assert isinstance(error, NotLeader)
    assert error.leader == ""


async def test_a_controller_that_comes_back_is_connected_to_at_once(controllers: tuple[Controller, Controller]) -> None:
    transport = GrpcTransport(settings(controllers[0]))
    await controllers[0].server.stop(None)
    with pytest.raises(Unavailable):
        await transport.ask(controllers[0].address, JOBS, ListJobs(), timeout_s=5.0)
    again = Controller(controllers[0].address)
    assert again.address == controllers[0].address
    await again.server.start()
    try:
        assert len((await transport.ask(controllers[0].address, JOBS, ListJobs(), timeout_s=5.0)).jobs) == 1
    finally:
        await transport.close()
        await again.server.stop(None)
