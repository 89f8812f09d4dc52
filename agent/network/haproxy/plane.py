"""HAProxy as a `DataPlane`: turns services into a site, and keeps the running HAProxy at it.

Endpoints come and go at run time, and certificates are renewed; only other ports and routes need a reload. The file is
always rewritten too, so that HAProxy serves the same after a restart, and an agent that is started again finds what it
serves. UDP is not HAProxy's: see `agent.network.planes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import aiohttp
import msgspec

from agent.network.ejection import Ejections
from agent.network.feed import socket_path
from agent.network.haproxy import steering
from agent.network.haproxy.config import METRICS, PARK, Limits, render, site_of
from agent.network.haproxy.program import CONFIG, Processes, Program, machine_limits
from agent.network.haproxy.rack import Rack
from agent.network.haproxy.site import Server, Site, Web, named_safely, proxy_name, servers_of, task_of
from agent.network.haproxy.steering import Key, Reading
from agent.network.interface import NO_CERTIFICATES, Certificates, DataPlaneState, Listener, listeners_of
from agent.network.names.book import AddressBook
from common.backoff import Backoff
from common.errors import Unavailable
from common.model.endpoint import Endpoint, Service, TrafficProblem
from common.model.ids import Rng
from common.model.job import Protocol

log = logging.getLogger(__name__)

LOOK_S, LOOK_CLOSELY_S = 1.0, 0.1
"""Between readings of its counters: closely while connections drain or an endpoint is left out."""
TRY_AGAIN_S = 2.0
"""Between attempts to get a port that another program holds, and looks at certificates that are used."""
LISTEN_AGAIN_S = 0.25
"""Between looks at connections that wait: whether they still do."""
PARKED, WAITS = "podium parked", "podium waits"
"""Commands of `park.lua`: who waits now, and the same as soon as somebody does, or after 3 s."""
RESTART = Backoff(first_s=0.1, limit_s=10.0)
RESOLVE_TIMEOUT_S = 2.0
METRICS_TIMEOUT_S = 2.0

_METRICS_SCOPES = "scope=global&scope=frontend&scope=backend"
"""Not of single servers: their names are tasks', and metrics of tasks would grow without end."""


class HaproxyPlane:
    """See the module; `directory` is its own, `web` where routed HTTP is served, `certs` where the node's certificates
    lie, `book` says where other jobs find each job, `memory` is for certificates that are secrets.
    Without `limits` it takes what the machine allows."""

    name = "haproxy"

    def __init__(
        self,
        directory: Path,
        web: Web,
        certs: Path | None,
        rng: Rng,
        book: AddressBook | None = None,
        memory: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._directory = directory
        self._web = web
        self._rng = rng
        self._book = book
        self._program = Program(directory)
        self._rack = Rack(directory, certs, memory, self._program)
        self._limits = limits or machine_limits()
        self._site = Site()
        self._asked: tuple[int, tuple[Service, ...], Certificates] | None = None
        self._problems: tuple[TrafficProblem, ...] = ()
        self._draining: tuple[str, ...] = ()
        self._processes = Processes()
        self._ejections: Ejections[Key] = Ejections()
        self._failures: dict[tuple[int, Key], int] = {}
        self._counted: dict[tuple[int, str, str], int] = {}
        self._jobs: dict[str, str] = {}
        """Whose a proxy is, also one that only old workers have."""
        self._connections: dict[str, int] = {}
        self._requests: dict[str, int] = {}
        self._open: dict[int, dict[str, int]] = {}
        """By worker and job."""
        self._waiting: dict[int, dict[str, steering.Waiting]] = {}
        """By worker and proxy."""
        self._led: dict[tuple[int, str], set[Key]] = {}
        """By old worker and proxy: to which servers those who waited there were passed on."""
        self._refused: dict[str, int] = {}
        self._wakes = asyncio.Event()
        """Set while some service wakes and has no endpoint."""
        self._told = DataPlaneState(revision=-1)
        self._subscribers: list[Callable[[DataPlaneState], None]] = []
        self._lock = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Of the master; 0 while none was found."""
        return self._processes.master

    @property
    def worker(self) -> int:
        """The process that takes new connections."""
        return self._processes.worker

    @property
    def left_out(self) -> set[Key]:
        """Endpoints that get nothing for now, since they failed connections."""
        return self._left_out(self._wanted())

    async def start(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name(PARK), self._directory / PARK)
        async with self._lock:
            self._serve(self._remembered())
            await self._find_or_start()
            await self._look()
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def apply(
        self, revision: int, services: tuple[Service, ...], certificates: Certificates = NO_CERTIFICATES
    ) -> None:
        async with self._lock:
            self._asked = revision, services, certificates
            await self._carry_out(*self._asked)
        self._tell()

    def subscribe(self, changed: Callable[[DataPlaneState], None]) -> None:
        self._subscribers.append(changed)

    async def metrics(self) -> bytes:
        """HAProxy's own, as its exporter tells them; empty when it does not answer."""
        with socket_path(self._directory, METRICS) as path:
            try:
                timeout = aiohttp.ClientTimeout(total=METRICS_TIMEOUT_S)
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(path), timeout=timeout) as session,
                    session.get(f"http://haproxy/metrics?{_METRICS_SCOPES}") as answer,
                ):
                    return await answer.read()
            except (OSError, TimeoutError, aiohttp.ClientError):
                return b""

    async def close(self, *, stop: bool) -> None:
        stop = stop or (self._watching is not None and self._site.revision < 0)  # it serves nobody
        running = [task for task in (self._watching, self._listening) if task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        if stop and self._directory.exists():
            await self._program.stop()
            (self._directory / PARK).unlink(missing_ok=True)
            self._rack.clear()

    # --- the process

    def _remembered(self) -> Site:
        try:
            site = site_of((self._directory / CONFIG).read_text())
            there = self._rack.present(site)
            if there != site:
                self._rack.put_list(there)
            return there
        except FileNotFoundError:
            return Site()
        except (OSError, ValueError) as error:
            log.warning("HAProxy's configuration is not as it was written (%s): starting empty", error)
            return Site()

    async def _find_or_start(self) -> None:
        found = await self._program.processes()
        if found is None:
            self._program.adopt(render(self._site, self._limits))
            found = await self._program.start()
        self._processes = found
        reading = await self._read()
        strange = reading.proxies != _proxies(self._site)
        if strange or (await self._program.ask(PARKED)).startswith("Unknown command"):  # an earlier version's
            log.warning("the running HAProxy serves something else than what is written: reloading it")
            self._program.adopt(render(self._site, self._limits))
            self._processes = await self._program.reload()

    async def _watch(self) -> None:
        """Bring it back when it is gone, and finish what takes its time."""
        tried_s = _now_s()
        while True:
            close = self._draining or len(self._processes.old) or self._ejections.any
            await asyncio.sleep(LOOK_CLOSELY_S if close else LOOK_S)
            try:
                async with self._lock:
                    if _now_s() - tried_s >= TRY_AGAIN_S:
                        tried_s = _now_s()
                        await self._try_again()
                    await self._steer()
                self._tell()
            except Unavailable as error:
                log.warning("HAProxy is away: %s", error)
                await self._bring_back()

    async def _listen(self) -> None:
        """Hear at once of connections that wait for a job that wakes: HAProxy answers as soon as there are some."""
        while True:
            await self._wakes.wait()
            try:
                seen = steering.read_waiting(await self._program.ask(WAITS))
                self._take_waiting(self._processes.worker, seen)
            except (Unavailable, ValueError) as error:
                log.debug("who waits is not known: %s", error)
                await asyncio.sleep(LOOK_S)
                continue
            self._tell()
            if any(one.parked for one in seen.values()):
                await asyncio.sleep(LISTEN_AGAIN_S)

    def _take_waiting(self, worker: int, seen: dict[str, steering.Waiting]) -> None:
        self._jobs.update((proxy_name(service), service.job_name) for service in self._site.services)
        before = self._waiting.get(worker, {})
        for proxy, one in seen.items():
            job = self._jobs.get(proxy)
            if job is not None:
                more = one.refused - (before[proxy].refused if proxy in before else 0)
                self._refused[job] = self._refused.get(job, 0) + max(more, 0)
        self._waiting[worker] = seen

    async def _bring_back(self) -> None:
        for failures in itertools.count(1):
            await asyncio.sleep(RESTART.full_jitter_s(failures, self._rng))
            try:
                async with self._lock:
                    await self._find_or_start()
                    await self._look()
                break
            except Unavailable as error:
                log.error("%s", error)
        self._told = DataPlaneState(revision=-1)
        self._tell()

    async def _try_again(self) -> None:
        """What could not be served before, and certificates that were renewed."""
        if self._asked is not None and (self._problems or self._site.certificates):
            await self._carry_out(*self._asked)

    # --- from services to what runs

    async def _carry_out(self, revision: int, services: tuple[Service, ...], secrets: Certificates) -> None:
        shelf, fresh = await self._rack.fill(services, secrets, self._site.certificates)
        served = [
            service for service in services if service.protocol is Protocol.TCP and service.key not in shelf.refused
        ]
        resolved = tuple([await _resolved(service) for service in served])
        problems = list(shelf.problems)
        names = self._book.names_of(resolved) if self._book is not None else None
        listeners = tuple(self._obtainable(listeners_of(self._web.address, resolved, names), problems))
        web = self._obtainable_web(resolved, bool(shelf.certificates), problems)
        site = Site(
            revision=revision,
            services=resolved,
            listeners=listeners,
            web=web,
            certificates=shelf.certificates if web is not None else (),
        )
        if site != self._site:
            await self._change(site, fresh)
        self._problems = tuple(problems)
        await self._steer()

    async def _change(self, site: Site, fresh: Mapping[str, bytes]) -> None:
        text = render(site, self._limits)
        if site.structure == self._site.structure and await self._renewed(fresh):
            self._program.adopt(text)
            self._serve(site)
            return
        try:
            self._rack.put_list(site)
        except OSError as error:
            raise Unavailable(f"certificates cannot be laid down for HAProxy: {error}") from None
        await self._program.check(text)
        self._count(self._processes.worker, await self._read())  # what is served no more is not told of again
        self._program.adopt(text)
        self._processes = await self._program.reload()
        self._serve(site)
        self._rack.tidy(site)

    async def _renewed(self, fresh: Mapping[str, bytes]) -> bool:
        """Whether HAProxy shows these at run time; False: it must be reloaded."""
        for path, content in fresh.items():
            if not await self._program.renew(path, content):
                log.info("HAProxy does not renew %s at run time: reloading it", path)
                return False
        return True

    def _serve(self, site: Site) -> None:
        self._site = site
        if any(service.wake_wait_s and not service.endpoints for service in site.services):
            self._wakes.set()
        else:
            self._wakes.clear()

    def _obtainable(self, listeners: Iterable[Listener], problems: list[TrafficProblem]) -> Iterable[Listener]:
        """Those that are ours already or can be had: one that cannot would keep HAProxy from taking any."""
        for listener in listeners:
            trouble = "" if listener in self._site.listeners else _trouble(listener.address, listener.port)
            if trouble:
                text = f"{listener} cannot be published: {trouble}"
                problems.append(TrafficProblem(service=listener.service, text=text))
            else:
                yield listener

    def _obtainable_web(
        self, services: tuple[Service, ...], secure: bool, problems: list[TrafficProblem]
    ) -> Web | None:
        routed = [service for service in services if service.http is not None]
        if not routed:
            return None
        held = self._site.web == self._web
        ports = [] if held else [self._web.http_port]
        if secure and not (held and self._site.certificates):
            ports.append(self._web.https_port)
        for port in ports:
            if trouble := _trouble(self._web.address, port):
                text = f"routed HTTP cannot be served on port {port}/tcp on {self._web.address}: {trouble}"
                problems += [TrafficProblem(service=service.key, text=text) for service in routed]
                return None
        return self._web

    # --- servers and counters

    async def _steer(self) -> None:
        """Make the servers the wanted ones, and read what became of those before."""
        wanted = self._wanted()
        reading = await self._read()
        self._count(self._processes.worker, reading)
        self._note_failures(self._processes.worker, reading)
        commands = list(steering.orders(wanted, reading.servers, self._left_out(wanted)))
        if commands:
            said = await self._program.command(commands)
            reading = await self._read()
            missing = wanted.keys() - {server.key for server in reading.servers}
            if missing:
                raise Unavailable(f"HAProxy does not take {len(missing)} servers: {said[:300]}")
        await self._look(reading)

    async def _look(self, reading: Reading | None = None) -> None:
        """Who still has connections that it should let go of."""
        wanted = self._wanted()
        present = reading or await self._read()
        draining = steering.draining(wanted, present.servers)
        if self._site.services:
            self._take_waiting(self._processes.worker, steering.read_waiting(await self._program.ask(PARKED)))
        if self._processes.old:
            self._processes = await self._program.processes() or self._processes
        for worker in self._processes.old:
            with contextlib.suppress(Unavailable, ValueError):  # it ended meanwhile
                draining |= await self._look_at_old(worker, wanted)
        alive = {self._processes.worker, *self._processes.old}
        self._waiting = {worker: seen for worker, seen in self._waiting.items() if worker in alive}
        self._led = {key: keys for key, keys in self._led.items() if key[0] in alive}
        self._draining = tuple(sorted(draining))

    async def _look_at_old(self, worker: int, wanted: dict[Key, Server]) -> set[str]:
        """Pass on those who wait in a worker that was replaced; which tasks that are wanted no more it has still."""
        reading = steering.read_statistics(await self._program.command(["show stat"], worker))
        self._take_waiting(worker, steering.read_waiting(await self._program.command([PARKED], worker)))
        self._count(worker, reading)
        for proxy, server in steering.leads(wanted, self._waited_for(worker) & reading.proxies).items():
            await self._program.command([steering.lead(server)], worker)
            self._led.setdefault((worker, proxy), set()).add(server.key)
        led = (key for proxy, number in reading.led.items() if number for key in self._led.get((worker, proxy), ()))
        return steering.draining(wanted, reading.servers) | {task_of(key[1]) for key in led if key not in wanted}

    async def _read(self) -> Reading:
        try:
            return steering.read_statistics(await self._program.ask("show stat"))
        except ValueError as error:
            raise Unavailable(str(error)) from None

    def _wanted(self) -> dict[Key, Server]:
        return {server.key: server for service in self._site.services for server in servers_of(service)}

    def _note_failures(self, worker: int, reading: Reading) -> None:
        for server in reading.servers:
            before = self._failures.get((worker, server.key))
            if before is not None and server.failures > before:
                self._ejections.failed(server.key, _now_s())
        self._failures = {(worker, server.key): server.failures for server in reading.servers}

    def _left_out(self, wanted: dict[Key, Server]) -> set[Key]:
        by_proxy: dict[str, list[Key]] = {}
        for key in wanted:
            by_proxy.setdefault(key[0], []).append(key)
        now_s = _now_s()
        return {key for keys in by_proxy.values() for key in self._ejections.left_out(keys, now_s)}

    def _count(self, worker: int, reading: Reading) -> None:
        """Add what a worker counted since it was last read to what its job has had."""
        self._jobs.update((proxy_name(service), service.job_name) for service in self._site.services)
        for kind, counts in (("frontend", reading.connections), ("backend", reading.requests)):
            for proxy, total in counts.items():
                before = self._counted.get((worker, kind, proxy), 0)
                self._counted[worker, kind, proxy] = total
                job = self._jobs.get(proxy)
                if job is not None and total > before:
                    self._connections[job] = self._connections.get(job, 0) + total - before
                    if kind == "backend":
                        self._requests[job] = self._requests.get(job, 0) + total - before
        self._open[worker] = self._by_job(reading.open)
        alive = {self._processes.worker, *self._processes.old}
        self._open = {one: standing for one, standing in self._open.items() if one in alive}
        self._counted = {key: total for key, total in self._counted.items() if key[0] in alive}
        counted = {proxy for _, _, proxy in self._counted}
        self._jobs = {proxy: job for proxy, job in self._jobs.items() if proxy in counted}

    def _by_job(self, by_proxy: Mapping[str, int]) -> dict[str, int]:
        return _summed({self._jobs[proxy]: number} for proxy, number in by_proxy.items() if proxy in self._jobs)

    def _waited_for(self, worker: int) -> frozenset[str]:
        return frozenset(proxy for proxy, one in self._waiting.get(worker, {}).items() if one.parked)

    def _wanted_jobs(self) -> tuple[str, ...]:
        asleep = [service for service in self._site.services if service.wake_wait_s and not service.endpoints]
        waited_for = frozenset().union(*map(self._waited_for, self._waiting))
        return tuple(sorted({service.job_name for service in asleep if proxy_name(service) in waited_for}))

    def _tell(self) -> None:
        state = DataPlaneState(
            revision=self._site.revision,
            draining=self._draining,
            problems=self._problems,
            connections=dict(self._connections),
            requests=dict(self._requests),
            open=_summed(self._open.values()),
            parked=_summed(
                self._by_job({proxy: one.parked for proxy, one in seen.items()}) for seen in self._waiting.values()
            ),
            refused=dict(self._refused),
            wanted=self._wanted_jobs(),
        )
        if state != self._told:
            self._told = state
            for subscriber in self._subscribers:
                subscriber(state)


def _summed(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for one in several:
        for name, number in one.items():
            sums[name] = sums.get(name, 0) + number
    return sums


def _proxies(site: Site) -> frozenset[str]:
    return frozenset(proxy_name(service) for service in site.services)


def _trouble(address: str, port: int) -> str:
    """Why a port cannot be had, by trying; empty when it can."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address, port))
    except OSError as error:
        return error.strerror or str(error)
    return ""


async def _resolved(service: Service) -> Service:
    """With IP addresses only: a name that does not resolve would keep HAProxy from starting."""
    endpoints = [await _numbered(endpoint) for endpoint in service.endpoints if named_safely(endpoint)]
    return msgspec.structs.replace(service, endpoints=tuple(endpoint for endpoint in endpoints if endpoint is not None))


async def _numbered(endpoint: Endpoint) -> Endpoint | None:
    try:
        ipaddress.ip_address(endpoint.address)
        return endpoint
    except ValueError:
        pass
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(endpoint.address, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        log.warning("endpoint %s of task %s has no address", endpoint.address, endpoint.task_id)
        return None
    return msgspec.structs.replace(endpoint, address=str(found[0][4][0]))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
