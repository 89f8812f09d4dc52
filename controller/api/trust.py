"""The `Trust` service over values: machines that join, tokens and users, and as whom somebody is known.

What is decided is in `controller.core.joining` and `controller.core.rights`; secrets and certificates are made by
`controller.security`. A secret is told once, in the answer that makes it, and kept as a digest.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from common.errors import Conflict, Fault, Invalid, NotFound, Unavailable
from common.model import joining as asked
from common.model.audit import AuditList, AuditRequest
from common.model.ids import ID_CHARACTERS, new_id
from common.model.trust import Authority, Enrolment, Issued, JoinToken, User
from common.names import name_fault
from common.tokens import JOIN, USER, Token
from controller.api.term import ApiFront, ApiTerm
from controller.audit import AuditLog
from controller.core import joining
from controller.core.joining import CERTIFICATE_S
from controller.core.rights import Caller, Everybody, Machine, Nobody, Person, names, refusal, right_named
from controller.core.secrets import digest_of, matches
from controller.state import Erase, Group, State, Write

if TYPE_CHECKING:
    from controller.trust import ClusterTrust  # with its libraries 11 MB, for clusters that have an authority

NO_AUTHORITY = "this cluster has no authority of its own: its controllers run with --insecure or with TLS files"
_TTL_LIMIT_S = 366 * 86_400.0
_KEEP_LIMIT_S = 30 * 86_400.0
"""For a token that was replaced: as long as a certificate lives, which is replaced as often at least."""
_USES_LIMIT = 10_000
_USERS_LIMIT = 10_000
_RECORDS_LIMIT = 10_000
_NAMESPACES_LIMIT = 100


class TrustService:
    """Every method raises `NotLeader` where nobody leads, `Conflict` in a cluster without an authority, and what it
    says besides. `agent_port` is where this controller's agents connect."""

    def __init__(self, front: ApiFront, trust: ClusterTrust | None, agent_port: int, audit: AuditLog) -> None:
        self._front = front
        self._audit = audit
        self._trust = trust
        self._agent_port = agent_port

    # --- machines

    async def find_doors(self, _request: asked.FindDoorsRequest) -> asked.Doors:
        """Also where nobody leads."""
        authority = self._known().own.authority
        if authority is None:
            raise Unavailable("this controller does not know the cluster's authority yet")
        return asked.Doors(
            cluster_id=authority.cluster_id, certificates=authority.certificates, agent_port=self._agent_port
        )

    async def join(self, request: asked.JoinRequest, _caller: Caller) -> asked.Joined:
        """Raises `Invalid`, `Unauthenticated` when the token does not count, `Conflict` when the id is another's."""
        _refuse(_id_fault(request.id), _length_fault("secret", request.secret, 64))
        term, key = self._front.term, self._known().digest_of_key(request.signing_request)
        now_s = term.clock()

        def decide(state: State, issued: Issued) -> tuple[Enrolment, Group]:
            token = state.join_tokens.get(request.token_id)
            right = matches(token.digest if token is not None else "", request.secret)
            return joining.joined(
                state,
                token if right else None,
                identifier=request.id,
                key_digest=key,
                issued=issued,
                now_s=now_s,
            )

        return await self._enrolled(term, request.signing_request, now_s, decide)

    async def renew(self, request: asked.RenewRequest, caller: Caller) -> asked.Joined:
        """Raises `Invalid`, or `Forbidden` when the machine was removed."""
        if not isinstance(caller, Machine):
            raise Invalid("a certificate is renewed by the machine that holds it")
        term, key = self._front.term, self._known().digest_of_key(request.signing_request)
        now_s, who = term.clock(), caller.identity
        return await self._enrolled(
            term,
            request.signing_request,
            now_s,
            lambda state, issued: joining.renewed(state, who.kind, who.id, key, issued=issued, now_s=now_s),
        )

    async def recover(self, request: asked.RecoverRequest, _caller: Caller) -> asked.Joined:
        """Raises `Invalid`, or `Unauthenticated` when no agent of this id is known by this key."""
        _refuse(_id_fault(request.id))
        term, key = self._front.term, self._known().digest_of_key(request.signing_request)
        now_s = term.clock()
        return await self._enrolled(
            term,
            request.signing_request,
            now_s,
            lambda state, issued: joining.recovered(state, request.id, key, issued=issued, now_s=now_s),
        )

    async def _enrolled(
        self,
        term: ApiTerm,
        signing_request: str,
        now_s: float,
        decide: Callable[[State, Issued], tuple[Enrolment, Group]],
    ) -> asked.Joined:
        """Write the enrolment down, then sign. An answer that is lost is asked for again, with the same key."""
        authority, trust = self._authority(term), self._known()
        issued = Issued(serial=trust.new_serial(), until_s=now_s + CERTIFICATE_S, authority=trust.pin(authority))
        decided: list[Enrolment] = []

        def transaction(state: State) -> list[Group]:
            enrolment, group = decide(state, issued)
            decided[:] = [enrolment]
            return [group]

        await term.ledger.submit(transaction)
        return trust.signed(authority, decided[0], signing_request, now_s)

    # --- who asks

    async def who_am_i(self, _request: asked.WhoAmIRequest, caller: Caller) -> asked.Caller:
        authority = next(iter(self._front.term.state.authorities.values()), None)
        cluster_id = "" if authority is None else authority.cluster_id
        match caller:
            case Everybody():
                return asked.Caller(cluster_id=cluster_id, kind="anybody")
            case Nobody():
                return asked.Caller(cluster_id=cluster_id, kind="nobody")
            case Machine(identity=identity):
                return asked.Caller(cluster_id=cluster_id, kind=identity.kind.value, name=identity.id)
            case Person(name=name):
                user = self._front.term.state.users[name]
                return asked.Caller(
                    cluster_id=cluster_id,
                    kind="user",
                    name=name,
                    role=user.role,
                    namespaces=user.namespaces,
                    expires_at_s=user.expires_at_s,
                )

    async def can_i(self, request: asked.CanIRequest, caller: Caller) -> asked.Permission:
        """Raises `Invalid` for a verb or a kind that there is not."""
        right, known = right_named(request.verb, request.kind), tuple(" ".join(name) for name in names())
        if right is None:
            text = f"there is no right to {request.verb[:40]!r} {request.kind[:40]!r}; there are: {', '.join(known)}"
            raise Invalid([Fault(path="verb", text=text)])
        where = frozenset({request.namespace}) if request.namespace else None
        return asked.Permission(refusal=refusal(caller, right, where), rights=known)

    # --- tokens

    async def create_token(self, request: asked.CreateTokenRequest, caller: Caller) -> asked.CreatedToken:
        """Raises `Invalid`."""
        _refuse(
            _range_fault("ttl_s", request.ttl_s, 1.0, _TTL_LIMIT_S), _range_fault("uses", request.uses, 1, _USES_LIMIT)
        )
        term = self._front.term
        authority, secret = self._authority(term), self._secret("join token", request.idempotency_key)
        now_s = term.clock()
        token = JoinToken(
            id=_derived_id(secret) if request.idempotency_key else new_id(term.rng),
            digest=digest_of(secret),
            kind=request.kind,
            created_at_s=now_s,
            expires_at_s=now_s + request.ttl_s,
            uses_left=request.uses,
            created_by=caller.name if isinstance(caller, Person) else "",
        )

        def transaction(state: State) -> list[Group]:
            forgotten = joining.forgettable(state, now_s)
            return [*forgotten] if token.id in state.join_tokens else [*forgotten, (Write(token),)]

        await term.ledger.submit(transaction)
        kept = term.state.join_tokens[token.id]
        return asked.CreatedToken(
            token=str(Token(purpose=JOIN, id=token.id, secret=secret, pin=self._known().pin(authority))),
            view=_token_view(kept),
        )

    async def tokens(self, _request: asked.ListTokens, _caller: Caller) -> asked.TokenList:
        """Those that still count."""
        return _token_list(self._front.term)

    async def revoke_token(self, request: asked.RevokeTokenRequest, _caller: Caller) -> asked.TokenList:
        """Raises `NotFound`, or `Conflict` when a prefix fits several. Machines that joined with it stay."""
        term = self._front.term

        def transaction(state: State) -> list[Group]:
            found = [token for token in state.join_tokens.values() if request.id and token.id.startswith(request.id)]
            if not found:
                raise NotFound(f"no token {request.id[:80]!r}; `podium token ls` lists them")
            if len(found) > 1:
                raise Conflict(f"{request.id!r} fits {len(found)} tokens; give more characters")
            return [(Erase(found[0]),)]

        await term.repeats.once(
            request.idempotency_key and f"revoke {request.idempotency_key}", request, lambda: _done(term, transaction)
        )
        return _token_list(term)

    # --- users

    async def add_user(self, request: asked.AddUserRequest, _caller: Caller) -> asked.AddedUser:
        """Raises `Invalid`, or `Conflict` when there is one of this name."""
        self._check_user(request)
        term = self._front.term
        authority, now_s = self._authority(term), term.clock()
        secret = self._secret(f"user {request.name}", request.idempotency_key)
        user = User(
            name=request.name,
            role=request.role,
            digest=digest_of(secret),
            namespaces=tuple(sorted(set(request.namespaces))),
            created_at_s=now_s,
            expires_at_s=now_s + request.ttl_s if request.ttl_s else 0.0,
        )

        def transaction(state: State) -> list[Group]:
            known = state.users.get(user.name)
            if known is not None and known.digest == user.digest:
                return []  # it is asked again for an answer that was lost
            if known is not None:
                raise Conflict(f"there is a user {user.name!r} already; `podium user rm {user.name}` first")
            if len(state.users) >= _USERS_LIMIT:
                raise Conflict(f"there are {_USERS_LIMIT} users already, the most that are kept")
            return [(Write(user),)]

        await term.ledger.submit(transaction)
        kept = term.state.users[user.name]
        return asked.AddedUser(
            token=str(Token(purpose=USER, id=user.name, secret=secret, pin=self._known().pin(authority))),
            view=_user_view(kept),
        )

    async def rotate_user(self, request: asked.RotateUserRequest, _caller: Caller) -> asked.AddedUser:
        """A new token; the present one counts for `keep_s` more. Raises `Invalid` or `NotFound`."""
        _refuse(_range_fault("keep_s", request.keep_s, 0.0, _KEEP_LIMIT_S))
        term = self._front.term
        authority, now_s = self._authority(term), term.clock()
        secret = self._secret(f"next token of {request.name}", request.idempotency_key)

        def transaction(state: State) -> list[Group]:
            user = state.users.get(request.name)
            if user is None:
                raise NotFound(f"no user {request.name[:80]!r}; `podium user ls` lists them")
            if user.digest == digest_of(secret):
                return []  # it is asked again for an answer that was lost
            former = {"former": user.digest, "former_until_s": now_s + request.keep_s}
            return [(Write(msgspec.structs.replace(user, digest=digest_of(secret), **former)),)]

        await term.ledger.submit(transaction)
        token = Token(purpose=USER, id=request.name, secret=secret, pin=self._known().pin(authority))
        return asked.AddedUser(token=str(token), view=_user_view(term.state.users[request.name]))

    async def users(self, _request: asked.ListUsers, _caller: Caller) -> asked.UserList:
        return _user_list(self._front.term)

    async def remove_user(self, request: asked.RemoveUserRequest, _caller: Caller) -> asked.UserList:
        """From its commit on the user's token counts no more. Raises `NotFound`."""
        term = self._front.term

        def transaction(state: State) -> list[Group]:
            if request.name not in state.users:
                raise NotFound(f"no user {request.name[:80]!r}; `podium user ls` lists them")
            return [(Erase(state.users[request.name]),)]

        await term.repeats.once(
            request.idempotency_key and f"user rm {request.idempotency_key}", request, lambda: _done(term, transaction)
        )
        return _user_list(term)

    def _check_user(self, request: asked.AddUserRequest) -> None:
        faults = [_fault("name", name_fault(request.name)), _range_fault("ttl_s", request.ttl_s, 0.0, _TTL_LIMIT_S)]
        faults += [_fault("namespaces", name_fault(name)) for name in request.namespaces[:_NAMESPACES_LIMIT]]
        if len(request.namespaces) > _NAMESPACES_LIMIT:
            faults.append(_fault("namespaces", f"are {len(request.namespaces)}; at most {_NAMESPACES_LIMIT}"))
        _refuse(*faults)

    async def audit(self, request: AuditRequest) -> AuditList:
        """The latest of what this controller was asked. Raises `Invalid`."""
        _refuse(_range_fault("limit", request.limit, 1, _RECORDS_LIMIT))
        _ = self._front.term
        return AuditList(records=self._audit.latest(request.limit, request.since_s))

    # --- the cluster's authority

    def _known(self) -> ClusterTrust:
        if self._trust is None:
            raise Conflict(NO_AUTHORITY)
        return self._trust

    def _authority(self, term: ApiTerm) -> Authority:
        """Of the committed state, and ours to sign with. Raises `Conflict`, or `Unavailable` in the first moment."""
        self._known()
        authority = next(iter(term.state.authorities.values()), None)
        if authority is None:
            raise Unavailable("the cluster's authority is being made")
        return authority

    def _secret(self, what: str, idempotency_key: str) -> str:
        """The same for the same key, whoever leads: an answer that was lost can be asked for again."""
        return self._known().secret(f"{what} {idempotency_key}" if idempotency_key else "")


async def _done(term: ApiTerm, transaction: Callable[[State], list[Group]]) -> asked.ListTokens:
    await term.ledger.submit(transaction)
    return asked.ListTokens()


def _derived_id(secret: str) -> str:
    return sha256(b"id" + secret.encode()).hexdigest()[:ID_CHARACTERS]


def _token_list(term: ApiTerm) -> asked.TokenList:
    now_s = term.clock()
    counting = [token for token in term.state.join_tokens.values() if token.expires_at_s > now_s and token.uses_left]
    return asked.TokenList(tokens=tuple(map(_token_view, sorted(counting, key=lambda token: token.expires_at_s))))


def _token_view(token: JoinToken) -> asked.TokenView:
    return asked.TokenView(
        id=token.id,
        kind=token.kind,
        created_at_s=token.created_at_s,
        expires_at_s=token.expires_at_s,
        uses_left=token.uses_left,
        created_by=token.created_by,
    )


def _user_list(term: ApiTerm) -> asked.UserList:
    return asked.UserList(users=tuple(_user_view(term.state.users[name]) for name in sorted(term.state.users)))


def _user_view(user: User) -> asked.UserView:
    return asked.UserView(
        name=user.name,
        role=user.role,
        namespaces=user.namespaces,
        created_at_s=user.created_at_s,
        expires_at_s=user.expires_at_s,
    )


def _refuse(*faults: Fault | None) -> None:
    found = [fault for fault in faults if fault is not None]
    if found:
        raise Invalid(found)


def _fault(path: str, text: str) -> Fault | None:
    return Fault(path=path, text=text) if text else None


def _id_fault(identifier: str) -> Fault | None:
    return _fault("id", name_fault(identifier))


def _length_fault(path: str, text: str, limit: int) -> Fault | None:
    return _fault(path, f"is {len(text)} characters; at most {limit}" if len(text) > limit else "")


def _range_fault(path: str, value: float, least: float, most: float) -> Fault | None:
    return _fault(path, "" if least <= value <= most else f"{value:g} is not from {least:g} to {most:g}")
