"""Controllers and agents of different versions, as real processes: what one side has no word for costs nothing.

A gate between them makes each look newer to the other: every message has a field more, and each is preceded by one that
says something nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from tests.cluster.beside import beside
from tests.cluster.hello import Hello
from tests.cluster.processes import PATIENT, Cluster, cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BESIDE = "processes"
UNKNOWN = b"\xfa\x7f\x03new"
"""Field 2047, of a version that is not written yet."""
NODES = (("n1", "127.0.0.71"), ("n2", "127.0.0.72"))


class Gate(grpc.GenericRpcHandler):
    """Passes streams of any method on as bytes, and makes either side look newer than it is."""

    def __init__(self, beyond: str) -> None:
        self._channel = grpc.aio.insecure_channel(beyond)
        self.passed = {"up": 0, "down": 0}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = handler_call_details.method

        async def serve(said: AsyncIterator[bytes], context: Any) -> None:
            call = self._channel.stream_stream(method)()
            up = asyncio.create_task(self._up(said, call))
            try:
                async for message in call:
                    self.passed["down"] += 1
                    await context.write(UNKNOWN)
                    await context.write(message + UNKNOWN)
            finally:
                up.cancel()
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _up(self, said: AsyncIterator[bytes], call: Any) -> None:
        async for message in said:
            self.passed["up"] += 1
            await call.write(UNKNOWN)
            await call.write(message + UNKNOWN)
        await call.done_writing()

    async def close(self) -> None:
        await self._channel.close()


@asynccontextmanager
async def gated(directory: Path) -> AsyncIterator[tuple[Cluster, Gate]]:
    """Agents that reach their controller through a gate only."""
    async with cluster(directory, f"sqlite://{directory}/controller.db", "process", (), *PATIENT) as made:
        gate, server = Gate(made.grpc), grpc.aio.server()
        server.add_generic_rpc_handlers((gate,))
        beyond, made.grpc = made.grpc, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            for name, address in NODES:
                made.add_agent(name, address).start()
            made.grpc = beyond
            await made.until_ready(len(NODES))
            yield made, gate
        finally:
            await server.stop(0)
            await gate.close()


@beside(gated)
async def test_a_newer_agent_and_a_newer_controller_are_understood_as_far_as_they_can_be(
    staged: tuple[Cluster, Gate],
) -> None:
    made, gate = staged
    hello = Hello(made)
    await hello.up()
    before = await hello.pids()
    await made.run("scale", "hello/hello=4")
    grown = await hello.pids(4)
    assert grown.items() > before.items()
    psutil.Process(next(iter(before.values()))).kill()
    await made.until("hello", lambda found: any(view.task.status.attempt > 1 for view in found[0].tasks))
    assert (await hello.pids(4)).keys() == grown.keys()
    assert await hello.answers("127.0.0.71", 4) == await hello.answers("127.0.0.72", 4)
    await made.run("logs", "hello/hello", "--tail", "1")
    await made.run("drain", "n2")
    assert min(gate.passed.values()) > 10
    assert all(log.count("registered with") == 1 for log in (agent.log() for agent in made.agents.values()))
    said = [program.log() for program in (made.controller, *made.agents.values())]
    assert all("is not understood and left out" in log for log in said), "politely: it says so, and goes on"
    assert not any("Traceback" in log for log in said)
