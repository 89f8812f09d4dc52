"""The one table between errors and gRPC statuses, for both directions. Nobody else translates between the two.

Two errors carry more than text, in trailing metadata: `NotLeader` the leader's address under `podium-leader`, and
`Invalid` its faults as JSON under `podium-faults-bin`.
"""

from __future__ import annotations

from typing import NoReturn, Protocol, TypeAlias

import grpc
import msgspec

from common.errors import (
    Conflict,
    Fault,
    Fenced,
    Forbidden,
    Invalid,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    PodiumError,
    Unauthenticated,
    Unavailable,
)

LEADER_KEY = "podium-leader"
FAULTS_KEY = "podium-faults-bin"

DETAILS_LIMIT_CHARACTERS = 1_000
FAULTS_LIMIT_BYTES = 4_096
"""gRPC peers may refuse metadata beyond 8 KiB, where a byte of a `-bin` value takes four thirds of one."""

_CODES: tuple[tuple[type[PodiumError], grpc.StatusCode], ...] = (
    # The first row an error is an instance of counts, so what is more particular stands first.
    (Invalid, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Conflict, grpc.StatusCode.FAILED_PRECONDITION),
    (Fenced, grpc.StatusCode.ABORTED),
    (NotLeader, grpc.StatusCode.UNAVAILABLE),
    (OutcomeUnknown, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (PodiumError, grpc.StatusCode.INTERNAL),
)

_ERRORS: dict[grpc.StatusCode, type[PodiumError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Invalid,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Fenced,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    # What gRPC itself answers, never we: what was sent is wrong and stays wrong when it is repeated.
    grpc.StatusCode.OUT_OF_RANGE: Invalid,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Invalid,
    grpc.StatusCode.UNIMPLEMENTED: Invalid,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    # It may have happened: DEADLINE_EXCEEDED, INTERNAL, UNKNOWN, DATA_LOSS are the rest, see `error_of`.
}

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


class Status(msgspec.Struct, frozen=True):
    """An error as gRPC carries it."""

    code: grpc.StatusCode
    details: str
    trailing: Metadata = ()


class Aborting(Protocol):
    """The part of a servicer's context that ends a call with an error."""

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn: ...


def status_of(error: PodiumError) -> Status:
    """How a server answers `error`."""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    details = _clipped(str(error))
    match error:
        case Invalid(faults=faults):
            return Status(code, details, ((FAULTS_KEY, _encode_faults(faults)),))
        case NotLeader(leader=leader):
            return Status(code, details, ((LEADER_KEY, leader),))
        case _:
            return Status(code, details)


def error_of(error: grpc.aio.AioRpcError) -> PodiumError:
    """What a client raises for the answer `error`. Undoes `status_of`."""
    trailing = dict(tuple(item) for item in error.trailing_metadata() or ())
    details = error.details() or error.code().name.lower().replace("_", " ")
    if LEADER_KEY in trailing:
        leader = trailing[LEADER_KEY]
        return NotLeader(leader.decode() if isinstance(leader, bytes) else leader)
    kind = _ERRORS.get(error.code(), OutcomeUnknown)
    if kind is Invalid:
        return Invalid(_decode_faults(trailing.get(FAULTS_KEY)) or details)
    return kind(details)


async def abort(context: Aborting, error: PodiumError) -> NoReturn:
    """End a call with `error`."""
    status = status_of(error)
    await context.abort(status.code, status.details, status.trailing)


def _clipped(text: str) -> str:
    return text if len(text) <= DETAILS_LIMIT_CHARACTERS else text[: DETAILS_LIMIT_CHARACTERS - 1] + "…"


def _encode_faults(faults: tuple[Fault, ...]) -> bytes:
    """As many of the faults as fit, and a last one that counts the others."""
    kept = list(faults)
    encoded = msgspec.json.encode(kept)
    while len(encoded) > FAULTS_LIMIT_BYTES and kept:
        kept = kept[: len(kept) // 2]
        rest = Fault(path="", text=f"and {len(faults) - len(kept)} more faults")
        encoded = msgspec.json.encode([*kept, rest])
    return encoded


def _decode_faults(value: str | bytes | None) -> tuple[Fault, ...]:
    if not isinstance(value, bytes):
        return ()
    try:
        return msgspec.json.decode(value, type=tuple[Fault, ...])
    except msgspec.DecodeError:
        return ()  # a newer or foreign server: the details say it in words
