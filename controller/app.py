"""The only file that constructs everything: a controller over any store, and `serve`, which gives it its listeners.

`Controller` is all that a controller is above the seams Dispatcher and Store, and runs wherever an event loop runs.
`TermWork` is what exists only while it leads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from common import garbage
from common.errors import Conflict, Invalid, PodiumError, Superseded, Unavailable
from common.http_guard import Guard, guard
from common.identity import http_name
from common.model.ids import Rng, new_id
from common.model.trust import Kind
from common.service_manager import Beside, Condition
from common.tls import http_context, is_loopback, server_credentials
from common.version import own_version
from controller.api.authority import AuthorityService
from controller.api.doors import credentials
from controller.api.gate import Call, Gate
from controller.api.grpc_server import GrpcServer, Register, dispatcher_service
from controller.api.grpc_services import api_services
from controller.api.http.server import Check, application, serving
from controller.api.term import ApiFront, ApiTerm
from controller.api.trust import TrustService
from controller.audit import AuditLog
from controller.core.events import brake_event
from controller.dispatcher.dispatcher import TermDispatcher
from controller.dispatcher.front import FrontDispatcher
from controller.events import EventLog
from controller.leadership import Leader, Parts, Term
from controller.ledger import Ledger
from controller.loops.assets import AssetLoop
from controller.loops.autoscale import Ask, AutoscaleLoop
from controller.loops.convergence import ConvergenceLoop
from controller.loops.foresight import ForesightLoop
from controller.loops.lag import LoopLag
from controller.loops.liveness import LivenessLoop
from controller.loops.placement import PlacementLoop
from controller.loops.schedules import ScheduleLoop
from controller.loops.waking import WakingLoop
from controller.metrics import Census, Metrics
from controller.presence import Presence
from controller.prometheus import Prometheus, no_prometheus
from controller.settings import ControllerSettings, Timers
from controller.store.interface import LeaderRecord, SharedStore, Store
from controller.store.open import open_store

if TYPE_CHECKING:
    from controller.loops.authority import AuthorityLoop
    from controller.trust import ClusterTrust  # with its libraries 11 MB, for clusters that have an authority

logger = logging.getLogger(__name__)

EXIT_STUCK = 70
"""Of a process that ends itself because a term's work would not stop (EX_SOFTWARE)."""


INSECURE = (
    "INSECURE: no TLS, no tokens, no access control: whoever reaches %s (HTTP: %s) commands this cluster and every "
    "machine in it"
)


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where a controller really listens, with the ports the system chose."""

    grpc: str
    http: str
    agents: str = ""
    """Where agents connect with their certificates; empty where they do so with everybody else."""
    authority: str = ""
    """PEM, of a cluster that has one of its own."""
    first_token: str = ""
    """Of its first user, where that still counts and this controller can tell it."""


class TermWork:
    """Everything that lives for one term, wired together."""

    def __init__(self, term: Term, store: Store, controller: Controller) -> None:
        clock, rng, timers, metrics = controller.clock, controller.rng, controller.timers, controller.metrics
        self.epoch = term.epoch
        self.state = term.state
        self.ledger = Ledger(store, term.leadership, term.state, rng=rng, observe=metrics.committed, holds=term.holds)
        self.presence = Presence(clock)
        self.events = EventLog(term.state, clock)
        self.liveness = LivenessLoop(
            self.ledger,
            self.presence,
            timers=timers,
            late_s=lambda: max(controller.lag.late_s(), term.lease_late_s()),
            failed=metrics.node_failed,
            braked=lambda reason: self.events.record(brake_event(reason)),
        )
        self.placement = PlacementLoop(
            self.ledger, self.presence, clock=clock, observe=metrics.placed, strategy=timers.strategy
        )
        self.convergence = ConvergenceLoop(
            self.ledger,
            self.presence,
            clock=clock,
            rng=rng,
            observe=metrics.decided,
            exclusive=lambda: timers.stretched_exclusive(len(self.presence.seen)),
            place=self.placement.newborn,
            behind=lambda: self.presence.behind(timers.stretched(len(self.presence.seen)).period_s),
        )
        self.authority = self._authority(controller)
        self.assets = AssetLoop(self.ledger, controller.vault, clock=clock)
        self.schedules = ScheduleLoop(self.ledger, clock=clock, rng=rng)
        self.dispatcher = self._dispatcher(term, controller)
        self.autoscale = self._autoscale(controller)
        self.waking = WakingLoop(self.ledger, self.dispatcher.measurements, clock=clock, woke=metrics.woke.observe)
        self.census = Census(
            term.state,
            self.presence,
            clock=clock,
            sessions=lambda: self.dispatcher.sessions,
            pending=lambda: self.placement.pending,
            survives=lambda: self.foresight.survives,
        )
        self.foresight = ForesightLoop(
            self.ledger,
            self.presence,
            self.placement.table,
            clock=clock,
            record=self.events.record,
            auto=timers.rebalance_auto,
        )
        for follower in (self.events, self.census):
            self.ledger.subscribe(follower.committed)
            self.presence.subscribe(follower.condition_changed)
        self.api = self._api(store, controller)

    def _authority(self, controller: Controller) -> AuthorityLoop | None:
        if controller.trust is None:
            return None
        return controller.trust.loop(
            self.ledger,
            clock=controller.clock,
            rng=controller.rng,
            timers=controller.timers,
            connected=lambda: self.dispatcher.connected,
        )

    def _dispatcher(self, term: Term, controller: Controller) -> TermDispatcher:
        return TermDispatcher(
            self.ledger,
            self.presence,
            term.epoch,
            clock=controller.clock,
            rng=controller.rng,
            timers=controller.timers,
            heartbeat_observed=controller.metrics.heard,
            agent_deferred=controller.metrics.deferred.inc,
            holds=term.holds,
            authority_of=(lambda _node_id: "") if self.authority is None else self.authority.wanted_of,
            opener=controller.vault,
        )

    def _autoscale(self, controller: Controller) -> AutoscaleLoop:
        return AutoscaleLoop(
            self.ledger,
            self.presence,
            self.dispatcher.measurements,
            clock=controller.clock,
            ask=controller.ask or no_prometheus,
            timers=controller.timers.scaling,
            record=self.events.record,
            decided=controller.metrics.scaled,
        )

    def _api(self, store: Store, controller: Controller) -> ApiTerm:
        """What of it engineers' requests are answered out of."""
        return ApiTerm(
            ledger=self.ledger,
            presence=self.presence,
            events=self.events,
            logs=self.dispatcher.logs,
            execs=self.dispatcher.execs,
            measurements=self.dispatcher.measurements,
            volumes=self.dispatcher.volumes,
            vault=controller.vault,
            table=self.placement.table,
            verdicts=self.placement.verdicts,
            clock=controller.clock,
            rng=controller.rng,
            address=controller.identity.address,
            store=store.kind,
            timers=controller.timers,
            attention=lambda: self.convergence.attention,
            scaling=self._scaling_texts,
            asks=controller.ask is not None,
            version=controller.version,
            controllers=controller.controllers,
            store_health=controller.store_answers,
            release_brake=self._release_brake,
        )

    def _scaling_texts(self, job_id: str) -> tuple[str, ...]:
        refused = self.waking.refusals.get(job_id, "")
        return (*self.autoscale.texts.get(job_id, ()), *filter(None, (refused,)))

    def _release_brake(self) -> tuple[str, tuple[str, ...]]:
        released = self.liveness.release_brake()
        return released.held, released.node_ids

    def parts(self) -> Parts:
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "ledger": self.ledger.run,
            "liveness": self.liveness.run,
            "convergence": self.convergence.run,
            "schedules": self.schedules.run,
            "assets": self.assets.run,
            "placement": self.placement.run,
            "autoscale": self.autoscale.run,
            "waking": self.waking.run,
            "foresight": self.foresight.run,
            "dispatcher": self.dispatcher.run,
        }
        if self.authority is not None:
            parts["authority"] = self.authority.run
        return parts


class Controller:
    """One controller: campaigns, leads or follows until told to stop.

    `dispatcher` serves agents and `api` engineers; while another controller leads they say which one.
    """

    def __init__(
        self,
        store: Store,
        *,
        identity: LeaderRecord,
        timers: Timers,
        clock: Callable[[], float],
        boottime: Callable[[], float],
        rng: Rng,
        abort: Callable[[str], None],
        version: str = "",
        loaded: Callable[[], None] = lambda: None,
        trust: ClusterTrust | None = None,
        ask: Ask | None = None,
    ) -> None:
        """Without `trust` the cluster has no authority of its own, without `ask` no Prometheus."""
        self.ask = ask
        self.identity = identity
        self.trust = trust
        self.vault = None if trust is None else trust.vault
        self.timers = timers
        self.clock = clock
        self.rng = rng
        self.store = store
        self.version = version
        self.lag = LoopLag(timers.loop_turn_s, timers.liveness.down_s)
        self.metrics = Metrics(version, self.lag.late_s)
        self.dispatcher = FrontDispatcher(lambda: self.leader, identity.address)
        self.api = ApiFront(self._leader_elsewhere)
        self.work: TermWork | None = None
        """What a term of this controller has, while it leads."""
        self.leader: LeaderRecord | None = None
        """Who leads, as far as the store said; None while nobody does or nothing was heard yet."""
        self.role_changed = asyncio.Event()
        """Set with every beginning and end of a term here; whoever waits for it clears it."""
        self._loaded = loaded
        self._election = Leader(
            store, identity, self._enter, timers=timers.lease, boottime=boottime, rng=rng, abort=abort
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then the term, if there is one, ends and the leader key is given up.

        Raises `Invalid` when the store holds something that this version cannot work with.
        """
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(self.lag.run()), group.create_task(self._observe_leader())]
            if self.trust is not None:
                helpers.append(group.create_task(self.trust.run()))
            if isinstance(self.store, SharedStore):
                helpers.append(group.create_task(self.store.roster.attend(self.identity)))
            try:
                await self._election.run(stop)
            finally:
                for task in helpers:
                    task.cancel()

    def live(self) -> Mapping[str, Check]:
        return {"loop": self._loop_turns}

    def ready(self) -> Mapping[str, Check]:
        return {"store": self.store_answers, "role": self._role_known, "brake": self._brake_known}

    async def condition(self) -> Condition:
        """Its role, or what keeps it from being ready."""
        try:
            await self.store_answers()
            return Condition(ready=True, text=await self._role_known())
        except PodiumError as error:
            return Condition(ready=False, text=str(error))

    @contextmanager
    def _enter(self, term: Term) -> Iterator[Parts]:
        self._loaded()
        work = TermWork(term, self.store, self)
        with ExitStack() as fronts:
            fronts.enter_context(self.dispatcher.lead(work.dispatcher))
            fronts.enter_context(self.api.lead(work.api))
            self.work = work
            self.metrics.term_begins(term.epoch.term, work.census)
            self.role_changed.set()
            try:
                yield work.parts()
            finally:
                self.work = None
                self.metrics.term_ends()
                self.role_changed.set()

    async def _observe_leader(self) -> None:
        async for leader in self.store.observe_leader():
            self.leader = leader
            self.dispatcher.leader_changed()

    def _leader_elsewhere(self) -> str:
        """Address of the controller that leads; empty while nobody does, or this one whose term has not begun."""
        leader = self.leader
        return "" if leader is None or leader.controller_id == self.identity.controller_id else leader.address

    async def _loop_turns(self) -> str:
        late_s = self.lag.late_s()
        if late_s > self.timers.loop_stuck_s:
            raise Unavailable(f"the event loop was {late_s:.1f} s late")
        return f"at most {late_s * 1000:.0f} ms late"

    async def store_answers(self) -> str:
        """How it does; raises `Unavailable` when it does not."""
        begun_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.timers.ping_s):
                await self.store.ping()
        except TimeoutError:
            raise Unavailable(f"the {self.store.kind} store did not answer within {self.timers.ping_s:g} s") from None
        took_ms = (asyncio.get_running_loop().time() - begun_s) * 1000
        return f"{self.store.kind} answers in {took_ms:.0f} ms"

    async def controllers(self) -> tuple[str, ...]:
        """Addresses of the controllers that run, this one first."""
        own = self.identity.address
        if not isinstance(self.store, SharedStore):
            return (own,)
        try:
            async with asyncio.timeout(self.timers.ping_s):
                listed = await self.store.roster.attending()
        except TimeoutError:
            raise Unavailable(f"the list of controllers did not come within {self.timers.ping_s:g} s") from None
        return tuple(dict.fromkeys((own, *(record.address for record in listed))))

    async def _brake_known(self) -> str:
        """A controller whose brake holds is ready all the same: it serves, and others would see no more."""
        held = self.work.presence.brake if self.work is not None else ""
        return f"HOLDS: {held}" if held else "released"

    async def _role_known(self) -> str:
        if self.work is not None:
            return f"leads, term {self.work.epoch.term}"
        if self.leader is None:
            raise Unavailable("no controller leads at the moment")
        if self.leader.controller_id == self.identity.controller_id:
            raise Unavailable("elected, its term has not begun yet")
        return f"follows {self.leader.address}"


async def serve(
    settings: ControllerSettings,
    *,
    ready: Callable[[Addresses], None] | None = None,
    stop: asyncio.Event,
    beside: Beside | None = None,
) -> None:
    """One controller with its listeners, until `stop` is set. `ready` is told where it listens, as a rule before
    it leads; `beside` runs as long as it does.

    Raises `Invalid` for settings it cannot work with and for a store it cannot read, `Conflict` when the store is
    another controller's alone, and `Superseded` when an agent has obeyed a later epoch.
    """
    settings.check()
    if settings.insecure:
        logger.warning(INSECURE, settings.grpc_listen, settings.http_listen)
    try:
        await _serve(settings, ready, stop, beside)
    except BaseExceptionGroup as group:
        final = _first_final(group)
        if final is None:
            raise
        raise final from None


async def _serve(
    settings: ControllerSettings,
    ready: Callable[[Addresses], None] | None,
    stop: asyncio.Event,
    beside: Beside | None,
) -> None:
    shutdown_s = settings.timers.shutdown_s
    async with AsyncExitStack() as stack:
        store = open_store(settings.store, lease_s=settings.timers.lease.lease_s, tls=settings.store_tls)
        stack.push_async_callback(store.close)
        rng = random.Random()
        controller_id = new_id(rng)
        first = asyncio.ensure_future(_trust(settings, store, controller_id, rng))
        if not await _done_before(stop, first, beside):
            return
        trust = first.result()
        server, agents = _listening(settings, trust)
        controller = _controller(settings, store, controller_id, server.address, rng, trust)
        audit = AuditLog(settings.audit_path, controller.clock)
        stack.callback(audit.close)
        app = application(
            controller.live(), controller.ready(), controller.metrics.exposition, _http_guard(settings, trust)
        )
        http = await stack.enter_async_context(
            serving(app, "http_listen", settings.http_listen, _http_tls(settings, trust), shutdown_s=shutdown_s)
        )
        await stack.enter_async_context(server.serving(_services(controller, agents, audit), shutdown_s=shutdown_s))
        logger.info(
            "controller %s serves gRPC on %s, HTTP on %s", controller.identity.controller_id, server.address, http
        )
        addresses = Addresses(grpc=server.address, http=http, agents=agents)
        async with asyncio.TaskGroup() as group:
            rest = [group.create_task(_announce_role(controller, server))]
            if ready is not None:
                rest.append(group.create_task(_tell_ready(ready, addresses, trust)))
            if beside is not None:
                rest.append(group.create_task(beside(controller.condition)))
            try:
                await controller.run(stop)
            finally:
                for task in rest:
                    task.cancel()


async def _done_before(stop: asyncio.Event, work: asyncio.Future[ClusterTrust | None], beside: Beside | None) -> bool:
    """Whether `work` came to its end, which nothing else can begin before; False when `stop` came first."""

    async def waits() -> Condition:
        return Condition(
            ready=False, text="has no cluster key yet, and waits for its store to say whether there is one"
        )

    helpers: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
    if beside is not None:
        helpers.append(asyncio.ensure_future(beside(waits)))
    try:
        await asyncio.wait((work, helpers[0]), return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        for task in (work, *helpers):
            task.cancel()


def _first_final(group: BaseExceptionGroup[BaseException]) -> PodiumError | None:
    """The error for which a person has to act, out of the task groups it came through."""
    found: BaseException | None = group.subgroup((Invalid, Conflict, Superseded))
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, PodiumError) else None


async def _trust(settings: ControllerSettings, store: Store, controller_id: str, rng: Rng) -> ClusterTrust | None:
    if not settings.cluster_key:
        return None
    from controller.trust import ClusterTrust, JoinToken, key_ring

    path = Path(settings.cluster_key)
    token = JoinToken(settings.join_token, settings.join_file, settings.join_at)
    ring = await key_ring(path, store, token, controller_id)
    return ClusterTrust(store, ring, controller_id, clock=time.time, rng=rng, key_file=path)


def _listening(settings: ControllerSettings, trust: ClusterTrust | None) -> tuple[GrpcServer, str]:
    """The server, bound to its doors, and where agents find theirs; empty where they use everybody's."""
    if trust is None:
        files = None if settings.tls is None else server_credentials(settings.tls)
        return GrpcServer("grpc_listen", settings.grpc_listen, files), ""
    server = GrpcServer("grpc_listen", settings.grpc_listen, credentials(trust.own, mutual=False))
    return server, server.listen("agent_listen", settings.agent_door, credentials(trust.own, mutual=True))


def _http_tls(settings: ControllerSettings, trust: ClusterTrust | None) -> ssl.SSLContext | None:
    """Probes and scrapers of this machine need none; a listener that others reach has it wherever there is one."""
    if settings.tls is not None:
        return http_context(settings.tls)
    return None if trust is None or is_loopback(settings.http_listen) else trust.http


def _http_guard(settings: ControllerSettings, trust: ClusterTrust | None) -> Guard:
    names = (settings.advertise, settings.grpc_listen, settings.http_listen, *settings.http_names)
    names = (*names, http_name(Kind.CONTROLLER))
    return guard(names, None if trust is None or settings.reads_http_openly else trust.reads_http)


def _controller(
    settings: ControllerSettings,
    store: Store,
    controller_id: str,
    listens_on: str,
    rng: Rng,
    trust: ClusterTrust | None,
) -> Controller:
    address = settings.advertise or _reachable(listens_on)
    return Controller(
        store,
        identity=LeaderRecord(controller_id=controller_id, address=address),
        timers=settings.timers,
        clock=time.time,
        boottime=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        rng=rng,
        abort=_exit_now,
        version=own_version(),
        loaded=garbage.settle if settings.long_lived else lambda: None,
        trust=trust,
        ask=Prometheus(settings.prometheus).ask if settings.prometheus else None,
    )


def _services(controller: Controller, agents: str, audit: AuditLog) -> list[Register]:
    gate = Gate(guarded=controller.trust is not None, clock=controller.clock, audit=audit)
    port = int(agents.rpartition(":")[2]) if agents else 0
    trust = TrustService(controller.api, controller.trust, port, audit)

    def admit_agent(call: Call) -> str | None:
        return gate.agent(None if controller.work is None else controller.work.state, call)

    return [
        dispatcher_service(controller.dispatcher, admit_agent),
        *api_services(controller.api, gate, trust, AuthorityService(controller.api, controller.trust)),
    ]


async def _tell_ready(ready: Callable[[Addresses], None], addresses: Addresses, trust: ClusterTrust | None) -> None:
    """Once whoever dials can believe what is shown to it."""
    if trust is not None:
        await trust.known.wait()
        assert trust.own.authority is not None, "it is known"
        authority = trust.own.authority.certificates[0]
        addresses = msgspec.structs.replace(addresses, authority=authority, first_token=trust.first_token)
    ready(addresses)


async def _announce_role(controller: Controller, server: GrpcServer) -> None:
    while True:
        await controller.role_changed.wait()
        controller.role_changed.clear()
        try:
            await server.set_leading(leading=controller.work is not None)
        except TimeoutError:
            logger.warning("a health watcher that reads nothing holds the others up; trying again")
            controller.role_changed.set()


def _reachable(listens_on: str) -> str:
    """An address others can dial; the host's name where the listener takes every address."""
    host, _, port = listens_on.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in ("", "0.0.0.0", "[::]") else listens_on  # noqa: S104


def _exit_now(reason: str) -> NoReturn:
    logger.critical("%s: this process ends at once", reason)
    logging.shutdown()
    os._exit(EXIT_STUCK)
