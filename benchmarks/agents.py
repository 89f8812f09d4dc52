"""The agents' side of the control plane alone: what a task, and what a heartbeat, costs the process of pretended nodes.

`python -m benchmarks.agents [AGENTS TASKS_EACH TASKS_PER_MESSAGE]` (200 20 20). The whole agent of each node with the
wire's encoding both ways, in this process, and nothing of gRPC: in its place is a leader that says what it must and
costs next to nothing. Processor time, since a busy machine leaves that alone more than anything else.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import psutil

from agent.crowd import members, pretended
from agent.metrics import Metrics
from agent.settings import AgentSettings
from benchmarks.crowd import spec
from benchmarks.stage import NAMESPACE, report
from common import garbage, wire
from common.model.epoch import Epoch
from common.model.ids import new_id
from common.model.job import DesiredState
from common.model.session import (
    AgentMessage,
    Assignment,
    Assignments,
    ControllerBody,
    ControllerMessage,
    Endpoints,
    Heartbeat,
    HeartbeatAck,
    Register,
    Registered,
    StatusBatch,
)
from common.model.task import TaskState
from common.version import own_version

AGENTS, TASKS_EACH, TASKS_PER_MESSAGE = 200, 20, 20
PERIOD_S, PATIENCE_S = 1.0, 60.0
BEATS_S = 5.0
"""For so long heartbeats are counted before any task."""
MESSAGES_PER_TURN = 20
"""As they come from a leader: not all at once."""


class Leader:
    """Takes every node in and counts what runs."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.beats = 0
        self.batches = 0
        self.running: set[str] = set()
        self.changed = asyncio.Event()

    async def until(self, agents: int, tasks: int) -> None:
        while len(self.links) < agents or len(self.running) < tasks:
            self.changed.clear()
            await self.changed.wait()


class Link:
    """Both ends of one node's session; implements `AgentLink`, and is its own `Dialer`."""

    def __init__(self, leader: Leader, node_id: str) -> None:
        self.node_id = node_id
        self._leader = leader
        self._down: asyncio.Queue[bytes] = asyncio.Queue()
        self._heard = 0

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[Link]:
        yield self

    async def send(self, message: AgentMessage) -> None:
        wire.encode(message).SerializeToString()
        match message.body:
            case Register():
                self._welcome()
            case Heartbeat(sequence=sequence):
                self._leader.beats += 1
                self.say(encoded(HeartbeatAck(sequence=sequence, next_period_s=PERIOD_S, statuses=self._heard)))
            case StatusBatch(sequence=sequence, reports=reports):
                self._leader.batches += 1
                self._heard = sequence
                self._leader.running |= {one.task_id for one in reports if one.status.state is TaskState.RUNNING}
                self._leader.changed.set()
            case _:
                pass
        await asyncio.sleep(0)

    async def receive(self) -> ControllerMessage:
        return wire.parse(ControllerMessage, await self._down.get())

    def say(self, message: bytes) -> None:
        self._down.put_nowait(message)

    def _welcome(self) -> None:
        timers = {"heartbeat_period_s": PERIOD_S, "acknowledge_timeout_s": PATIENCE_S}
        self.say(encoded(Registered(node_id=self.node_id, session_id=self.node_id, **timers)))
        self.say(encoded(Assignments(complete=True, sequence=1)))
        self.say(encoded(Endpoints(complete=True, revision=0)))
        self._leader.links.append(self)
        self._leader.changed.set()


def encoded(body: ControllerBody) -> bytes:
    return wire.encode(ControllerMessage(epoch=Epoch(term=1), body=body)).SerializeToString()


async def run(agents: int, each: int, per_message: int) -> None:
    settings = AgentSettings(controllers=("127.0.0.1:1",), data_dir="", name="n", count=agents, runtimes=("fake",))
    leader, metrics, rng, stop = Leader(), Metrics(own_version()), random.Random(1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for one in members(settings):
            node_id = new_id(rng)
            node = pretended(one, node_id, Link(leader, node_id), metrics, random.Random(node_id))
            group.create_task(node.run(stop=stop))
        await leader.until(agents, 0)
        garbage.keep()
        beat_us = await _beats(leader)
        messages = list(_messages(leader, each, per_message, rng))
        before_bytes, before_s, batches = _resident_bytes(), time.process_time(), leader.batches
        for number, (link, message) in enumerate(messages, start=1):
            link.say(message)
            if number % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)
        await leader.until(agents, agents * each)
        used_s = time.process_time() - before_s
        report(
            "agents",
            agents=agents,
            tasks=agents * each,
            tasks_per_message=per_message,
            cpu_us_per_task=round(1e6 * used_s / (agents * each), 1),
            bytes_per_task=round((_resident_bytes() - before_bytes) / (agents * each)),
            status_messages_per_task=round((leader.batches - batches) / (agents * each), 3),
            cpu_us_per_heartbeat=beat_us,
        )
        stop.set()


async def _beats(leader: Leader) -> float:
    """What one costs, with its acknowledgement."""
    await asyncio.sleep(PERIOD_S)
    before_s, before = time.process_time(), leader.beats
    await asyncio.sleep(BEATS_S)
    return round(1e6 * (time.process_time() - before_s) / (leader.beats - before), 1)


def _messages(leader: Leader, each: int, per_message: int, rng: random.Random) -> list[tuple[Link, bytes]]:
    """To all nodes in turn."""
    task = spec(NAMESPACE, "job", 1).task
    order = Assignment(
        task_id="", namespace=NAMESPACE, job="job", slot=1, version=1, desired=DesiredState.RUN, task=task
    )
    found = []
    for sequence, first in enumerate(range(0, each, per_message), start=2):
        count = min(per_message, each - first)
        for link in leader.links:
            orders = tuple(msgspec.structs.replace(order, task_id=new_id(rng)) for _ in range(count))
            found.append((link, encoded(Assignments(complete=False, sequence=sequence, assignments=orders))))
    return found


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def main(arguments: list[str]) -> None:
    import uvloop

    agents, each, per_message = map(int, arguments) if arguments else (AGENTS, TASKS_EACH, TASKS_PER_MESSAGE)
    uvloop.run(run(agents, each, per_message))


if __name__ == "__main__":
    main(sys.argv[1:])
