"""Many pretended nodes in one process: the whole agent for each, over a runtime, a journal and a data plane in memory.

For trying a controller out at a size for which nobody has the machines: sessions, heartbeats, assignments and statuses
are the real ones, on a connection for each node. Decides nothing, and touches neither disk nor engine. A node's id
follows from its name, so that a crowd that is started again is the same nodes, with nothing left of what they ran.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.app import Agent
from agent.metrics import Metrics
from agent.network.pretended import PretendedDataPlane
from agent.pretended_journal import PretendedJournal
from agent.runtime.fake import FakeEngine, FakeRuntime
from agent.runtime.pretence import pretend
from agent.session_grpc import GrpcDialer
from agent.settings import AgentSettings
from common import garbage
from common.dispatch import AgentLink, Dialer
from common.model.ids import new_id
from common.model.resources import Usage
from common.service_manager import Beside, Condition
from common.version import own_version

if TYPE_CHECKING:
    from agent.membership import Membership

CROWDED_S = 30.0
"""For one call of a node that joins: hundreds do so at once, from one process on one core."""
STARTS_PER_S = 200.0
"""Nodes begin one after another: 5,000 that dial at once from one process all run into their time-out, and do so again
and again."""
KEEP_EVERY_S = 1.0
"""What nodes and tasks are made of leaves the garbage collector's rounds: one over a second's tasks of 5,000 nodes
keeps all their heartbeats waiting for a second. Cycles are lost with it: it is for trying, not for years."""
RUNTIME_POLL_S = 60.0
"""A pretended engine answers always: asking each of 5,000 every 5 s would cost a tenth of a core."""
DIALS_AT_ONCE = 32
"""As the starts, of those that lost their controller together."""


async def serve(settings: AgentSettings, *, stop: asyncio.Event, beside: Beside | None = None) -> None:
    """Run `settings.count` nodes, `NAME-1` and on, until `stop` is set. Raises `Invalid` when they cannot begin."""
    settings.check()
    line = asyncio.Semaphore(DIALS_AT_ONCE)
    metrics = Metrics(own_version())
    async with asyncio.TaskGroup() as group:
        for number, one in enumerate(members(settings)):
            group.create_task(_serve_one(one, line, metrics, stop, wait_s=number / STARTS_PER_S), name=one.name)
        helpers = [group.create_task(_keep_garbage())]
        if beside is not None:
            helpers.append(group.create_task(beside(_condition)))
        await stop.wait()
        for helper in helpers:
            helper.cancel()


async def _keep_garbage() -> None:
    while True:
        garbage.keep()
        await asyncio.sleep(KEEP_EVERY_S)


def members(settings: AgentSettings) -> Iterator[AgentSettings]:
    """The settings of each node."""
    for number in range(1, settings.count + 1):
        name = f"{settings.node_name}-{number}"
        bounds = msgspec.structs.replace(settings.bounds, runtime_poll_s=RUNTIME_POLL_S)
        yield msgspec.structs.replace(settings, name=name, count=1, http_listen="", find_devices=False, bounds=bounds)


async def _serve_one(
    settings: AgentSettings,
    line: asyncio.Semaphore,
    metrics: Metrics,
    stop: asyncio.Event,
    *,
    wait_s: float,
) -> None:
    if await _stopped_within(stop, wait_s):
        return
    rng = random.Random(settings.name)
    node_id = new_id(rng)
    rng.seed()  # chance is not to repeat itself with the node
    member = _member(settings, node_id, rng)
    timeout_s = settings.timers.dial_timeout_s
    dialer = GrpcDialer(settings.tls, insecure=settings.insecure, timeout_s=timeout_s, member=member)
    await pretended(settings, node_id, InTurn(dialer, line), metrics, rng, member).run(stop=stop)


def pretended(
    settings: AgentSettings,
    node_id: str,
    dialer: Dialer,
    metrics: Metrics,
    rng: random.Random,
    member: Membership | None = None,
) -> Agent:
    """One node of a crowd."""
    return Agent(
        settings,
        address=settings.advertise,
        journal=PretendedJournal(node_id),
        runtimes=[FakeRuntime(node_id, FakeEngine(time.time, pretend))],
        dialer=dialer,
        data_plane=PretendedDataPlane(),
        clock=time.time,
        rng=rng,
        usage=lambda _tasks: Usage(),
        metrics=metrics,
        member=member,
    )


def _member(settings: AgentSettings, node_id: str, rng: random.Random) -> Membership | None:
    """Each node has a certificate of its own, kept by its name: all of them join by the one token."""
    if not settings.joins:
        return None
    from agent.membership import Membership
    from agent.trust_grpc import GrpcTrust

    path, trust = Path(settings.data_dir) / "identities" / f"{settings.name}.json", GrpcTrust(CROWDED_S)
    return Membership(path, node_id, settings.controllers, trust, clock=time.time, rng=rng)


async def _stopped_within(stop: asyncio.Event, wait_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await stop.wait()
    return stop.is_set()


class InTurn:
    """Dials for many, a few at once: each has its time-out for itself, not for all that dial beside it."""

    def __init__(self, dialer: Dialer, room: asyncio.Semaphore) -> None:
        """`room` is for as many as may dial at once."""
        self._dialer = dialer
        self._room = room

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[AgentLink]:
        async with AsyncExitStack() as stack:
            async with self._room:
                link = await stack.enter_async_context(self._dialer.dial(address))
            yield link


async def _condition() -> Condition:
    return Condition(ready=True, text="pretended nodes")
