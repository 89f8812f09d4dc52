"""A term's ledger and loops without listeners, on a store that does what it is told: for tests of the loops."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import msgspec

from common.model.api import ApplyRequest
from common.model.job import Job, JobSpec
from common.model.node import Node
from common.model.task import Task, TaskState, TaskStatus
from controller.core.apply import apply_specs
from controller.core.observe import observe
from controller.ledger import Ledger
from controller.presence import Presence
from controller.state import State, Write
from controller.store.interface import LeaderRecord
from controller.store.keys import Record
from tests.scripted_store import ScriptedStore


class LoopsRig:
    """See the module."""

    def __init__(self, store: ScriptedStore, ledger: Ledger) -> None:
        self.store = store
        self.ledger = ledger
        self.state = ledger.state
        self.presence = Presence(lambda: self.now_s)
        self.rng = random.Random(1)
        self.changed = asyncio.Event()
        ledger.subscribe(lambda _committed: self.changed.set())
        self.presence.subscribe(lambda _before, _after: self.changed.set())

    @property
    def now_s(self) -> float:
        """The wall clock of what runs here."""
        return 1_000_000.0 + asyncio.get_running_loop().time()

    async def up(self, *specs: JobSpec) -> None:
        request = ApplyRequest(namespace="shop", specs=specs)
        await self.ledger.submit(lambda state: apply_specs(state, request, self.now_s, self.rng).groups)

    async def write(self, *records: Record) -> None:
        await self.ledger.submit(lambda _state: [(Write(record),) for record in records])

    async def ready(self, *nodes: Node) -> None:
        """Nodes that have registered and are connected."""
        await self.write(*nodes)
        for node in nodes:
            self.presence.connected(node.id, node.description.runtimes)

    async def see(self, task: Task, state: TaskState) -> None:
        """What the task's agent reports."""
        status = TaskStatus(attempt=1, state=state, sequence=task.status.sequence + 1)
        await self.ledger.submit(lambda now: [(Write(observe(now.tasks[task.id], status, self.now_s)),)])

    def job(self, name: str = "web") -> Job:
        job = self.state.job_named("shop", name)
        assert job is not None
        return job

    def tasks(self, name: str = "web") -> list[Task]:
        return sorted(self.state.tasks_of_job(self.job(name).id).values(), key=lambda task: (task.slot, task.id))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds after some commit or change of a node."""
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def at_rest(self) -> None:
        """Let everything that can go on do so, until no commit comes any more."""
        quiet = 0
        while quiet < 20:
            commits = len(self.store.commits)
            await asyncio.sleep(0)
            quiet = quiet + 1 if commits == len(self.store.commits) else 0


@asynccontextmanager
async def rig(records: Iterable[Record] = ()) -> AsyncIterator[LoopsRig]:
    store = ScriptedStore()
    leadership = await store.campaign(LeaderRecord(controller_id="a", address="a:1"))
    ledger = Ledger(store, leadership, State.of(records), rng=random.Random(1))
    async with running(ledger.run):
        yield LoopsRig(store, ledger)


@asynccontextmanager
async def running(*parts: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run these for as long as the context lasts; what fails before that fails the test."""
    tasks = [asyncio.ensure_future(part()) for part in parts]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def renamed(spec: JobSpec, name: str, **changes: object) -> JobSpec:
    return msgspec.structs.replace(spec, name=name, **changes)
