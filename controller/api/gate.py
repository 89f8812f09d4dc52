"""The one place where it is decided whether a caller may ask: before its request is read whether it may ask such a
thing at all, and before anything of it is looked up or forwarded whether it may ask for this.

Knows callers by certificates and tokens, and rights by `controller.core.rights`. In a cluster without an authority of
its own everybody is let in. What was let in or turned away is told to the audit log, where it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, assert_never

import msgspec

from common.errors import Forbidden, Invalid, Unauthenticated
from common.model.audit import AuditRecord
from common.model.trust import Kind
from common.tokens import USER, parse_token
from controller.api.touched import asks_for_privileges, names_of, namespaces_of
from controller.audit import AuditLog
from controller.core.rights import (
    PRIVILEGED,
    RIGHTS,
    Caller,
    Everybody,
    Machine,
    Nobody,
    Person,
    Right,
    hopeless,
    refusal,
)
from controller.core.secrets import matches
from controller.state import State

AUTHORIZATION = "authorization"
BEARER = "Bearer "


class Call(Protocol):
    """What is known of a call besides its request: the part of a gRPC servicer's context that is read here."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...

    def peer(self) -> str: ...

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


class Gate:
    """`clock` is Unix time. Without `guarded` everybody may do everything. `state` is always a leader's, committed."""

    def __init__(self, *, guarded: bool, clock: Callable[[], float], audit: AuditLog) -> None:
        self._guarded = guarded
        self._clock = clock
        self._audit = audit

    def known(self, state: State, call: Call, name: str) -> Caller:
        """Who calls `Service/Method`, of whose request nothing was read. Raises `Unauthenticated`, or `Forbidden` when
        no such request could be allowed."""
        right = RIGHTS[name]
        caller: Caller = Nobody()
        try:
            caller = self._caller(state, call)
            _let(caller, hopeless(caller, right))
        except (Unauthenticated, Forbidden) as error:
            self._tell(state, caller, call, right, None, str(error))
            raise
        return caller

    def let_in(self, state: State, caller: Caller, call: Call, name: str, request: msgspec.Struct) -> None:
        """Let a known caller in with what it asks for. Raises `Unauthenticated` or `Forbidden`."""
        right = RIGHTS[name]
        try:
            self._check(state, caller, right, request)
        except (Unauthenticated, Forbidden) as error:
            self._tell(state, caller, call, right, request, str(error))
            raise
        if right.writes:
            self._tell(state, caller, call, right, request, "")

    def admit(self, state: State, call: Call, name: str, request: msgspec.Struct) -> Caller:
        """Both at once."""
        caller = self.known(state, call, name)
        self.let_in(state, caller, call, name, request)
        return caller

    def still(self, state: State, caller: Caller) -> None:
        """Whether a caller that was let in some time ago counts still. Raises `Unauthenticated`."""
        match caller:
            case Machine():
                _check(state, caller)
            case Person(name=name):
                user = state.users.get(name)
                if user is None or (user.expires_at_s and self._clock() >= user.expires_at_s):
                    raise Unauthenticated(f"the token of {name} counts no more")
            case Everybody() | Nobody():
                pass
            case _:
                assert_never(caller)

    def _check(self, state: State, caller: Caller, right: Right, request: msgspec.Struct) -> None:
        """Whom it is about is only looked up for callers whose role counts in some namespaces."""
        confined = isinstance(caller, Person) and caller.namespaces and right.namespaced
        namespaces = namespaces_of(state, request) if confined else None
        refused = refusal(caller, right, namespaces)
        if not refused and isinstance(caller, Person) and asks_for_privileges(state, request):
            refused = refusal(caller, PRIVILEGED, namespaces)
        _let(caller, refused)

    def _tell(
        self, state: State, caller: Caller, call: Call, right: Right, request: msgspec.Struct | None, refused: str
    ) -> None:
        """Of a request that was not read, not what it names."""
        self._audit.tell(
            AuditRecord(
                time_s=self._clock(),
                caller=name_of(caller),
                address=call.peer(),
                verb=right.verb,
                kind=right.kind,
                namespaces=() if request is None else tuple(sorted(namespaces_of(state, request) or ())),
                names=() if request is None else names_of(request),
                refusal=refused,
            )
        )

    def agent(self, state: State | None, call: Call) -> str | None:
        """Whose agent calls, by its certificate; None in a cluster where everybody is let in.

        A controller that follows has no state, and only says who leads. Raises `Unauthenticated` or `Forbidden`.
        """
        if not self._guarded:
            return None
        machine = _machine(call)
        if machine is None or machine.identity.kind is not Kind.AGENT:
            raise Forbidden("a session is for an agent that shows its certificate: come by the agents' door")
        if state is not None:
            _check(state, machine)
        return machine.identity.id

    def _caller(self, state: State, call: Call) -> Caller:
        if not self._guarded:
            return Everybody()
        machine = _machine(call)
        if machine is not None:
            _check(state, machine)
            return machine
        shown = next((value for name, value in call.invocation_metadata() or () if name == AUTHORIZATION), "")
        if not shown:
            return Nobody()
        return self._person(state, shown if isinstance(shown, str) else shown.decode("ascii", "replace"))

    def _person(self, state: State, shown: str) -> Person:
        try:
            token = parse_token(shown.removeprefix(BEARER), USER)
        except Invalid as error:
            raise Unauthenticated(str(error)) from None
        user = state.users.get(token.id)
        # An unknown name costs the same comparison, so its answer takes as long.
        right = matches(user.digest if user is not None else "", token.secret)
        if user is not None and not right and self._clock() < user.former_until_s:
            right = matches(user.former, token.secret)
        if user is None or not right:
            raise Unauthenticated(f"no user {token.id!r} with this token")
        if user.expires_at_s and self._clock() >= user.expires_at_s:
            raise Unauthenticated(f"the token of {user.name} has expired")
        return Person(name=user.name, role=user.role, namespaces=user.namespaces)


def _let(caller: Caller, refused: str) -> None:
    if refused:
        raise (Unauthenticated if isinstance(caller, Nobody) else Forbidden)(refused)


def name_of(caller: Caller) -> str:
    """For people and logs."""
    match caller:
        case Everybody():
            return "anybody"
        case Nobody():
            return "nobody"
        case Machine(identity=identity):
            return f"{identity.kind.value} {identity.id}"
        case Person(name=name):
            return f"user {name}"
        case _:
            assert_never(caller)


def _machine(call: Call) -> Machine | None:
    """Whose certificate was shown. The handshake found it to be of an authority that is believed, and of this time."""
    certificate = next(iter(call.auth_context().get("x509_pem_cert", ())), b"")
    if not certificate:
        return None
    from common.certificates import facts  # with its libraries 11 MB, for clusters that have an authority

    try:
        known = facts(certificate.decode("ascii", "replace"))
    except Invalid as error:
        raise Unauthenticated(str(error)) from None
    return Machine(identity=known.identity, serial=known.serial)


def _check(state: State, machine: Machine) -> None:
    """Raises `Unauthenticated` for a machine of another cluster, and for a certificate that counts no more."""
    who = machine.identity
    if who.cluster_id not in state.authorities:
        raise Unauthenticated(f"the certificate is of another cluster ({who.cluster_id})")
    denied = state.denied.get(machine.serial)
    if denied is not None:
        raise Unauthenticated(f"the certificate of {who.kind.value} {who.id} counts no more: {denied.reason}")
