"""Whether a machine gets a certificate, and what is written down of it. Secrets and signatures were checked before.

A certificate is given for a token that counts, to the holder of a certificate, or to the holder of the key of one that
has expired. An id belongs to whoever enrolled with it first: a token alone never gives somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from common.errors import Conflict, Forbidden, Unauthenticated
from common.model.trust import Denied, Enrolment, Issued, JoinToken, Kind
from controller.state import Erase, Group, State, Write

CERTIFICATE_S = 30 * 86_400.0
"""A stolen key is worth so much at most, and a node that was off for a holiday still comes back by itself."""
CERTIFICATES_LIMIT = 16
"""Of one machine at a time: all of them are denied when it is removed, and a renewal comes after half a life."""
_COUNTS_NOT = "this token does not count: it was revoked, has expired, was used up, or never was"
"""One answer for all: who guesses learns nothing. `podium token ls` tells the operator."""


def joined(
    state: State, token: JoinToken | None, *, identifier: str, key_digest: str, issued: Issued, now_s: float
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
    enrolment = Enrolment(
        kind=token.kind, id=identifier, key_digest=key_digest, certificates=_with(known, issued, now_s)
    )
    if repeated:
        return enrolment, (Write(enrolment),)
    return enrolment, (Write(enrolment), Write(msgspec.structs.replace(token, uses_left=token.uses_left - 1)))


def renewed(
    state: State, kind: Kind, identifier: str, key_digest: str, *, issued: Issued, now_s: float
) -> tuple[Enrolment, Group]:
    """The next certificate of a machine that has shown its present one. Raises `Forbidden` when it was removed."""
    known = state.enrolments.get(f"{kind.value}-{identifier}")
    if known is None:
        raise Forbidden(f"{kind.value} {identifier} was removed from the cluster; it has to join anew")
    enrolment = Enrolment(kind=kind, id=identifier, key_digest=key_digest, certificates=_with(known, issued, now_s))
    return enrolment, (Write(enrolment),)


def recovered(
    state: State, identifier: str, key_digest: str, *, issued: Issued, now_s: float
) -> tuple[Enrolment, Group]:
    """The next certificate of an agent that holds the key of its last one. Raises `Unauthenticated`."""
    known = state.enrolments.get(f"{Kind.AGENT.value}-{identifier}")
    if known is None or known.key_digest != key_digest:
        raise Unauthenticated(f"agent {identifier} is not known by this key; it has to join anew (--join)")
    enrolment = msgspec.structs.replace(known, certificates=_with(known, issued, now_s))
    return enrolment, (Write(enrolment),)


def expelled(enrolment: Enrolment, reason: str, now_s: float) -> Group:
    """From its commit on none of the machine's certificates counts, nor does its key bring it back."""
    denied = (
        Write(Denied(serial=issued.serial, reason=reason, until_s=issued.until_s))
        for issued in enrolment.certificates
        if issued.until_s > now_s
    )
    return (*denied, Erase(enrolment))


def _with(known: Enrolment | None, issued: Issued, now_s: float) -> tuple[Issued, ...]:
    """Raises `Conflict` when the machine has too many already."""
    before = () if known is None else known.certificates
    counting = tuple(one for one in before if one.until_s > now_s)
    if len(counting) >= CERTIFICATES_LIMIT:
        raise Conflict(
            f"this machine was given {len(counting)} certificates, none of which has expired: no more for now"
        )
    return (*counting, issued)


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
