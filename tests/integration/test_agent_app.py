"""A whole agent on real sockets and real processes: registers, runs, is restarted, and refuses what it must."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import msgspec
import pytest

from agent.app import serve
from agent.journal import FILE, Journal
from agent.network.relay_plane import RelayPlane
from agent.ports import PortAllocator
from agent.session_grpc import GrpcDialer
from agent.settings import AgentSettings
from common import wire
from common.errors import Conflict, Invalid, Unavailable
from common.model.device import Device, DeviceGrant
from common.model.epoch import Epoch
from common.model.job import Container, HealthCheck, Port, PublishMode
from common.model.privileges import NodePolicy
from common.model.session import (
    AgentMessage,
    ControllerMessage,
    Endpoints,
    EndpointsApplied,
    HeartbeatAck,
    Register,
    Registered,
)
from common.model.task import Health, TaskState
from protos.v1 import dispatcher_pb2, dispatcher_pb2_grpc
from tests.agent_builders import assignment
from tests.agent_rig import Controller, FakeDataPlane, orders
from tests.builders import node
from tests.ports import free_port

LIMIT_S = 30.0
ROOT = Path(__file__).parents[2]


class Servicer(dispatcher_pb2_grpc.DispatcherServicer):
    """A scripted controller behind real gRPC."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    async def Session(self, requests, context):  # type: ignore[no-untyped-def]  # noqa: N802
        async with self.controller.dial("grpc") as cable:

            async def listen() -> None:
                async for message in requests:
                    cable.up.put_nowait(wire.decode(AgentMessage, message))

            listening = asyncio.create_task(listen())
            try:
                while (message := await cable.down.get()) is not None:
                    yield wire.encode(message)
            finally:
                listening.cancel()


@asynccontextmanager
async def listening(controller: Controller) -> AsyncIterator[str]:
    server = grpc.aio.server()
    dispatcher_pb2_grpc.add_DispatcherServicer_to_server(Servicer(controller), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


def settings(address: str, data_dir: Path, **more: object) -> AgentSettings:
    return AgentSettings(
        proxy="relay",
        controllers=(address,),
        data_dir=str(data_dir),
        name="n1",
        runtimes=("process",),
        policy=NodePolicy(processes=True, process_user=""),
        **more,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def running(settings: AgentSettings, plane: FakeDataPlane, *, stop_tasks: bool = False) -> AsyncIterator[None]:
    stop, ready = asyncio.Event(), asyncio.Event()
    living = asyncio.create_task(
        serve(settings, stop=stop, data_plane=plane, on_ready=ready.set, stop_tasks=stop_tasks)
    )
    waiting = asyncio.create_task(ready.wait())
    try:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.wait((living, waiting), return_when=asyncio.FIRST_COMPLETED)
            yield
    finally:
        waiting.cancel()
        stop.set()
        await living


async def test_a_process_task_runs_outlives_its_agent_and_is_stopped(tmp_path: Path) -> None:
    controller = Controller()
    serving = Container(command=(sys.executable, "-m", "http.server", "${PORT}", "--bind", "127.0.0.1"))
    connect = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))"
    check = HealthCheck(test=("CMD", sys.executable, "-c", connect, "${PORT}"), interval_s=0.2)
    controller.first = orders(assignment(container=serving, ports=(Port(container_port=80),), health_check=check))
    async with listening(controller) as address:
        async with running(settings(address, tmp_path), FakeDataPlane()):
            await controller.until(
                lambda: "t1" in controller.statuses and controller.statuses["t1"].health is Health.HEALTHY, "healthy"
            )
            status = controller.statuses["t1"]
            [binding] = status.ports
            assert await answers(binding.host_port)
        assert await answers(binding.host_port), "it outlives its agent"
        plane = FakeDataPlane()
        async with running(settings(address, tmp_path), plane, stop_tasks=True):
            again = await controller.until_registered(2)
            assert again.inventory[0].status.runtime_id == status.runtime_id
            assert await answers(binding.host_port)
    assert not await answers(binding.host_port), "stopped with its agent, as asked"
    assert plane.stopped is True
    journal = Journal.open(tmp_path, random.Random(1))
    assert journal.tasks() == ()
    journal.close()


async def test_a_tasks_port_stays_its_own_after_the_agents_restart(tmp_path: Path) -> None:
    controller = Controller()
    sleeping = Container(command=("sleep", "1000"))
    controller.first = orders(assignment(container=sleeping, ports=(Port(container_port=80),)))
    async with listening(controller) as address:
        async with running(settings(address, tmp_path), FakeDataPlane()):
            [binding] = (await controller.until_state("t1", TaskState.RUNNING)).ports
        async with running(settings(address, tmp_path), FakeDataPlane(), stop_tasks=True):
            other = PortAllocator("127.0.0.1", random.Random(1))
            with pytest.raises(Conflict):  # though nobody listens there yet
                other.reserve("t2", (Port(container_port=1, published_port=binding.host_port, mode=PublishMode.HOST),))


async def answers(port: int) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def test_a_crashing_process_leaves_its_last_words(tmp_path: Path) -> None:
    controller = Controller()
    crashing = Container(command=("sh", "-c", "echo about to fail; exit 9"))
    controller.first = orders(assignment(container=crashing))
    async with (
        listening(controller) as address,
        running(settings(address, tmp_path), FakeDataPlane(), stop_tasks=True),
    ):
        await controller.until_state("t1", TaskState.RESTARTING)
        assert controller.attempts[0].exit_code == 9
        assert controller.attempts[0].log_tail == ("about to fail",)


async def test_found_and_declared_devices_are_offered_and_a_task_hears_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho '0, GPU-7f0e, NVIDIA A10'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    controller = Controller()
    telling = Container(command=("sh", "-c", "echo $CUDA_VISIBLE_DEVICES $PODIUM_DEVICE_GPU_SHARE; exit 9"))
    grant = DeviceGrant(kind="gpu", id="GPU-7f0e", share_millis=500)
    controller.first = orders(msgspec.structs.replace(assignment(container=telling), devices=(grant,)))
    fpga, gpu = Device(kind="fpga", id="0"), Device(kind="gpu", id="GPU-7f0e", model="A10")
    async with listening(controller) as address:
        offering = settings(address, tmp_path / "data", devices=(fpga,))
        async with running(offering, FakeDataPlane(), stop_tasks=True):
            assert (await controller.until_registered(1)).node.devices == (fpga, gpu)
            await controller.until(lambda: bool(controller.attempts), "the record of its end")
            assert controller.attempts[0].log_tail == ("GPU-7f0e 0.5",)
        shared = msgspec.structs.replace(offering, find_devices=False)
        async with running(shared, FakeDataPlane(), stop_tasks=True):
            assert (await controller.until_registered(2)).node.devices == (fpga,)


async def test_monitoring_reads_the_agent(tmp_path: Path) -> None:
    controller = Controller()
    where = f"127.0.0.1:{free_port()}"
    async with (
        listening(controller) as address,
        running(settings(address, tmp_path, http_listen=where), FakeDataPlane()),
        aiohttp.ClientSession() as session,
    ):
        async with session.get(f"http://{where}/readyz?verbose") as response:
            assert response.status == 200
            assert "[+] controller: registered" in await response.text()
        async with session.get(f"http://{where}/metrics") as response:
            assert "podium_agent_connected 1.0" in await response.text()


async def test_a_second_agent_on_the_same_data_directory_is_refused(tmp_path: Path) -> None:
    controller = Controller()
    async with listening(controller) as address, running(settings(address, tmp_path), FakeDataPlane()):
        with pytest.raises(Conflict, match=f"pid {os.getpid()}"):
            await serve(settings(address, tmp_path), stop=asyncio.Event(), data_plane=FakeDataPlane())


async def test_an_address_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no address and no name of one"):
        await serve(
            settings("127.0.0.1:1", tmp_path, advertise="no.such.host.invalid"),
            stop=asyncio.Event(),
            data_plane=FakeDataPlane(),
        )


async def test_the_program_ends_with_2_and_touches_nothing_when_its_journal_is_corrupt(tmp_path: Path) -> None:
    Journal.open(tmp_path, random.Random(1)).close()
    (tmp_path / FILE).write_bytes(b"scrambled" * 1_000)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir() if path.name != "agent.lock")
    code, said = await program("--data-dir", str(tmp_path), "--runtime", "process", "--controller", "127.0.0.1:1")
    assert code == 2
    assert f"error: {tmp_path / FILE}: the agent's journal cannot be read" in said
    after = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir() if path.name != "agent.lock")
    assert after == before


async def program(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", *arguments, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_S):
        _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_the_program_ends_cleanly_on_a_signal(tmp_path: Path) -> None:
    controller = Controller()
    controller.first += [Endpoints(complete=True, revision=1)]
    async with listening(controller) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent", "--data-dir", str(tmp_path), "--controller", address, "--name", "n1"),
            *("--runtime", "fake"),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                await controller.until_heard(EndpointsApplied)
                process.send_signal(signal.SIGTERM)
                await process.communicate()
        finally:
            await end_relay(tmp_path)
        assert process.returncode == 0


async def end_relay(data_dir: Path) -> None:
    """A stopped agent leaves its relay to its successor; here there is none."""
    plane = RelayPlane(data_dir / "relay", "127.0.0.1", random.Random(1))
    await plane.start()
    await plane.close(stop=True)


# --- the link itself


async def test_nobody_at_the_address_is_unavailable_in_time() -> None:
    dialer = GrpcDialer(None, insecure=False, timeout_s=60.0)  # a leader just stopped must not keep us from the next
    with pytest.raises(Unavailable, match=r"nobody listens there"):
        async with dialer.dial("127.0.0.1:1"):
            pass


async def test_another_machine_is_not_dialled_in_the_clear() -> None:
    with pytest.raises(Invalid, match="--insecure"):
        async with GrpcDialer(None, insecure=False, timeout_s=0.2).dial("192.0.2.1:7077"):
            pass


async def test_messages_go_both_ways_and_the_end_is_unavailable() -> None:
    controller = Controller()
    controller.first = []
    dialer = GrpcDialer(None, insecure=False, timeout_s=5.0)
    async with listening(controller) as address, dialer.dial(address) as link:
        description = node("n1").description
        await link.send(AgentMessage(body=Register(node=description, highest_epoch=Epoch(term=3))))
        message = await link.receive()
        assert isinstance(message.body, Registered)
        assert controller.registers == [Register(node=description, highest_epoch=Epoch(term=3))]
        controller.say(HeartbeatAck(sequence=1, next_period_s=1.0))
        assert (await link.receive()).body == HeartbeatAck(sequence=1, next_period_s=1.0)
        controller.cut()
        with pytest.raises(Unavailable):
            await link.receive()
        with pytest.raises(Unavailable):
            await link.send(AgentMessage(body=Register(node=description)))


async def test_a_message_that_is_not_understood_is_left_out() -> None:
    class Newer(dispatcher_pb2_grpc.DispatcherServicer):
        async def Session(self, requests, context):  # type: ignore[no-untyped-def]  # noqa: N802
            yield dispatcher_pb2.ControllerMessage()  # what a body of a later version looks like here
            yield wire.encode(ControllerMessage(epoch=Epoch(term=1), body=HeartbeatAck(sequence=7, next_period_s=1.0)))

    server = grpc.aio.server()
    dispatcher_pb2_grpc.add_DispatcherServicer_to_server(Newer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with GrpcDialer(None, insecure=False, timeout_s=5.0).dial(f"127.0.0.1:{port}") as link:
        assert (await link.receive()).body == HeartbeatAck(sequence=7, next_period_s=1.0)
    await server.stop(grace=None)
