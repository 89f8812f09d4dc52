"""Whether a machine gets a certificate, and what is written down of it. Secrets and signatures were checked before.

A certificate is given for a token that counts, to the holder of a certificate, or to the holder of the key of one that
has expired. An id belongs to whoever enrolled with it first: a token alone never gives somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from common.errors import Conflict, Forbidden, Unauthenticated
from common.model.trust import Denied, Enrolment, JoinToken, Kind
from controller.state import Erase, Group, State, Write

CERTIFICATE_S = 30 * 86_400.0
"""A stolen key is worth so much at most, and a node that was off for a holiday still comes back by itself."""
_COUNTS_NOT = "this token does not count: it was revoked, has expired, was used up, or never was"
"""One answer for all: who guesses learns nothing. `podium token ls` tells the operator."""


def joined(
    state: State, token: JoinToken | None, *, identifier: str, key_digest: str, expires_at_s: float, now_s: float
) -> tuple[Enrolment, Group]:
    """What a machine with `token` becomes; `token` is None when it is unknown or its secret did not match.

    Repeated with the same key it is answered again, and the token used once. Raises `Unauthenticated`, or `Conflict`
    when the id is another machine's.
    """
    known = None if token is None else state.enrolments.get(f"{token.kind.value}-{identifier}")
    repeated = known is not None and known.key_digest == key_digest
    if token is None or now_s >= token.expires_at_s or (token.uses_left < 1 and not repeated):
        raise Unauthenticated(_COUNTS_NOT)
    if known is not None and not repeated:
        raise Conflict(
            f"another machine is {token.kind.value} {identifier}; if this one was installed anew or is a copy of that "
            "one, let it take a new id (an empty --data-dir)"
        )
    enrolment = Enrolment(kind=token.kind, id=identifier, key_digest=key_digest, expires_at_s=expires_at_s)
    if repeated:
        return enrolment, (Write(enrolment),)
    return enrolment, (Write(enrolment), Write(msgspec.structs.replace(token, uses_left=token.uses_left - 1)))


def renewed(state: State, kind: Kind, identifier: str, key_digest: str, expires_at_s: float) -> tuple[Enrolment, Group]:
    """The next certificate of a machine that has shown its present one. Raises `Forbidden` when it was removed."""
    if f"{kind.value}-{identifier}" not in state.enrolments:
        raise Forbidden(f"{kind.value} {identifier} was removed from the cluster; it has to join anew")
    enrolment = Enrolment(kind=kind, id=identifier, key_digest=key_digest, expires_at_s=expires_at_s)
    return enrolment, (Write(enrolment),)


def recovered(state: State, identifier: str, key_digest: str, expires_at_s: float) -> tuple[Enrolment, Group]:
    """The next certificate of an agent that holds the key of its last one. Raises `Unauthenticated`."""
    known = state.enrolments.get(f"{Kind.AGENT.value}-{identifier}")
    if known is None or known.key_digest != key_digest:
        raise Unauthenticated(f"agent {identifier} is not known by this key; it has to join anew (--join)")
    enrolment = msgspec.structs.replace(known, expires_at_s=expires_at_s)
    return enrolment, (Write(enrolment),)


def forgettable(state: State, now_s: float) -> tuple[Group, ...]:
    """Tokens that count no more, and denials of certificates that have expired anyway; each erased alone."""
    return tuple((Erase(record),) for record in _passed(state, now_s))


def forget_at_s(state: State) -> float:
    """When there will be something to forget; infinite while there is nothing."""
    ends: Iterable[float] = (
        *(token.expires_at_s for token in state.join_tokens.values()),
        *(denied.until_s for denied in state.denied.values()),
    )
    return min(ends, default=float("inf"))


def _passed(state: State, now_s: float) -> Iterator[JoinToken | Denied]:
    yield from (token for token in state.join_tokens.values() if now_s >= token.expires_at_s)
    yield from (denied for denied in state.denied.values() if now_s >= denied.until_s)
