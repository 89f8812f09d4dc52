"""The engineer's services over a term without listeners: for tests of what they answer and write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from common.errors import Unavailable
from common.model.node import Node, RuntimeStatus
from common.model.resources import Resources
from controller.api.cluster import ClusterService
from controller.api.jobs import JobsService
from controller.api.nodes import NodesService
from controller.api.term import ApiFront, ApiTerm
from controller.events import EventLog
from controller.loops.placement import PlacementLoop
from controller.settings import Timers
from controller.store.keys import Record
from tests.dispatcher_rig import Rig, description, rig

CAPACITY = Resources(cpu_millis=4_000, memory_bytes=1 << 32)


class Api:
    def __init__(self, r: Rig, placement: PlacementLoop) -> None:
        self.rig = r
        self.brake: tuple[str, tuple[str, ...]] = ("", ())
        """What a release comes upon."""
        self.store_says: str | Unavailable = "scripted answers in 1 ms"
        self.events = EventLog(r.state, lambda: r.now_s)
        r.ledger.subscribe(self.events.committed)
        r.presence.subscribe(self.events.condition_changed)
        self.term = ApiTerm(
            ledger=r.ledger,
            presence=r.presence,
            events=self.events,
            logs=r.dispatcher.logs,
            execs=r.dispatcher.execs,
            measurements=r.dispatcher.measurements,
            volumes=r.dispatcher.volumes,
            table=placement.table,
            verdicts=placement.verdicts,
            clock=lambda: r.now_s,
            rng=random.Random(2),
            address="10.0.0.1:7077",
            store="scripted",
            timers=Timers(),
            version="0.1",
            controllers=self.controllers,
            store_health=self.store_health,
            release_brake=lambda: self.brake,
        )
        self.front = ApiFront(lambda: "10.0.0.9:7077")
        self.jobs = JobsService(self.front)
        self.nodes = NodesService(self.front)
        self.cluster = ClusterService(self.front)

    async def controllers(self) -> tuple[str, ...]:
        return ("10.0.0.1:7077",)

    async def store_health(self) -> str:
        if isinstance(self.store_says, Unavailable):
            raise self.store_says
        return self.store_says


@asynccontextmanager
async def api(*records: Record) -> AsyncIterator[Api]:
    async with rig(*records) as r:
        placement = PlacementLoop(r.ledger, r.presence, clock=lambda: r.now_s)
        placing = asyncio.create_task(placement.run())
        await asyncio.sleep(0)  # it has taken the state over
        made = Api(r, placement)
        with made.front.lead(made.term):
            yield made
        placing.cancel()
        with suppress(asyncio.CancelledError):
            await placing


def node(node_id: str, capacity: Resources = CAPACITY) -> Node:
    runtimes = (RuntimeStatus(name="docker"),)
    described = msgspec.structs.replace(description(node_id), capacity=capacity, runtimes=runtimes)
    return Node(id=node_id, description=described)
