"""The agent put together: the only file that constructs its parts, and the order in which they begin and end.

A stopped agent leaves everything running, tasks and data plane; its successor on the same data directory takes it all
up again. Decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent import devices, resources
from agent.asset_requests import AssetAsker
from agent.assets import AssetKeeper
from agent.checks import Check
from agent.conversation import Parts
from agent.core.neighbours import Neighbours, neighbours_of
from agent.endpoint_feed import EndpointFeed
from agent.fence import SelfFence
from agent.guard.interface import Guard, Unguarded
from agent.journal import Journal
from agent.memory import places_in_memory, proxy_memory
from agent.metrics import Metrics
from agent.network.interface import DataPlane
from agent.network.names.book import AddressBook
from agent.network.names.forward import machine_search
from agent.policy import Guarded, sockets_of
from agent.ports import PortAllocator
from agent.reporter import Reporter
from agent.runtime.interface import Runtime
from agent.runtimes import Runtimes
from agent.session import Session
from agent.settings import AgentSettings
from agent.surroundings import Surroundings
from agent.usage_reports import UsageSampler
from agent.volume_reports import VolumeKeeper
from agent.worker import Worker
from common.dispatch import Dialer
from common.errors import Fault, Invalid
from common.lifecycle import ended
from common.model.ids import Rng, new_id
from common.model.node import NodeDescription
from common.model.privileges import OWN_USER
from common.model.resources import Usage
from common.model.session import Assignment
from common.model.task import TaskReport
from common.private_files import kept_secret
from common.service_manager import Beside, Condition
from common.tls import is_loopback
from common.version import own_version

if TYPE_CHECKING:
    import ssl

    from agent.membership import Membership
    from agent.runtime.process_users import Users
    from common.http_guard import Guard as HttpGuard

logger = logging.getLogger(__name__)


async def serve(
    settings: AgentSettings,
    *,
    stop: asyncio.Event,
    data_plane: DataPlane | None = None,
    book: AddressBook | None = None,
    on_ready: Callable[[], None] | None = None,
    stop_tasks: bool = False,
    beside: Beside | None = None,
) -> None:
    """Run a node until `stop` is set. `on_ready` is called when a controller has taken it in for the first time;
    `beside` runs from when the node has taken up what it left, whether a controller is there or not.

    Without `data_plane` the node runs one of its own, with a book of its own; agents that share one each hand in a seat
    of a `SharedDataPlane` and its book, whose owner ends both. `stop_tasks`: on the way out stop all tasks and the data
    plane, as `podium dev` does. Raises `Invalid` or `Conflict` when it cannot begin.
    """
    from agent.guard.keeper import GuardKeeper
    from agent.session_grpc import GrpcDialer

    settings.check()
    if settings.insecure:
        logger.warning("INSECURE: no TLS: this node obeys whoever answers at %s", ", ".join(settings.controllers))
    if settings.find_devices:
        settings = msgspec.structs.replace(settings, devices=await devices.of_this_machine(settings.devices))
    rng = random.Random()
    address = await _resolve(settings.advertise)
    data_dir = Path(settings.data_dir)
    journal = Journal.open(data_dir, rng)
    own_book: AddressBook | None = None
    try:
        if data_plane is None:
            book = own_book = book_of(settings, data_dir, address)
            if book is not None and journal.services is not None:
                book.keep(journal.services.services)
            data_plane = await plane_of(settings, data_dir, address, rng, book)
        member = _member(settings, journal.node_id, rng)
        agent = Agent(
            settings,
            address=address,
            journal=journal,
            runtimes=[_runtime(name, settings, journal.node_id) for name in settings.runtimes],
            dialer=GrpcDialer(
                settings.tls, insecure=settings.insecure, timeout_s=settings.timers.dial_timeout_s, member=member
            ),
            data_plane=data_plane,
            book=book,
            clock=time.time,
            rng=rng,
            boottime=_boottime_s,
            guard=GuardKeeper(data_dir / "guard", _boottime_s, settings.docker_host),
            member=member,
        )
        await agent.run(stop=stop, on_ready=on_ready, stop_tasks=stop_tasks, beside=beside)
    finally:
        if own_book is not None:
            own_book.close(stop=stop_tasks)
        journal.close()


class Agent:
    """One node's parts over the seams to the outside: journal, runtimes, dialer, data plane, clock and chance.

    `serve` hands in the real ones, the simulator its own. Without `book` its tasks find no jobs by name. Without
    `boottime` the loop's time is that of the node's permissions; without `guard` nothing but the agent itself stops
    exclusive tasks. `metrics` are given by those that share them.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        address: str,
        journal: Journal,
        runtimes: list[Runtime],
        dialer: Dialer,
        data_plane: DataPlane,
        book: AddressBook | None = None,
        clock: Callable[[], float],
        rng: Rng,
        usage: Callable[[int], Usage] | None = None,
        boottime: Callable[[], float] | None = None,
        guard: Guard | None = None,
        member: Membership | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._member = member
        self._journal = journal
        self._data_plane = data_plane
        self._book = book
        self._version = own_version()
        self._metrics = metrics or Metrics(self._version)
        self._name = settings.node_name
        self._attributes = resources.attributes()
        self._capacity = resources.capacity(cpus=settings.cpus, memory_bytes=settings.memory_bytes)
        self._runtimes = Runtimes(runtimes, settings.bounds, self._metrics.runtime_request, clock)
        self._ports = PortAllocator(address, rng)
        self._reporter = Reporter(settings.bounds, journal.drop_attempts, _unacknowledged(journal))
        self._assets = AssetKeeper(settings.secrets_dir, journal.node_id, AssetAsker())
        self._feed = EndpointFeed(data_plane, journal, self._metrics, rng, address, self._assets.asker)
        self._fence = SelfFence(guard or Unguarded(), boottime or asyncio.get_running_loop().time)
        taken_in = _taken_in(journal.address, settings.advertise)
        self._volumes = VolumeKeeper(self._runtimes.all)
        around = Surroundings(
            node_id=journal.node_id,
            node_name=self._name,
            address=address,
            runtimes=self._runtimes,
            ports=self._ports,
            journal=journal,
            fence=self._fence,
            metrics=self._metrics,
            report=self._reporter.report,
            clock=clock,
            rng=rng,
            bounds=settings.bounds,
            taken_in=taken_in,
            neighbours=self._neighbours,
            assets=self._assets,
            policy=settings.policy,
            guarded=Guarded(
                directories=(settings.data_dir, *map(str, places_in_memory(settings.secrets_dir))),
                sockets=sockets_of(settings.docker_host),
            ),
            volumes_changed=self._volumes.changed,
        )
        self._worker = Worker(around, self._reporter)
        self._measure = usage or resources.UsageMeter().read
        self._usage = Usage()
        self._usage_due_s = 0.0
        self._sampler = UsageSampler(self._worker.usages, self._metrics.containers)
        parts = self._parts(rng, taken_in)
        self._session = Session(dialer, settings.controllers, parts, self._metrics)

    def _parts(self, rng: Rng, taken_in: asyncio.Event) -> Parts:
        """What its sessions speak for."""
        return Parts(
            worker=self._worker,
            reporter=self._reporter,
            feed=self._feed,
            journal=self._journal,
            fence=self._fence,
            describe=self._describe,
            usage=self._usage_now,
            sampler=self._sampler,
            volumes=self._volumes,
            asker=self._assets.asker,
            runtimes=lambda: self._runtimes.statuses,
            timers=self._settings.timers,
            bounds=self._settings.bounds,
            rng=rng,
            taken_in=taken_in,
            instance=new_id(rng),
            renew=(lambda _authority: None) if self._member is None else self._member.renew_unless_of,
        )

    async def run(
        self,
        *,
        stop: asyncio.Event,
        on_ready: Callable[[], None] | None = None,
        stop_tasks: bool = False,
        beside: Beside | None = None,
    ) -> None:
        """Until `stop` is set; see `serve`."""
        try:
            async with AsyncExitStack() as listeners:
                if self._settings.http_listen:
                    await self._listen(listeners)
                await self._live(stop, on_ready, stop_tasks, beside)
        finally:
            self._ports.close()
            await self._fence.close()
            await self._runtimes.close()
            self._assets.close()
            await self._data_plane.close(stop=stop_tasks)

    async def _live(
        self, stop: asyncio.Event, on_ready: Callable[[], None] | None, stop_tasks: bool, beside: Beside | None
    ) -> None:
        logger.info("node %s (%s) on data directory %s", self._name, self._journal.node_id, self._settings.data_dir)
        live = [memory.task_id for memory in self._journal.tasks() if not ended(memory.status.state)]
        await self._fence.begin(live)
        self._assets.sweep(live)
        await self._runtimes.poll()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._worker.run(), name="worker")]
            # What runs here must be known before a controller is told what does.
            await self._worker.begun.wait()
            await self._worker.look_around()
            session = group.create_task(self._converse(), name="session")
            rest: list[Coroutine[None, None, None]] = [self._runtimes.run(), self._feed.run(), self._fence.run()]
            if self._member is not None:
                rest.append(self._member.run(self._settings.join_token, self._settings.join_file))
            if on_ready is not None:
                rest.append(self._say_ready(on_ready))
            if beside is not None:
                rest.append(beside(self._condition))
            tasks += [group.create_task(part) for part in rest]
            await stop.wait()
            session.cancel()  # first: a controller that saw tasks stop would have them started again
            if stop_tasks:
                await asyncio.wait([session])
                await self._worker.stop_all(self._settings.bounds.stop_extra_s)
            for task in tasks:
                task.cancel()

    async def _converse(self) -> None:
        if self._member is not None:
            await self._member.ready.wait()
        await self._session.run()

    async def _say_ready(self, on_ready: Callable[[], None]) -> None:
        await self._session.until_registered()
        on_ready()

    def _neighbours(self, assignment: Assignment) -> Neighbours:
        if self._book is None:
            return Neighbours()
        services = self._feed.services
        return neighbours_of(assignment, services, self._book.names_of(services), machine_search())

    # --- what it says of itself

    def _describe(self) -> NodeDescription:
        runtimes = self._runtimes.statuses
        return NodeDescription(
            id=self._journal.node_id,
            name=self._name,
            address=self._settings.advertise,
            labels=self._settings.labels,
            attributes={**self._attributes, **resources.versions(runtimes)},
            capacity=self._capacity,
            runtimes=runtimes,
            agent_version=self._version,
            devices=self._settings.devices,
            policy=self._settings.policy,
            proxy=self._data_plane.name,
        )

    async def _condition(self) -> Condition:
        """Ready without a controller too: what ran goes on running, and a restart would bring none."""
        alone = "" if self._session.registered else f", without a controller: {self._session.problem}"
        return Condition(ready=True, text=f"{self._worker.live_tasks} tasks{alone}")

    def _usage_now(self) -> Usage:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._usage_due_s:
            self._usage_due_s = now_s + self._settings.bounds.usage_interval_s
            self._usage = self._measure(self._worker.live_tasks)
        return self._usage

    async def _listen(self, listeners: AsyncExitStack) -> None:
        from agent.http import application, serving

        context = self._http_tls()
        app = application(self._checks, self._scrape, self._http_guard())
        where = await listeners.enter_async_context(serving(app, self._settings.http_listen, context))
        logger.info("health and metrics on %s://%s", "https" if context else "http", where)

    def _http_tls(self) -> ssl.SSLContext | None:
        """A member shows its own certificate where others reach it, as soon as it has one."""
        from common.tls import http_context

        if self._settings.tls is not None:
            return http_context(self._settings.tls)
        away = self._member is not None and not is_loopback(self._settings.http_listen)
        return self._member.http_context() if away and self._member is not None else None

    def _http_guard(self) -> HttpGuard:
        from agent.http_token import HttpToken
        from common.http_guard import guard
        from common.identity import http_name
        from common.model.trust import Kind

        settings = self._settings
        names = (settings.advertise, settings.http_listen, http_name(Kind.AGENT), *settings.http_names)
        return guard(names, None if settings.reads_http_openly else HttpToken(settings.http_token_path).reads)

    def _checks(self) -> tuple[Check, ...]:
        registered = self._session.registered
        controller = Check(
            name="controller", good=registered, text="registered" if registered else self._session.problem
        )
        runtimes = (
            Check(name=f"runtime {status.name}", good=status.ready, text=status.problem or status.message or "answers")
            for status in self._runtimes.statuses
        )
        problems = (Check(name="data plane", good=False, text=problem) for problem in self._feed.problems)
        return (controller, *runtimes, *problems)

    async def _scrape(self) -> bytes:
        await self._sampler.sample(self._settings.bounds.container_usage_interval_s)
        return self._metrics.text() + await self._data_plane.metrics()


def _member(settings: AgentSettings, node_id: str, rng: Rng) -> Membership | None:
    """Imported only where it is used: its libraries cost 10 MB."""
    if not settings.member:
        return None
    from agent.membership import Membership
    from agent.trust_grpc import GrpcTrust

    trust = GrpcTrust(settings.timers.dial_timeout_s)
    return Membership(settings.identity_path, node_id, settings.controllers, trust, clock=time.time, rng=rng)


def _boottime_s() -> float:
    """Counts while the machine sleeps, and is the same for the guard."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _taken_in(before: str, address: str) -> asyncio.Event:
    """Set from the beginning on a node that is where it was: there tasks begin without any controller."""
    event = asyncio.Event()
    if before in ("", address):
        event.set()
    else:
        text = (
            "this node was at %s and is at %s: it starts no task before a controller has taken it in. If this "
            "machine's disk is a copy of another one's, delete the data directory: it becomes a node of its own then"
        )
        logger.warning(text, before, address)
    return event


def _unacknowledged(journal: Journal) -> list[TaskReport]:
    """Crash records that no controller has confirmed, with the status each task was left in."""
    attempts = journal.attempts()
    return [
        TaskReport(task_id=memory.task_id, status=memory.status, ended=attempts[memory.task_id])
        for memory in journal.tasks()
        if memory.task_id in attempts
    ]


def _users(settings: AgentSettings) -> Users:
    """Whom process tasks run as; their numbers stay the same for as long as the data directory does."""
    from agent.runtime.process_users import FALLBACK, Users, has_own_numbers

    default = settings.policy.process_user
    if default == OWN_USER and not has_own_numbers():
        logger.warning("this machine has no users of their own for process tasks: they all run as %s", FALLBACK)
        default = FALLBACK
    secret = kept_secret(Path(settings.data_dir) / "users.key") if default == OWN_USER else ""
    return Users(default=default, others=settings.policy.process_users, secret=secret.encode())


def _runtime(name: str, settings: AgentSettings, node_id: str) -> Runtime:
    """Imported only where it is used: a runtime's libraries cost memory on nodes that do without it."""
    match name:
        case "docker":
            from agent.runtime.docker import DockerRuntime

            if settings.docker_host:
                return DockerRuntime(node_id, host=settings.docker_host, clock=time.time)
            return DockerRuntime(node_id, clock=time.time)
        case "process":
            from agent.runtime.process import ProcessRuntime

            return ProcessRuntime(node_id, Path(settings.data_dir), clock=time.time, users=_users(settings))
        case "fake":
            from agent.runtime.fake import FakeEngine, FakeRuntime
            from agent.runtime.pretence import pretend

            return FakeRuntime(node_id, FakeEngine(time.time, pretend))
        case _:
            raise Invalid([Fault(path="runtimes", text=f"{name!r} is not a runtime")])


def book_of(settings: AgentSettings, data_dir: Path, address: str) -> AddressBook | None:
    """The node's addresses for jobs; None where it is to have none. Raises `Conflict` when it cannot have those it is
    to have."""
    from agent.network.names.place import open_book

    containers = "docker" in settings.runtimes
    return open_book(
        settings.service_addresses, data_dir, address, containers=containers, forwarders=settings.dns_forward
    )


async def plane_of(
    settings: AgentSettings, data_dir: Path, address: str, rng: Rng, book: AddressBook | None = None
) -> DataPlane:
    """The data plane that the settings ask for, not started. Raises `Invalid` when this machine has none such."""
    from agent.network.haproxy.site import Web
    from agent.network.planes import choose_plane

    web = Web(address=address, http_port=settings.web_port, https_port=settings.web_tls_port)
    certs = Path(settings.certs) if settings.certs else None
    memory = proxy_memory(settings.secrets_dir, data_dir)
    return await choose_plane(settings.proxy, data_dir, web, certs, rng, book, memory)


async def _resolve(advertise: str) -> str:
    """The IP address that ports are bound on; engines know no names."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(advertise, None, type=socket.SOCK_STREAM)
    except OSError as error:
        text = f"{advertise!r} is no address and no name of one: {error.strerror}"
        raise Invalid([Fault(path="advertise", text=text)]) from None
    return str(found[0][4][0])
