"""The runtime's few verbs over containers that carry our identity. A runtime never touches what it did not create.

A container here is whatever the runtime runs for one attempt of one task: a Docker container, a process group, or an
entry of the fake. Restarting a task creates the next attempt's container. Every call has a bound on its time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from common.model.device import DeviceGrant
from common.model.job import Container, Port
from common.model.node import RuntimeStatus
from common.model.resources import Resources, Usage
from common.model.session import LogLine, LogStream, Program, TerminalSize
from common.model.task import PortBinding


class ContainerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """By what a container is recognised after the agent restarted. Stored with the container (labels, files)."""

    node_id: str
    task_id: str
    attempt: int
    namespace: str
    job: str
    slot: int


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """A user and its group, as numbers."""

    uid: int
    gid: int


class ProvidedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the node that a container sees, and can only read."""

    source: str
    """Where it is on the node; in memory."""
    target: str
    """Where the container has it. A plain process has it at `source`."""


class ContainerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a runtime needs to create one container."""

    identity: ContainerIdentity
    container: Container
    """`environment` is complete (the agent's variables included) and `${NAME}` in `command` is expanded."""
    limits: Resources = Resources()
    ports: tuple[Port, ...] = ()
    bindings: tuple[PortBinding, ...] = ()
    """Where each port must be reachable; `host_port` 0 lets the runtime choose (Docker)."""
    devices: tuple[DeviceGrant, ...] = ()
    """The units it may use; `environment` names them already."""
    resolver: str = ""
    """Whom a container is to ask for names; empty: as the runtime has it. Processes ask the machine's."""
    search: tuple[str, ...] = ()
    """Domains in which a container looks for short names, with `resolver`."""
    files: tuple[ProvidedFile, ...] = ()
    """Its configs and secrets."""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended."""

    code: int | None
    """Exit code; 128 + number for a signal; None when nobody could find out (e.g. the machine was rebooted)."""
    signal: str = ""
    """`SIGKILL` and so on; empty for an ordinary exit."""
    oom: bool = False
    memory_peak_bytes: int = 0
    """0: not measured."""
    memory_limit_bytes: int = 0
    ended_at_s: float = 0.0
    """As the engine noted it: for a program that ends at once, milliseconds before its start was noted here."""
    message: str = ""


class RunningContainer(msgspec.Struct, frozen=True, kw_only=True):
    """A container as the runtime sees it now."""

    id: str
    """Container id, or process id."""
    identity: ContainerIdentity
    running: bool
    started_at_s: float = 0.0
    bindings: tuple[PortBinding, ...] = ()
    exit: Exit | None = None
    """Set when it was started and has ended. None and not `running`: created, never started."""


class ExecResult(msgspec.Struct, frozen=True, kw_only=True):
    """Of a program run inside a container, as a health check does."""

    code: int
    output: str
    """Both streams, the first 4 KiB, undecodable bytes replaced."""


class ExecManner(msgspec.Struct, frozen=True, kw_only=True):
    """In what a program inside a container differs from the container's own; what is empty does not differ."""

    user: str = ""
    """Of containers with an image only."""
    working_dir: str = ""
    environment: dict[str, str] = {}


AS_THE_CONTAINER = ExecManner()


class ExecPiece(msgspec.Struct, frozen=True):
    """Some of what a program wrote, at most 16 KiB."""

    stream: LogStream
    content: bytes


class ExecSession(Protocol):
    """A program inside a container, and whoever talks to it. One reader and one writer at a time."""

    async def read(self) -> ExecPiece | None:
        """What it wrote next; None when it has ended and nothing is left."""

    async def write(self, content: bytes) -> None:
        """Give it input, waiting while it takes none. A program that reads no more is fine: the input is dropped."""

    async def end_input(self) -> None:
        """It finds the end of its input; with a terminal, as if somebody had typed ^D."""

    async def resize(self, size: TerminalSize) -> None:
        """Its terminal's new size. Nothing without a terminal."""

    async def exit_code(self) -> int:
        """Once `read` has answered None: its exit code, 128 + number for a signal."""


Progress = Callable[[str], None]
"""Called with a line for people, e.g. `pulling shop:1.4: 3 of 7 layers`."""


class Runtime(Protocol):
    """Errors: `NotFound` (no such container, no such image), `Invalid` (cannot ever run so: a bad reference, an unknown
    user, ...), `Conflict` (exists already with another identity, port taken), `Unavailable` (the engine is away or a
    call timed out: nothing is known, try again)."""

    name: str
    """`docker`, `process` or `fake`."""

    async def start(self) -> None:
        """Open what the runtime needs. Raises `Unavailable` or `Invalid`; may be repeated after `Unavailable`."""

    async def close(self) -> None:
        """Let go of connections and watchers. Containers keep running."""

    async def status(self) -> RuntimeStatus:
        """Whether it answers now; never raises."""

    async def prepare(self, container: Container, progress: Progress) -> tuple[Port, ...]:
        """Make the image present as its pull policy says; the ports that it declares (`EXPOSE`), lowest first.

        `NotFound` when no registry or engine has it."""

    async def owner_of(self, container: Container, task_id: str, namespace: str) -> Owner | None:
        """Whom its program runs as in this task, once it is prepared; None for whoever the agent runs as. Raises
        `Invalid` when there is no such user."""

    async def create(self, request: ContainerRequest) -> str:
        """Create (not start) the container; its id. Idempotent by (task, attempt): a repeat answers the same id."""

    async def start_container(self, container_id: str) -> RunningContainer:
        """Start it. Idempotent. Answers with the bindings it got."""

    async def stop_container(self, container_id: str, signal: str, grace_s: float) -> Exit:
        """Send `signal`, wait up to `grace_s`, then kill everything in it. Idempotent; how it ended."""

    async def kill_container(self, container_id: str) -> None:
        """End it now. A container that is gone is fine."""

    async def remove(self, container_id: str) -> None:
        """Forget an ended container and its output; kills it first when it still runs. Gone is fine."""

    async def wait(self, container_id: str) -> Exit:
        """Until it has ended. Works for adopted containers, and survives the engine's restart."""

    async def list(self) -> tuple[RunningContainer, ...]:
        """All containers of this node's identity, running or ended. Raises `Unavailable` rather than answer in part."""

    async def volumes(self) -> tuple[str, ...]:
        """Names of the volumes it keeps for this node. Raises `Unavailable` rather than answer in part."""

    async def remove_volume(self, name: str) -> None:
        """Delete a volume and what is in it. `Conflict` while a container has it; gone is fine."""

    async def exec(
        self, container_id: str, argv: tuple[str, ...], timeout_s: float, manner: ExecManner = AS_THE_CONTAINER
    ) -> ExecResult:
        """Run a program inside a running container. `Unavailable` when it did not end in time (it is killed)."""

    def open_exec(self, container_id: str, program: Program) -> AbstractAsyncContextManager[ExecSession]:
        """Run a program inside a running container, as its user, in its folder, with its environment and limits.

        Leaving the context ends it. Entering raises `Conflict` when the container does not run. A program that cannot
        be executed says so on its output and ends with code 126 or 127.
        """

    def logs(
        self, container_id: str, *, tail: int = -1, since_s: float = 0.0, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        """Its output in order; with `follow`, until it has ended. Lines are cut at 16 KiB. `task_id` is filled in."""

    async def usage(self, container_id: str) -> Usage:
        """CPU and memory at the moment; `tasks` is the number of processes where known."""
