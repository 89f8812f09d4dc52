"""The error tree. Errors are sorted by what a caller can do about them, and by nothing else.

    PodiumError
    ├── Invalid            the request is wrong: correct it; carries every fault at once
    ├── NotFound           the thing named does not exist
    ├── Unauthenticated    nobody is known by what the caller showed: show a certificate or token that counts
    ├── Forbidden          the caller is known, and may not do this: ask somebody who may, or for the right
    ├── Conflict           it exists, but not in a state that allows this; look, then decide
    ├── Fenced             the caller's term is over: stop working at once
    │   └── Superseded     ... and the whole process is a thing of the past: end it
    └── Unavailable        nothing is wrong with the request: try again later
        ├── NotLeader      ... and here is who can answer
        └── OutcomeUnknown ... but it may have happened: read back before repeating

Each edge (gRPC, HTTP, exit codes) owns one table that maps these; nobody else translates errors.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with an input: where it stands, and what was given against what is allowed."""

    path: str
    """Dotted path of the field, e.g. `services.web.deploy.replicas`; empty when it concerns the whole."""
    text: str
    file: str = ""
    line: int = 0
    """1-based line in `file`; 0 when the input was not a file."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else (f"{self.file}: " if self.file else "")
        return f"{place}{self.path}: {self.text}" if self.path else f"{place}{self.text}"


class PodiumError(Exception):
    """Root of every error this project raises on purpose."""


class Invalid(PodiumError):
    """The input is wrong. `faults` lists everything wrong with it, so that one correction round is enough."""

    def __init__(self, faults: Iterable[Fault] | str) -> None:
        self.faults: tuple[Fault, ...] = (Fault(path="", text=faults),) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class NotFound(PodiumError):
    """The thing named does not exist (or a prefix names none)."""


class Unauthenticated(PodiumError):
    """What the caller showed (nothing, or something that does not count) makes it nobody."""


class Forbidden(PodiumError):
    """The caller is known and has no right to this."""


class Conflict(PodiumError):
    """The thing exists, but not in a state that allows this."""


class Fenced(PodiumError):
    """Another term has begun; whatever this one still wanted to do must not happen."""


class Superseded(Fenced):
    """An agent has obeyed a later epoch than this controller can ever reach by itself."""


class Unavailable(PodiumError):
    """Nothing is wrong with the request; the other side cannot serve it now."""


class NotLeader(Unavailable):
    """This controller follows. `leader` is the gRPC address of the one that leads, empty while there is none."""

    def __init__(self, leader: str) -> None:
        self.leader = leader
        super().__init__(f"not the leader; the leader is {leader}" if leader else "no controller leads at the moment")


class OutcomeUnknown(Unavailable):
    """A write was sent and its answer lost: it may or may not have happened."""
