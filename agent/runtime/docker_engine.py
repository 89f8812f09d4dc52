"""The engine's HTTP interface as far as we use it: typed answers, our errors, and a time-out on every call.

Owns the connection and the table from the engine's errors to ours. It knows nothing of tasks and decides nothing.
Only ids of 64 hexadecimal digits and checked image references get into a URL: aiodocker does not quote them, and a
crafted one could name any other resource of the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import TypeVar

import aiodocker
import aiohttp
import msgspec
from aiodocker.execs import Exec
from aiodocker.stream import Stream

from agent.runtime.docker_answers import (
    Created,
    Event,
    ExecInspection,
    ImageInspection,
    Inspection,
    Listed,
    ListedVolumes,
    PullLine,
    Stats,
    Version,
)
from agent.runtime.docker_request import NODE_LABEL, VOLUME_LABEL, Json
from agent.runtime.docker_streams import Frame, FrameDecoder, JsonLineDecoder
from agent.runtime.interface import AS_THE_CONTAINER, ExecManner
from common.errors import Conflict, Invalid, NotFound, PodiumError, Unavailable
from common.references import Reference

Answer = TypeVar("Answer")


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one engine."""

    call_timeout_s: float = 30.0
    """An idle engine answers in milliseconds; one that starts dozens of containers may take seconds."""
    start_timeout_s: float = 120.0
    """Create, start and remove touch disks and networks and queue behind each other inside the engine."""
    status_timeout_s: float = 4.0
    """Reported with heartbeats: later is as good as away. Less than a poll may take, so that the engine is named."""
    pull_idle_timeout_s: float = 120.0
    """Without a line of progress for this long, a registry is taken for gone."""
    pull_timeout_s: float = 1800.0
    stream_idle_timeout_s: float = 120.0
    """Events are asked for anew after this long without one: the other end may have vanished without a word."""
    connections: int = 256
    """Calls, pulls and followed logs together."""
    log_streams: int = 64
    """Followed logs at a time, so that they leave connections to everything else."""
    starts_at_once: int = 8
    """Creates and starts in flight: measured, more gain nothing and only lengthen each (6/s either way)."""
    inspections_at_once: int = 16
    """After an engine's restart hundreds of containers are looked at."""
    pulls_at_once: int = 3
    """The engine downloads three layers at a time by default."""
    list_period_s: float = 30.0
    """Events are hints and may get lost; the list is the truth and this is how late it may come."""
    peak_period_s: float = 5.0
    """A memory peak is read from the container's cgroup, which is gone when it has ended."""
    reconnect_limit_s: float = 5.0


class LeftOver(Unavailable):
    """The engine holds a container for not running, and cannot start it because what it ran is still there."""


class Engine(aiodocker.Docker):
    """aiodocker's connection with the calls it lacks or bounds too little: `since`, one shot, separated streams."""

    def __init__(self, host: str, settings: EngineSettings) -> None:
        self.settings = settings
        connector = _connector(host, settings.connections)
        super().__init__(url=host, connector=connector)
        if connector is not None:
            self.docker_host = "unix://localhost"  # as aiodocker does for a connector of its own: URLs need a host
        self._log_streams = asyncio.Semaphore(settings.log_streams)
        self._podman_version = ""
        """Of a Podman that has answered since it was last away."""

    async def close(self) -> None:
        await super().close()
        await self.connector.close()  # one that was handed in is not closed by aiodocker

    async def negotiate(self) -> None:
        """Settle which version of the interface is spoken."""
        self.api_version = "auto"
        await self.answering_version()

    async def answering_version(self) -> str:
        """The version of an engine that answers now.

        Docker's answer takes a millisecond and tells that containerd answers too. Podman starts other programs for it,
        0.3 s of CPU each time: it is asked once, and from then on whether it is there.
        """
        known, self._podman_version = self._podman_version, ""
        timeout_s = self.settings.status_timeout_s
        if known:
            await self._do("GET", "_ping", timeout_s=timeout_s)
        else:
            answer = await self._call(Version, "GET", "version", timeout_s=timeout_s)
            if not answer.of_podman:
                return answer.version
            known = answer.version
        self._podman_version = known
        return known

    async def create(self, name: str, body: Mapping[str, Json]) -> str:
        params = {"name": name} if name else {}
        timeout_s = self.settings.start_timeout_s
        return (await self._call(Created, "POST", "containers/create", params, body, timeout_s=timeout_s)).id

    async def begin(self, container_id: str) -> None:
        """Start it; started already is fine. Raises `LeftOver`."""
        await self._do("POST", f"{_path(container_id)}/start", timeout_s=self.settings.start_timeout_s)

    async def send_signal(self, container_id: str, signal: str) -> bool:
        """Signal its first process. False when it does not run."""
        try:
            await self._do("POST", f"{_path(container_id)}/kill", {"signal": signal})
        except Conflict:
            return False
        return True

    async def delete(self, container_id: str) -> None:
        """Remove it with its anonymous volumes, running or not. Gone, or going, is fine."""
        params = {"force": "1", "v": "1"}
        with contextlib.suppress(NotFound, Conflict):
            await self._do("DELETE", _path(container_id), params, timeout_s=self.settings.start_timeout_s)

    async def inspect(self, container_id: str) -> Inspection:
        return await self._call(Inspection, "GET", f"{_path(container_id)}/json")

    async def find(self, labels: Mapping[str, str], *, ended: bool) -> list[Listed]:
        """Containers that carry all these labels, with `ended` also those that do not run."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        params = {"all": "1" if ended else "0", "filters": _json(wanted)}
        return await self._call(list[Listed], "GET", "containers/json", params)

    async def stats(self, container_id: str) -> Stats:
        """One sample; without `one-shot` the engine takes two, a second apart."""
        params = {"stream": "0", "one-shot": "1"}
        return await self._call(Stats, "GET", f"{_path(container_id)}/stats", params)

    async def image_if_there(self, reference: Reference) -> ImageInspection | None:
        try:
            return await self.image(reference)
        except NotFound:
            return None

    async def image(self, reference: Reference) -> ImageInspection:
        return await self._call(ImageInspection, "GET", f"images/{reference}/json")

    async def archive(self, container_id: str, path: str) -> bytes:
        """A file of a container, as a tar archive. Raises `NotFound`."""
        return await self._do("GET", f"{_path(container_id)}/archive", {"path": path})

    async def pull_lines(self, reference: Reference) -> AsyncGenerator[PullLine, None]:
        """Pull it; every line of progress. Raises as the table says also for errors told within the stream."""
        params = {"fromImage": reference.name, "tag": reference.digest or reference.tag or "latest"}
        decoder = JsonLineDecoder()
        idle_s = self.settings.pull_idle_timeout_s
        async with self._stream("POST", "images/create", params, idle_timeout_s=idle_s) as chunks:
            async for chunk in chunks:
                for line in decoder.feed(chunk):
                    progress = msgspec.json.decode(line, type=PullLine)
                    if progress.error:
                        raise error_for(0, progress.error)
                    yield progress

    async def volumes_of(self, node_id: str) -> tuple[str, ...]:
        """Names of those that carry a node's label, as the node knows them."""
        params = {"filters": _json({"label": [f"{NODE_LABEL}={node_id}"]})}
        listed = (await self._call(ListedVolumes, "GET", "volumes", params)).volumes or []
        names = ((volume.labels or {}).get(VOLUME_LABEL, "") for volume in listed)
        return tuple(sorted(name for name in names if name))

    async def remove_volume(self, name: str) -> None:
        """By the engine's name for it. Gone is fine; raises `Conflict` while a container has it."""
        if not _VOLUME.fullmatch(name):
            raise NotFound(f"{name!r} is no name of a volume")
        with contextlib.suppress(NotFound):
            await self._do("DELETE", f"volumes/{name}")

    async def create_exec(
        self,
        container_id: str,
        argv: tuple[str, ...],
        *,
        stdin: bool = False,
        tty: bool = False,
        manner: ExecManner = AS_THE_CONTAINER,
    ) -> str:
        body: dict[str, Json] = {"Cmd": list(argv), "AttachStdout": True, "AttachStderr": True}
        body |= {"AttachStdin": stdin, "Tty": tty}
        told: dict[str, Json] = {
            "Env": [f"{name}={value}" for name, value in manner.environment.items()],
            "User": manner.user,
            "WorkingDir": manner.working_dir,
        }
        body |= {key: value for key, value in told.items() if value}
        return (await self._call(Created, "POST", f"{_path(container_id)}/exec", None, body)).id

    async def run_exec(self, exec_id: str) -> AsyncGenerator[Frame, None]:
        """Start it and read both of its streams until it has closed them."""
        decoder = FrameDecoder()
        body: dict[str, Json] = {"Detach": False, "Tty": False}
        async with self._stream("POST", f"exec/{_checked(exec_id)}/start", None, body) as chunks:
            async for chunk in chunks:
                for frame in decoder.feed(chunk):
                    yield frame

    @contextlib.asynccontextmanager
    async def attach_exec(self, exec_id: str, *, tty: bool) -> AsyncIterator[Stream]:
        """Start it, with its input and output on a connection of their own."""
        timeout_s = self.settings.call_timeout_s
        with _translated("POST exec/start", timeout_s):
            stream = Exec(self, _checked(exec_id), tty).start(timeout=aiohttp.ClientTimeout(connect=timeout_s))
            try:
                async with asyncio.timeout(timeout_s):
                    await stream._init()  # noqa: SLF001 - what entering it does; that has no time-out
                yield stream
            finally:
                await stream.close()

    async def resize_exec(self, exec_id: str, columns: int, rows: int) -> None:
        await self._do("POST", f"exec/{_checked(exec_id)}/resize", {"h": str(rows), "w": str(columns)})

    async def inspect_exec(self, exec_id: str) -> ExecInspection:
        return await self._call(ExecInspection, "GET", f"exec/{_checked(exec_id)}/json")

    async def log_frames(
        self, container_id: str, *, tail: int, since_s: float, follow: bool
    ) -> AsyncGenerator[Frame, None]:
        """Its output, every line with the time before it."""
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
        params |= {"tail": str(tail) if tail >= 0 else "all", "since": f"{since_s:.9f}"}
        if self._log_streams.locked():
            raise Unavailable(f"{self.settings.log_streams} logs are being read already; close one and try again")
        decoder = FrameDecoder()
        idle_s = None if follow else self.settings.call_timeout_s
        path = f"{_path(container_id)}/logs"
        async with self._log_streams, self._stream("GET", path, params, idle_timeout_s=idle_s) as chunks:
            async for chunk in chunks:
                for frame in decoder.feed(chunk):
                    yield frame

    @contextlib.asynccontextmanager
    async def ends(self, labels: Mapping[str, str], since_ns: int) -> AsyncIterator[AsyncIterator[Event]]:
        """Subscribed to the ends of labelled containers once entered. Podman says `died` where Docker says `die`."""
        wanted = {
            "type": ["container"],
            "event": ["die", "died"],
            "label": [f"{name}={value}" for name, value in labels.items()],
        }
        params = {"filters": _json(wanted)}
        if since_ns:
            params["since"] = f"{since_ns // 10**9}.{since_ns % 10**9:09d}"
        idle_s = self.settings.stream_idle_timeout_s
        async with self._stream("GET", "events", params, idle_timeout_s=idle_s) as chunks:
            yield _events(chunks)

    async def _call(
        self,
        kind: type[Answer],
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Json] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        content = await self._do(method, path, params, body, timeout_s=timeout_s)
        with _translated(f"{method} {path}", 0.0):
            return msgspec.json.decode(content, type=kind)

    async def _do(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Json] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> bytes:
        """One request; its answer's body."""
        timeout_s = self.settings.call_timeout_s if timeout_s is None else timeout_s
        data = None if body is None else _json(body)
        with _translated(f"{method} {path}", timeout_s):
            async with (
                asyncio.timeout(timeout_s),
                self._query(path, method, params=dict(params or {}), data=data, timeout=None) as response,
            ):
                return await response.read()

    @contextlib.asynccontextmanager
    async def _stream(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Json] | None = None,
        *,
        idle_timeout_s: float | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A long answer in pieces, closed on the way out; `idle_timeout_s` bounds the wait for each piece."""
        answer_timeout_s = idle_timeout_s or self.settings.call_timeout_s
        timeout = aiohttp.ClientTimeout(sock_read=idle_timeout_s)
        data = None if body is None else _json(body)
        with _translated(f"{method} {path}", answer_timeout_s):
            async with asyncio.timeout(answer_timeout_s):
                response = await self._do_query(path, method, params=dict(params or {}), data=data, timeout=timeout)
            try:
                yield response.content.iter_any()
            finally:
                response.close()


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    decoder = JsonLineDecoder()
    async for chunk in chunks:
        for line in decoder.feed(chunk):
            yield msgspec.json.decode(line, type=Event)


def _connector(host: str, limit: int) -> aiohttp.BaseConnector | None:
    """None leaves it to aiodocker, which knows TLS and ssh; it then allows 100 connections."""
    return aiohttp.UnixConnector(host.removeprefix("unix://"), limit=limit) if host.startswith("unix://") else None


def _json(value: Mapping[str, Json] | Mapping[str, list[str]]) -> str:
    return msgspec.json.encode(value).decode()


_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_ID = re.compile(r"[0-9a-f]{64}")


def _checked(engine_id: str) -> str:
    if not _ID.fullmatch(engine_id):
        raise NotFound(f"{engine_id!r} is not an id of the engine: those are 64 hexadecimal digits")
    return engine_id


def _path(container_id: str) -> str:
    return f"containers/{_checked(container_id)}"


@contextlib.contextmanager
def _translated(what: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Unavailable(f"Docker Engine did not answer `{what}` within {timeout_s:g} s") from None
    except aiodocker.DockerError as error:
        raise error_for(error.status, error.message) from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"lost Docker Engine during `{what}`: {error}") from None
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise Unavailable(f"Docker Engine answered `{what}` with what cannot be read: {error}") from None


_CANNOT_RUN = (
    "unable to find user",
    "unable to find group",
    "no matching entries in",
    "executable file not found",
    "permission denied: unknown",
    "no such file or directory: unknown",
    "is a directory: unknown",
    "invalid reference format",
    "could not select device driver",
    "nvidia-container-cli: device error",
)
_TAKEN = ("port is already allocated", "address already in use", "ports are not available")
_LEFT_OVER = re.compile(r"id already in use|task [0-9a-f]{64}: already exists")
_ABSENT = (
    "manifest unknown",
    "not found: manifest",
    "pull access denied",
    "repository does not exist",
    "no such image",
    "requested access to the resource is denied",
    "no matching manifest",
)


def error_for(status: int, message: str) -> PodiumError:
    """Our error for one of the engine's. The text decides where the status says too little (500, or none in a pull)."""
    text = message.lower()
    if _LEFT_OVER.search(text):
        return LeftOver(f"Docker Engine: {message}")
    if any(sign in text for sign in _ABSENT) or status == 404:
        return NotFound(message)
    if any(sign in text for sign in _TAKEN) or status == 409:
        return Conflict(message)
    if any(sign in text for sign in _CANNOT_RUN) or status == 400:
        return Invalid(message)
    return Unavailable(f"Docker Engine: {message}")
