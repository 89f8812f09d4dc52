"""`podium dev`: a whole cluster in one process on one loop, within one data directory.

Owns the order in which the parts begin and end, and the shares of the machine. Everything it starts is production code
with ordinary settings; what a killed predecessor left behind is adopted by the agents of the same data directory.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

import agent.app
import controller.app
from agent.network.names.book import AddressBook
from agent.network.shared import SharedDataPlane
from agent.policy_file import read_policy
from agent.resources import capacity
from agent.settings import AgentSettings
from cli.announce import announced
from cli.messages import say
from cli.output import lines
from cli.render_table import cores, size
from client.client import Client
from client.settings import ClientSettings
from common.errors import Conflict, Fault, Invalid, Unavailable
from common.model.privileges import BindRule, NodePolicy
from common.model.resources import Resources
from common.model.trust import Kind
from controller.app import Addresses
from controller.settings import ControllerSettings, Timers

HOST = "127.0.0.1"
DOCKER_SOCKET = "unix:///var/run/docker.sock"
_JOIN_S = 600.0
"""For its own nodes to join, which takes a moment; what is left of the token then is nobody's."""
PING_TIMEOUT_S = 2.0
"""For a Docker Engine to say that it is there."""


class DevSettings(msgspec.Struct, frozen=True, kw_only=True):
    nodes: int
    data_dir: Path
    grpc_port: int
    http_port: int
    runtime: str
    """`auto`, `docker` or `process`."""
    docker_host: str = ""
    proxy: str = "relay"
    """As of an agent; the relay needs nothing installed, and is what a first try should not depend on."""
    web_port: int = 80
    web_tls_port: int = 443
    certs: str = ""
    allow_bind: tuple[str, ...] = ()
    insecure: bool = False
    prometheus: str = ""
    timers: Timers = Timers()
    service_addresses: str = "auto"
    dns_forward: tuple[str, ...] = ()
    secrets_dir: str = ""
    policy: str = ""
    """File of a policy, as of an agent; processes are always allowed, as whoever runs this."""


async def run_dev(settings: DevSettings, stop: asyncio.Event, environ: Mapping[str, str]) -> None:
    """Until `stop` is set; then the tasks are stopped, and the relay after them. When it fails instead, what runs goes
    on, traffic included, as after a `kill -9`. Raises `Conflict` when the data directory is in use."""
    settings = msgspec.structs.replace(settings, data_dir=settings.data_dir.absolute())
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(settings.data_dir):
        _check_ports(settings)
        runtimes = await _runtimes(settings)
        first = _agent(settings, f"{HOST}:7077", runtimes, place=1)
        first.check()
        book = agent.app.book_of(first, settings.data_dir, HOST)
        plane = SharedDataPlane(await agent.app.plane_of(first, settings.data_dir, HOST, random.Random(), book))
        try:
            await _run_parts(settings, runtimes, Traffic(plane, book), stop, environ)
        finally:
            await plane.close_all(stop=stop.is_set())
            if book is not None:
                book.close(stop=stop.is_set())


class Traffic(NamedTuple):
    """What all nodes share, as one machine has it once."""

    plane: SharedDataPlane
    book: AddressBook | None


async def _run_parts(
    settings: DevSettings,
    runtimes: tuple[str, ...],
    traffic: Traffic,
    stop: asyncio.Event,
    environ: Mapping[str, str],
) -> None:
    """All parts stop together: agents leave their sessions before they stop tasks, so nobody replaces those."""
    listening: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as parts:
        parts.create_task(controller.app.serve(_controller(settings), ready=listening.set_result, stop=stop))
        addresses = await listening
        with announced(environ, addresses):
            nodes = [_agent(settings, addresses.grpc, runtimes, place) for place in range(1, settings.nodes + 1)]
            nodes = await _admitted(nodes, addresses, stop)
            await _retire(settings, addresses.grpc, runtimes, traffic)
            waiting = [asyncio.Event() for _ in nodes]
            serving = [
                parts.create_task(_serve(node, traffic, stop, on.set)) for node, on in zip(nodes, waiting, strict=True)
            ]
            _announce(settings, runtimes, addresses, traffic.book)
            if await _all_ready(waiting, stop):
                lines(["ready"])
            await asyncio.wait(serving)


async def _serve(
    node: AgentSettings, traffic: Traffic, stop: asyncio.Event, on_ready: Callable[[], None] | None = None
) -> None:
    plane, book = traffic.plane.seat(), traffic.book
    await agent.app.serve(node, stop=stop, data_plane=plane, book=book, on_ready=on_ready, stop_tasks=True)


async def _admitted(nodes: list[AgentSettings], addresses: Addresses, stop: asyncio.Event) -> list[AgentSettings]:
    """Each with a token where it needs one to join. Waits until the controller leads, so that no agent has to complain
    that nobody does."""
    own = ClientSettings(
        controllers=(addresses.grpc,), token=addresses.first_token, authority=addresses.authority, insecure=True
    )
    strangers = [node for node in nodes if addresses.authority and not node.member]
    if strangers and not addresses.first_token:
        text = f"the cluster's first user was removed, and {len(strangers)} nodes need its right to join: give the new "
        raise Invalid([Fault(path="nodes", text=text + "nodes a token by `podium agent`, or give another --data-dir")])
    token = ""
    async with Client(own) as client:
        try:
            if strangers:
                token = (await client.trust.create_token(Kind.AGENT, _JOIN_S, len(strangers))).token
            elif addresses.first_token or not addresses.authority:
                await client.status()
        except Unavailable:
            if not stop.is_set():  # stopped so early that it never led
                raise
    return [msgspec.structs.replace(node, join_token="" if node.member else token) for node in nodes]


async def _retire(settings: DevSettings, address: str, runtimes: tuple[str, ...], traffic: Traffic) -> None:
    """Stop what is left of nodes that there are no more: fewer are asked for than last time."""
    at_once = asyncio.Event()
    at_once.set()
    place = settings.nodes + 1
    while Path((node := _agent(settings, address, runtimes, place)).data_dir).exists():
        await _serve(node, traffic, at_once)
        place += 1


async def _all_ready(waiting: list[asyncio.Event], stop: asyncio.Event) -> bool:
    """Whether every node became ready; False when `stop` came first."""
    readiness = asyncio.ensure_future(_each(waiting))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((readiness, stopping), return_when=asyncio.FIRST_COMPLETED)
        return readiness.done()
    finally:
        readiness.cancel()
        stopping.cancel()


async def _each(events: list[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _controller(settings: DevSettings) -> ControllerSettings:
    return ControllerSettings(
        store=f"sqlite://{settings.data_dir / 'controller.db'}",
        grpc_listen=f"{HOST}:{settings.grpc_port}",
        http_listen=f"{HOST}:{settings.http_port}",
        agent_listen=f"{HOST}:0",
        cluster_key="" if settings.insecure else str(settings.data_dir / "cluster.key"),
        insecure=settings.insecure,
        prometheus=settings.prometheus,
        timers=settings.timers,
    )


def _agent(settings: DevSettings, address: str, runtimes: tuple[str, ...], place: int) -> AgentSettings:
    name = f"node-{place}"
    share = _share(settings.nodes)
    return AgentSettings(
        controllers=(address,),
        data_dir=str(settings.data_dir / "nodes" / name),
        name=name,
        advertise=HOST,
        runtimes=runtimes,
        docker_host=settings.docker_host,
        proxy=settings.proxy,
        web_port=settings.web_port,
        web_tls_port=settings.web_tls_port,
        certs=settings.certs,
        service_addresses=settings.service_addresses,
        dns_forward=settings.dns_forward,
        secrets_dir=settings.secrets_dir,
        policy=_policy(settings),
        cpus=share.cpu_millis / 1000,
        memory_bytes=share.memory_bytes,
        insecure=settings.insecure,
        find_devices=place == 1,  # the machine's GPUs must not be promised twice
    )


def _policy(settings: DevSettings) -> NodePolicy:
    """Everything runs on the machine of whoever runs this, and plain processes as themselves."""
    policy = read_policy(settings.policy) if settings.policy else NodePolicy()
    bind = (*policy.bind, *(BindRule(path=path) for path in settings.allow_bind))
    return msgspec.structs.replace(policy, bind=bind, processes=True, process_user="")


def _share(nodes: int) -> Resources:
    """An equal part of the machine, so that the nodes together never promise more than there is."""
    machine = capacity(cpus=0.0, memory_bytes=0)
    return Resources(cpu_millis=max(1, machine.cpu_millis // nodes), memory_bytes=machine.memory_bytes // nodes)


def _announce(settings: DevSettings, runtimes: tuple[str, ...], addresses: Addresses, book: AddressBook | None) -> None:
    share = _share(settings.nodes)
    offer = f"{cores(share.cpu_millis)} CPUs and {size(share.memory_bytes)} each"
    where = "" if book is None else f"; names answered on {book.names.resolver} port {book.names.resolver_port}"
    say(f"{settings.nodes} nodes ({', '.join(runtimes)}) with {offer}{where}; data in {settings.data_dir}")
    say(f"controller on {addresses.grpc}, health and metrics on http://{addresses.http}; ^C stops everything")


# --- what is there already


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One `podium dev` per data directory; the kernel lets go of the lock when its holder dies."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            text = f"another `podium dev` (process {holder}) uses {data_dir}: stop it, or give another --data-dir"
            raise Conflict(text) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _check_ports(settings: DevSettings) -> None:
    """Before anything is started: both ports are free at this moment, or all that is wrong with them."""
    wanted = (("grpc_port", settings.grpc_port), ("http_port", settings.http_port))
    faults = [Fault(path=path, text=text) for path, port in wanted if (text := _taken(path, port))]
    if faults:
        raise Invalid(faults)


def _taken(path: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what ended just now does not count
        try:
            probe.bind((HOST, port))
        except OSError as error:
            option = path.replace("_", "-")
            return f"{HOST}:{port} cannot be listened on ({error.strerror}): give another with --{option}"
    return ""


async def _runtimes(settings: DevSettings) -> tuple[str, ...]:
    match settings.runtime:
        case "process":
            return ("process",)
        case "docker":
            return ("docker", "process")
        case _:
            found = await engine_answers(settings.docker_host or DOCKER_SOCKET)
            return ("docker", "process") if found else ("process",)


async def engine_answers(docker_host: str) -> bool:
    """Whether a Docker Engine is there: asked once, plainly, before the runtime with its libraries is."""
    scheme, _, place = docker_host.partition("://")
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            if scheme == "unix":
                reader, writer = await asyncio.open_unix_connection(place)
            else:
                host, _, port = place.rpartition(":")
                reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
