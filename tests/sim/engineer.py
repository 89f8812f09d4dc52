"""The engineer, who operates the nodes too: asks for things through the API, repeats what was not answered, and
remembers what was acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

import msgspec

from common.errors import Conflict, Fenced, NotFound, Unavailable
from common.model.api import (
    ApplyRequest,
    Changes,
    JobsRequest,
    NodeChanges,
    NodesRequest,
    RollbackRequest,
    ScaleRequest,
    ScaleTarget,
)
from common.model.job import Container, DesiredState, JobSpec
from common.model.node import Availability
from controller.api.jobs import JobsService
from controller.api.nodes import NodesService
from controller.api.term import ApiFront
from tests.sim.record import Record
from tests.sim.site import Site
from tests.sim.witness import Witness

AGAIN_S = 0.3
NAMESPACE = "shop"
AnswerT = TypeVar("AnswerT")
Write: TypeAlias = Callable[[JobsService, str], Awaitable[Changes]]
"""One request about a job, given its idempotency key."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the engineer wants of one job, as of the last acknowledged request. `spec` None: it was removed."""

    spec: JobSpec | None = None
    replicas: int = 0
    rollbacks: int = 0
    """Of the job's, when the request was acknowledged."""
    desired: DesiredState = DesiredState.RUN


class _Requests(asyncio.Queue[Callable[[], Awaitable[None]]]):
    """About one job, in order."""

    unfinished = 0

    def task_done(self) -> None:
        super().task_done()
        self.unfinished -= 1


class Engineer:
    """See the module. Requests about one job or node are sent one after the other, those about several at the same
    time.
    """

    def __init__(self, sites: Sequence[Site], witness: Witness, record: Record) -> None:
        self.wishes: dict[str, Wish] = {}
        self.orders: dict[str, Availability] = {}
        """What was last acknowledged about each node, by name."""
        self._sites = sites
        self._witness = witness
        self._record = record
        self._waiting: dict[str, _Requests] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._keys = 0

    def up(self, spec: JobSpec) -> None:
        """Create the job, or change it to `spec`, or bring it back."""
        request = ApplyRequest(namespace=NAMESPACE, specs=(spec,))

        async def do() -> None:
            await self._until_done(
                f"up {spec.name} {spec.task.container.image} x{spec.replicas}",
                lambda jobs, key: jobs.apply(msgspec.structs.replace(request, idempotency_key=key)),
            )
            self.wishes[spec.name] = Wish(
                spec=spec, replicas=spec.replicas, rollbacks=self._witness.rollbacks.get(spec.name, 0)
            )

        self._later(spec.name, do)

    def scale(self, job: str, replicas: int) -> None:
        async def do() -> None:
            targets = (ScaleTarget(job=job, replicas=replicas),)
            done = await self._until_done(
                f"scale {job} to {replicas}",
                lambda jobs, key: jobs.scale(ScaleRequest(namespace=NAMESPACE, targets=targets, idempotency_key=key)),
            )
            self._remember(job, done, replicas=replicas)

        self._later(job, do)

    def restart(self, job: str) -> None:
        async def do() -> None:
            done = await self._until_done(f"restart {job}", lambda jobs, key: jobs.restart(_about(job, key)))
            self._remember(job, done, desired=DesiredState.RUN)

        self._later(job, do)

    def steer(self, job: str, verb: str) -> None:
        """`rollback`, `pause`, `resume` or `promote` its rollout, where that makes sense when it is its turn."""

        async def do() -> None:
            await self._steered(f"{verb} {job}", lambda jobs, key: _STEERING[verb](jobs, job, key))

        self._later(job, do)

    def stop(self, job: str) -> None:
        async def do() -> None:
            done = await self._until_done(f"stop {job}", lambda jobs, key: jobs.stop(_about(job, key)))
            self._remember(job, done, desired=DesiredState.STOP)

        self._later(job, do)

    def remove(self, job: str) -> None:
        async def do() -> None:
            await self._until_done(f"remove {job}", lambda jobs, key: jobs.remove(_about(job, key)))
            self.wishes[job] = Wish()

        self._later(job, do)

    def order(self, node: str, wanted: Availability) -> None:
        """Cordon, drain or uncordon a node."""

        async def do() -> None:
            if await self._ordered(node, wanted):
                self.orders[node] = wanted

        self._later(_node(node), do)

    async def answered(self) -> None:
        """Until everything asked so far was acknowledged."""
        for queue in tuple(self._waiting.values()):
            await queue.join()

    def idle(self, job: str) -> bool:
        """Whether nothing that was asked about the job waits for its answer."""
        return job not in self._waiting or not self._waiting[job].unfinished

    def idle_about(self, node: str) -> bool:
        """As `idle`, of a node."""
        return self.idle(_node(node))

    async def close(self) -> None:
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(set(self._workers))

    def _remember(self, job: str, done: bool, **changes: object) -> None:
        if done:
            self.wishes[job] = msgspec.structs.replace(self.wishes[job], **changes)

    def _later(self, job: str, do: Callable[[], Awaitable[None]]) -> None:
        if job not in self._waiting:
            self._waiting[job] = _Requests()
            self._workers.append(asyncio.get_running_loop().create_task(self._work(self._waiting[job])))
        self._waiting[job].put_nowait(do)
        self._waiting[job].unfinished += 1

    async def _work(self, requests: _Requests) -> None:
        while True:
            do = await requests.get()
            try:
                await do()
            except Exception as error:  # the rest of what is asked about this job would wait for ever, unexplained
                self._record.violated(f"a request of the engineer's failed with {error!r}")
            requests.task_done()

    async def _until_done(self, what: str, write: Write) -> bool:
        """False when there is no such job."""
        changes = await self._until_answered(what, lambda front, key: write(JobsService(front), key))
        actions = ", ".join(f"{change.action} v{change.version}" for change in changes.changes) if changes else ""
        if changes:
            self._record.note("answered", f"{what}: {actions}")
        return changes is not None

    async def _steered(self, what: str, write: Write) -> None:
        """Done, or refused for good: what makes no sense now is not asked for again."""

        async def once(front: ApiFront, key: str) -> Changes:
            try:
                return await write(JobsService(front), key)
            except Conflict as error:
                self._record.note("refused", f"{what}: {error}")
                return Changes()

        changes = await self._until_answered(what, once)
        if changes and changes.changes:
            self._record.note("answered", f"{what}: {changes.changes[0].action} v{changes.changes[0].version}")

    async def _ordered(self, node: str, wanted: Availability) -> bool:
        """False when there is no such node, or it drains: then it is not merely cordoned."""

        def write(front: ApiFront, key: str) -> Awaitable[NodeChanges]:
            service, request = NodesService(front), NodesRequest(nodes=(node,), idempotency_key=key)
            return _VERBS[wanted](service, request)

        changes = await self._until_answered(f"{node} {wanted.value}", write)
        if changes:
            self._record.note("answered", f"{node} {wanted.value}: {changes.changes[0].action}")
        drains = self.orders.get(node) is Availability.DRAINING
        return changes is not None and not (wanted is Availability.CORDONED and drains)

    async def _until_answered(self, what: str, write: Callable[[ApiFront, str], Awaitable[AnswerT]]) -> AnswerT | None:
        """Repeat the request, with its key, until somebody says it is done; None when there is nothing of that name."""
        self._keys += 1
        key = f"key-{self._keys}"
        for site in itertools.cycle(self._sites):
            try:
                return await site.call(lambda front: write(front, key))
            except Conflict as error:  # it is being removed: wait until it is gone
                self._record.note("refused", f"{what}: {error}")
                await asyncio.sleep(1.0)
            except NotFound:
                self._record.note("refused", f"{what}: nothing of that name")
                return None
            except (Unavailable, Fenced):
                await asyncio.sleep(AGAIN_S)
        raise AssertionError("unreachable: the cycle has no end")


_STEERING: dict[str, Callable[[JobsService, str, str], Awaitable[Changes]]] = {
    "rollback": lambda jobs, job, key: jobs.rollback(
        RollbackRequest(namespace=NAMESPACE, job=job, idempotency_key=key)
    ),
    "pause": lambda jobs, job, key: jobs.pause(_about(job, key)),
    "resume": lambda jobs, job, key: jobs.resume(_about(job, key)),
    "promote": lambda jobs, job, key: jobs.promote(_about(job, key)),
}

_VERBS = {
    Availability.ACTIVE: NodesService.uncordon,
    Availability.CORDONED: NodesService.cordon,
    Availability.DRAINING: NodesService.drain,
}


def _node(name: str) -> str:
    """What a node's requests wait as, beside those of jobs."""
    return f"node {name}"


def _about(job: str, key: str) -> JobsRequest:
    return JobsRequest(namespace=NAMESPACE, jobs=(job,), idempotency_key=key)


def with_image(spec: JobSpec, image: str, replicas: int) -> JobSpec:
    container = msgspec.structs.replace(spec.task.container, image=image)
    assert isinstance(container, Container)
    task = msgspec.structs.replace(spec.task, container=container)
    return msgspec.structs.replace(spec, task=task, replicas=replicas)
