"""The client for programs: one method per call of the engineer's API, over values.

Follows the leader over several addresses, repeats what may be repeated (reads always, writes under one idempotency
key, so that a lost answer never does a thing twice) within a deadline, and resumes streams where they broke off.
Knows nothing of gRPC: that is the transport, in `client.client_grpc`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Self

import msgspec

from client.assets import AssetCalls
from client.exec import ExecConversation
from client.seen import EventsSeen, LogsSeen, Watched
from client.settings import ClientSettings
from client.transport import (
    APPLY,
    BACKUP,
    CHECK,
    CORDON,
    DRAIN,
    DRAIN_STATUS,
    EVENTS,
    EXEC,
    INSPECT_JOB,
    INSPECT_NODE,
    INSPECT_TASK,
    JOBS,
    LOGS,
    MOVE,
    NODES,
    PAUSE,
    PLAN,
    PLAN_DRAIN,
    PLAN_REBALANCE,
    PROMOTE,
    QUOTAS,
    REBALANCE,
    RELEASE_BRAKE,
    REMOVE,
    REMOVE_NODES,
    REMOVE_VOLUME,
    RESTART,
    RESUME,
    ROLLBACK,
    SCALE,
    SET_QUOTA,
    STATUS,
    STOP,
    STOP_STRAYS,
    TASKS,
    UNCORDON,
    USAGE,
    VOLUMES,
    WATCH,
    WHAT_IF,
    WHY,
    AnswerT,
    Method,
    RequestT,
    Transport,
)
from client.trust import TrustCalls
from common.errors import NotLeader, OutcomeUnknown, Unavailable
from common.model.api import (
    ApplyRequest,
    BrakeReleased,
    Changes,
    ClusterRequest,
    ClusterView,
    DrainView,
    EventsRequest,
    JobDetail,
    JobRef,
    JobsRequest,
    JobView,
    ListJobs,
    ListNodes,
    ListQuotas,
    ListTasks,
    LogLines,
    LogsRequest,
    MoveRequest,
    Moves,
    NodeChanges,
    NodeRef,
    NodesRequest,
    NodeView,
    Plan,
    QuotaView,
    RebalanceRequest,
    ReleaseBrake,
    RemoveNodesRequest,
    RollbackRequest,
    ScaleRequest,
    ScaleTarget,
    SetQuota,
    TaskDetail,
    TaskList,
    TaskRef,
    WatchJobs,
    WhatIfRequest,
    WhyRequest,
)
from common.model.event import Event
from common.model.ids import Rng, new_id
from common.model.job import JobSpec
from common.model.program import BeginExec
from common.model.session import Program
from common.model.store import BackupRequest, CheckReport, CheckRequest, StopStraysRequest, StraysStopped
from common.model.usage import UsageRequest, UsageView
from common.model.verdict import Verdict
from common.model.volume import ListVolumes, RemoveVolumeRequest, VolumeView


class Client:
    """An asynchronous context manager; close it to close its connections.

    Every method raises `Invalid`, `NotFound` or `Conflict` as the controller answered, and `Unavailable` (for a write
    possibly `OutcomeUnknown`) when none answered within the deadline. Jobs are named within a namespace; ids may be
    shortened to a unique prefix.
    """

    def __init__(self, settings: ClientSettings, *, transport: Transport | None = None, rng: Rng | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self._rng = rng or random.Random()
        self._leader = settings.controllers[0]
        self.assets = AssetCalls(self._ask)
        """Configs and secrets."""
        self.trust = TrustCalls(self._ask, self._key)
        """Tokens, users and rights."""

    async def __aenter__(self) -> Self:
        if self._transport is None:
            from client.client_grpc import GrpcTransport  # gRPC takes a tenth of a second to import

            self._transport = GrpcTransport(self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._carrier.close()

    # --- what changes things

    async def apply(self, namespace: str, specs: Iterable[JobSpec], *, remove_orphans: bool = False) -> Changes:
        """Create and update jobs to match `specs`; with `remove_orphans`, remove the namespace's other jobs."""
        request = ApplyRequest(
            namespace=namespace, specs=tuple(specs), remove_orphans=remove_orphans, idempotency_key=self._key()
        )
        return await self._ask(APPLY, request)

    async def scale(self, namespace: str, targets: Iterable[ScaleTarget]) -> Changes:
        request = ScaleRequest(namespace=namespace, targets=tuple(targets), idempotency_key=self._key())
        return await self._ask(SCALE, request)

    async def restart(self, namespace: str, jobs: Iterable[str] = (), *, all_jobs: bool = False) -> Changes:
        """Replace every task by a new one of the same spec, slot by slot."""
        return await self._ask(RESTART, self._jobs_request(namespace, jobs, all_jobs))

    async def rollback(self, namespace: str, job: str, version: int = 0) -> Changes:
        """Make an earlier version the wanted one; without one named the last other one that every replica ran well."""
        request = RollbackRequest(namespace=namespace, job=job, version=version, idempotency_key=self._key())
        return await self._ask(ROLLBACK, request)

    async def pause(self, namespace: str, jobs: Iterable[str] = (), *, all_jobs: bool = False) -> Changes:
        """Let rollouts stand still where they are."""
        return await self._ask(PAUSE, self._jobs_request(namespace, jobs, all_jobs))

    async def resume(self, namespace: str, jobs: Iterable[str] = (), *, all_jobs: bool = False) -> Changes:
        """Let rollouts go on that were paused or failed."""
        return await self._ask(RESUME, self._jobs_request(namespace, jobs, all_jobs))

    async def promote(self, namespace: str, jobs: Iterable[str] = (), *, all_jobs: bool = False) -> Changes:
        """Begin the next step of rollouts whose step is well."""
        return await self._ask(PROMOTE, self._jobs_request(namespace, jobs, all_jobs))

    async def stop(self, namespace: str, jobs: Iterable[str] = (), *, all_jobs: bool = False) -> Changes:
        """Stop the tasks and keep the jobs; applying them again starts them."""
        return await self._ask(STOP, self._jobs_request(namespace, jobs, all_jobs))

    async def remove(self, namespace: str, jobs: Iterable[str] = (), *, all_jobs: bool = False) -> Changes:
        """Stop the tasks and forget the jobs."""
        return await self._ask(REMOVE, self._jobs_request(namespace, jobs, all_jobs))

    async def cordon(self, nodes: Iterable[str]) -> NodeChanges:
        """Put no new tasks on these nodes; those they have stay."""
        return await self._ask(CORDON, self._nodes_request(nodes))

    async def uncordon(self, nodes: Iterable[str]) -> NodeChanges:
        """Let them take new tasks again; ends a drain."""
        return await self._ask(UNCORDON, self._nodes_request(nodes))

    async def drain(self, nodes: Iterable[str]) -> NodeChanges:
        """Order that every task leaves these nodes; `drain_status` says how far that has come."""
        return await self._ask(DRAIN, self._nodes_request(nodes))

    async def remove_nodes(self, nodes: Iterable[str], *, force: bool = False) -> NodeChanges:
        """For good. Raises `Conflict` for nodes with tasks, unless `force` gives these up to be replaced."""
        request = RemoveNodesRequest(nodes=tuple(nodes), force=force, idempotency_key=self._key())
        return await self._ask(REMOVE_NODES, request)

    async def release_brake(self) -> BrakeReleased:
        """Replace what the nodes ran that are silent now, in spite of the brake."""
        return await self._ask(RELEASE_BRAKE, ReleaseBrake(idempotency_key=self._key()))

    async def rebalance(self, moves: int = 0) -> Moves:
        """Order that tasks move for a better balance, at most so many (0: as many as it takes); what that is."""
        return await self._ask(REBALANCE, RebalanceRequest(moves=moves, idempotency_key=self._key()))

    async def move(self, namespace: str, tasks: Iterable[str], node: str) -> Moves:
        """Order that tasks move to a node. Raises `Conflict` with all that cannot, and why; then none does."""
        request = MoveRequest(namespace=namespace, tasks=tuple(tasks), node=node, idempotency_key=self._key())
        return await self._ask(MOVE, request)

    async def set_quota(
        self, namespace: str, limits: Mapping[str, int], lifted: Iterable[str] = (), *, lift_all: bool = False
    ) -> QuotaView:
        """Change limits of a namespace, by resource; those that are named nowhere stay as they are."""
        request = SetQuota(
            namespace=namespace,
            limits=dict(limits),
            lifted=tuple(lifted),
            lift_all=lift_all,
            idempotency_key=self._key(),
        )
        return await self._ask(SET_QUOTA, request)

    async def stop_strays(self, tasks: Iterable[str] = (), *, every: bool = False) -> StraysStopped:
        """Stop tasks that nodes run and a restored state does not know; `every`: all of them."""
        request = StopStraysRequest(tasks=tuple(tasks), every=every, idempotency_key=self._key())
        return await self._ask(STOP_STRAYS, request)

    # --- what reads

    async def plan(self, namespace: str, specs: Iterable[JobSpec], *, remove_orphans: bool = False) -> Plan:
        """What `apply` would do."""
        request = ApplyRequest(namespace=namespace, specs=tuple(specs), remove_orphans=remove_orphans)
        return await self._ask(PLAN, request)

    async def what_if(self, request: WhatIfRequest) -> Plan:
        """What would become of the cluster if nodes were lost or added, jobs scaled, a file applied."""
        return await self._ask(WHAT_IF, request)

    async def plan_rebalance(self, moves: int = 0) -> Plan:
        """What `rebalance` would do."""
        return await self._ask(PLAN_REBALANCE, RebalanceRequest(moves=moves))

    async def jobs(self, namespace: str = "") -> tuple[JobView, ...]:
        """The jobs of one namespace, or all."""
        return (await self._ask(JOBS, ListJobs(namespace=namespace))).jobs

    async def inspect_job(self, namespace: str, name: str) -> JobDetail:
        return await self._ask(INSPECT_JOB, JobRef(namespace=namespace, name=name))

    async def tasks(self, namespace: str = "", job: str = "", *, include_ended: bool = False) -> TaskList:
        return await self._ask(TASKS, ListTasks(namespace=namespace, job=job, include_ended=include_ended))

    async def inspect_task(self, namespace: str, name: str) -> TaskDetail:
        """One task by id or as `job.slot`."""
        return await self._ask(INSPECT_TASK, TaskRef(namespace=namespace, name=name))

    async def why(self, namespace: str, name: str) -> Verdict:
        """Why a job or task is not running, or why it is where it is."""
        return await self._ask(WHY, WhyRequest(namespace=namespace, name=name))

    async def nodes(self) -> tuple[NodeView, ...]:
        return (await self._ask(NODES, ListNodes())).nodes

    async def inspect_node(self, name: str) -> NodeView:
        return await self._ask(INSPECT_NODE, NodeRef(name=name))

    async def plan_drain(self, nodes: Iterable[str]) -> Plan:
        """What `drain` would do."""
        return await self._ask(PLAN_DRAIN, NodesRequest(nodes=tuple(nodes)))

    async def drain_status(self, nodes: Iterable[str]) -> DrainView:
        """What is still on these nodes, and what it waits for."""
        return await self._ask(DRAIN_STATUS, NodesRequest(nodes=tuple(nodes)))

    async def status(self, *, quick: bool = False) -> ClusterView:
        """`quick` leaves out what takes a large cluster some seconds: whether it survives the loss of any node."""
        return await self._ask(STATUS, ClusterRequest(quick=quick))

    async def quotas(self, namespace: str = "") -> tuple[QuotaView, ...]:
        """Limits and use of one namespace, or of all that have limits."""
        return (await self._ask(QUOTAS, ListQuotas(namespace=namespace))).quotas

    async def check_store(self) -> CheckReport:
        """What is wrong with the state and with the store that keeps it."""
        return await self._ask(CHECK, CheckRequest())

    async def backup(self) -> AsyncGenerator[bytes, None]:
        """The whole state as a backup file, in pieces; its last line tells whether all of it came.

        Raises `Unavailable` when it breaks off on the way: begin again, with an empty file.
        """
        patience = self._patience()
        begun = False
        while True:
            try:
                async with aclosing(self._follow(BACKUP, BackupRequest())) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece.content
                return
            except Unavailable as error:
                if begun:
                    raise Unavailable(f"the backup broke off ({error})") from None
                patience.spend(error)
            await patience.pause()

    # --- what goes on

    async def watch(self, namespace: str, jobs: Iterable[str] = ()) -> AsyncGenerator[tuple[JobDetail, ...], None]:
        """All of these jobs (of the namespace when none is named), now and after every change, by name.

        A job that was removed is left out. Never ends by itself; a broken stream is taken up again, for a call's
        deadline at a time.
        """
        request = WatchJobs(namespace=namespace, jobs=tuple(jobs))
        patience = self._patience()
        while True:
            watched = Watched()
            try:
                async with aclosing(self._follow(WATCH, request)) as answers:
                    async for answer in answers:
                        patience.answered()
                        watched.take(answer)
                        if not answer.more:
                            yield watched.jobs()
            except Unavailable as error:
                patience.spend(error)
            await patience.pause()

    async def events(
        self, *, namespace: str = "", since_s: float = 0.0, follow: bool = False
    ) -> AsyncGenerator[Event, None]:
        """What happened since then; with `follow`, also what happens from now on, without end."""
        resume = EventsSeen(since_s)
        patience = self._patience()
        while True:
            request = EventsRequest(since_s=resume.since_s, follow=follow, namespace=namespace)
            try:
                async with aclosing(self._follow(EVENTS, request)) as batches:
                    async for batch in batches:
                        patience.answered()
                        for event in resume.fresh(batch.events):
                            yield event
                if not follow:
                    return
            except Unavailable as error:
                patience.spend(error)
            await patience.pause()

    async def logs(
        self, namespace: str, name: str, *, tail: int = -1, since_s: float = 0.0, follow: bool = False
    ) -> AsyncGenerator[LogLines, None]:
        """Output of a task, or of all tasks of a job. Each batch may carry warnings: nodes that could not answer."""
        resume = LogsSeen()
        patience = self._patience()
        request = LogsRequest(namespace=namespace, name=name, tail=tail, since_s=since_s, follow=follow)
        while True:
            try:
                async with aclosing(self._follow(LOGS, request)) as batches:
                    async for batch in batches:
                        patience.answered()
                        yield LogLines(lines=resume.fresh(batch.lines), warnings=batch.warnings)
                return
            except Unavailable as error:
                patience.spend(error)
                if resume.untimed:
                    raise Unavailable(
                        f"the log broke off and cannot be resumed (lines without times): {error}"
                    ) from None
            if resume.since_s:
                request = msgspec.structs.replace(request, tail=-1, since_s=resume.since_s)
            await patience.pause()

    async def volumes(self, namespace: str = "") -> tuple[VolumeView, ...]:
        return (await self._ask(VOLUMES, ListVolumes(namespace=namespace))).volumes

    async def remove_volume(self, namespace: str, volume: str, node: str = "") -> VolumeView:
        """Delete a volume and what is in it. Raises `Conflict` while a task has it."""
        request = RemoveVolumeRequest(namespace=namespace, volume=volume, node=node)
        return (await self._ask(REMOVE_VOLUME, request)).volumes[0]

    async def usage(self, namespace: str = "", job: str = "") -> UsageView:
        """What nodes and tasks use now. The first answer may know nothing of tasks: asking sets agents measuring."""
        return await self._ask(USAGE, UsageRequest(namespace=namespace, job=job))

    @asynccontextmanager
    async def exec(self, namespace: str, name: str, program: Program) -> AsyncIterator[ExecConversation]:
        """Run a program inside a task (or the one running task of a job); leaving the context ends it.

        Raises `NotFound`, `Conflict` when nothing can be run there now, `Unavailable`.
        """
        conversation = ExecConversation(BeginExec(namespace=namespace, name=name, program=program))
        patience = self._patience()
        while True:
            asked = self._leader
            async with aclosing(self._carrier.converse(asked, EXEC, conversation.requests())) as answers:
                try:
                    await conversation.begun(answers)
                except OutcomeUnknown:
                    raise  # it may have run for a moment: to run it twice is not ours to decide
                except Unavailable as error:
                    redirected = self._turn(asked, error)
                    patience.spend(error)
                else:
                    yield conversation
                    return
            if not (redirected and patience.redirect()):
                await patience.pause()

    # --- one call

    @property
    def _carrier(self) -> Transport:
        assert self._transport is not None, "use the client as `async with Client(...)`"
        return self._transport

    def _key(self) -> str:
        return new_id(self._rng)

    def _jobs_request(self, namespace: str, jobs: Iterable[str], all_jobs: bool) -> JobsRequest:
        return JobsRequest(namespace=namespace, jobs=tuple(jobs), all_jobs=all_jobs, idempotency_key=self._key())

    def _nodes_request(self, nodes: Iterable[str]) -> NodesRequest:
        return NodesRequest(nodes=tuple(nodes), idempotency_key=self._key())

    def _patience(self) -> _Patience:
        return _Patience(self._settings, self._rng)

    async def _ask(self, method: Method[RequestT, AnswerT], request: RequestT) -> AnswerT:
        """The answer of whoever leads. A repeat sends the same value, hence the same idempotency key."""
        patience = self._patience()
        maybe_done = False
        while True:
            asked = self._leader
            try:
                return await self._carrier.ask(asked, method, request, timeout_s=patience.answer_timeout_s())
            except Unavailable as error:
                maybe_done = maybe_done or (method.writes and isinstance(error, OutcomeUnknown))
                redirected = self._turn(asked, error)
                try:
                    patience.spend(error)
                except Unavailable as final:
                    raise (OutcomeUnknown(f"{final}; it may have been done") if maybe_done else final) from None
            if not (redirected and patience.redirect()):
                await patience.pause()

    async def _follow(self, method: Method[RequestT, AnswerT], request: RequestT) -> AsyncGenerator[AnswerT, None]:
        """One stream from whoever leads, until it ends or breaks. Turns to the next address when it breaks."""
        asked = self._leader
        try:
            async with aclosing(self._carrier.follow(asked, method, request)) as answers:
                async for answer in answers:
                    yield answer
        except Unavailable as error:
            self._turn(asked, error)
            raise

    def _turn(self, asked: str, error: Unavailable) -> bool:
        """Choose whom to ask next: the leader the error names (then True), else the address after the one asked.

        Another call may have found the leader while this one waited for a frozen one: then that is asked next.
        """
        if isinstance(error, NotLeader) and error.leader and error.leader != asked:
            self._leader = error.leader
            return True
        if self._leader != asked:
            return False
        known = self._settings.controllers
        place = known.index(self._leader) + 1 if self._leader in known else 0
        self._leader = known[place % len(known)]
        return False


class _Patience:
    """How long one call goes on trying: briefly while nobody answers, to the deadline once somebody did."""

    def __init__(self, settings: ClientSettings, rng: Rng) -> None:
        self._settings = settings
        self._rng = rng
        self._clock = asyncio.get_running_loop().time
        self._started_s = self._clock()
        self._somebody = False
        self._failures = 0
        self._redirects = 0

    def answered(self) -> None:
        """The stream delivers: all is forgiven."""
        self._started_s = self._clock()
        self._somebody = True
        self._failures = self._redirects = 0

    def answer_timeout_s(self) -> float:
        return max(0.0, min(self._settings.answer_timeout_s, self._left_s(self._settings.deadline_s)))

    def spend(self, error: Unavailable) -> None:
        """Count a failure; raises the final error when there is no time for another try."""
        self._failures += 1
        self._somebody = self._somebody or isinstance(error, NotLeader | OutcomeUnknown)
        limit_s = self._settings.deadline_s if self._somebody else self._settings.silence_limit_s
        if self._left_s(limit_s) <= 0:
            raise self._final(error)

    def redirect(self) -> bool:
        """Whether a hint may be followed at once."""
        self._redirects += 1
        return self._redirects <= self._settings.redirects_limit

    async def pause(self) -> None:
        """Wait before the next try: nothing within the first round over the addresses, then a jittered back-off."""
        rounds = self._failures // len(self._settings.controllers)
        self._redirects = 0
        if rounds:
            await asyncio.sleep(self._settings.backoff.full_jitter_s(rounds, self._rng))

    def _left_s(self, limit_s: float) -> float:
        return self._started_s + limit_s - self._clock()

    def _final(self, error: Unavailable) -> Unavailable:
        addresses = ", ".join(self._settings.controllers)
        if isinstance(error, NotLeader):
            return Unavailable(f"the controllers at {addresses} have no leader ({error})")
        if not self._somebody:
            return Unavailable(f"no controller answers at {addresses}")
        return Unavailable(f"no leading controller answered at {addresses} in time: {error}")
