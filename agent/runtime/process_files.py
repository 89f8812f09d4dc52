"""The directory of one process task: what the agent writes there for the supervisor, and reads back.

Owns the file names and their meaning on the agent's side; `agent.runtime.shim` owns them on the other. Decides nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.runtime.cgroups import Group
from agent.runtime.interface import ContainerIdentity
from common.errors import Unavailable
from common.model.task import PortBinding

Record = TypeVar("Record")


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Who the program runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`request.json`: the first fields are for the supervisor, the rest for an agent that comes back."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    working_dir: str
    user: User | None
    control_groups: tuple[str, ...]
    output_bytes: int
    identity: ContainerIdentity
    bindings: tuple[PortBinding, ...] = ()
    memory_limit_bytes: int = 0
    volumes: tuple[str, ...] = ()
    """Names of those it has."""


class ShimRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`shim.json`: the supervisor and its child, named so that a reused process id cannot be taken for them."""

    pid: int
    ticks: int
    boot: str
    program_pid: int
    program_ticks: int


class StartedRecord(msgspec.Struct, frozen=True, kw_only=True):
    at_s: float


class FailedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`failed.json`: the program could not be executed."""

    error: str
    code: int


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    code: int
    ended_at_s: float
    oom: bool
    memory_peak_bytes: int


class TaskDirectory:
    """Paths and records of one attempt of one task."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch = path / "scratch"
        self.control = path / "control"

    def make(self, owner: User | None) -> None:
        """The directory can be passed through by the task's user but not read: the request holds its environment."""
        self.path.mkdir(mode=0o711)
        self.scratch.mkdir(mode=0o700)
        if owner is not None:
            os.chown(self.scratch, owner.uid, owner.gid)

    def write_request(self, request: StoredRequest) -> None:
        path = self.path / "request.json.new"
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(request))
        path.rename(self.path / "request.json")

    def request(self) -> StoredRequest | None:
        return self._record("request", StoredRequest)

    def shim(self) -> ShimRecord | None:
        return self._record("shim", ShimRecord)

    def started(self) -> StartedRecord | None:
        return self._record("started", StartedRecord)

    def failed(self) -> FailedRecord | None:
        return self._record("failed", FailedRecord)

    def exit(self) -> ExitRecord | None:
        return self._record("exit", ExitRecord)

    def last_words(self) -> str:
        """What a supervisor that failed has said."""
        try:
            return (self.path / "shim.log").read_text(errors="replace")[-2000:].strip()
        except OSError:
            return ""

    def _record(self, name: str, kind: type[Record]) -> Record | None:
        try:
            return msgspec.json.decode((self.path / f"{name}.json").read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise Unavailable(f"{self.path / name}.json cannot be read: {error}") from None


def group_of(request: StoredRequest) -> Group:
    return Group(directories=request.control_groups)
