"""The part of the client that is about who may: machines' tokens, users, and as whom one asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from client.transport import (
    ADD_USER,
    AUDIT,
    AUTHORITY,
    CAN_I,
    CREATE_TOKEN,
    REMOVE_USER,
    REVOKE_TOKEN,
    ROTATE_AUTHORITY,
    ROTATE_KEY,
    ROTATE_USER,
    TOKENS,
    USERS,
    WHO_AM_I,
    AnswerT,
    Method,
    RequestT,
)
from common.model.audit import AuditRecord, AuditRequest
from common.model.joining import (
    AddedUser,
    AddUserRequest,
    AuthorityRequest,
    AuthorityView,
    Caller,
    CanIRequest,
    CreatedToken,
    CreateTokenRequest,
    ListTokens,
    ListUsers,
    Permission,
    RemoveUserRequest,
    RevokeTokenRequest,
    RotateAuthorityRequest,
    RotateKeyRequest,
    RotateUserRequest,
    TokenView,
    UserView,
    WhoAmIRequest,
)
from common.model.trust import Kind, Role


class Ask(Protocol):
    """A call of whoever leads, as the client makes it."""

    def __call__(self, method: Method[RequestT, AnswerT], request: RequestT, /) -> Awaitable[AnswerT]: ...


class TrustCalls:
    """`ask` reaches whoever leads; `key` gives a fresh idempotency key. Raises `Conflict` in a cluster that has no
    authority of its own, `Forbidden` and `Unauthenticated` besides what each says."""

    def __init__(self, ask: Ask, key: Callable[[], str]) -> None:
        self._ask = ask
        self._key = key

    async def who_am_i(self) -> Caller:
        """Works in every cluster."""
        return await self._ask(WHO_AM_I, WhoAmIRequest())

    async def can_i(self, verb: str, kind: str, namespace: str = "") -> Permission:
        """Raises `Invalid`, naming all rights there are, for one that there is not."""
        return await self._ask(CAN_I, CanIRequest(verb=verb, kind=kind, namespace=namespace))

    async def create_token(self, kind: Kind, ttl_s: float, uses: int) -> CreatedToken:
        """The token is told once."""
        request = CreateTokenRequest(kind=kind, ttl_s=ttl_s, uses=uses, idempotency_key=self._key())
        return await self._ask(CREATE_TOKEN, request)

    async def tokens(self) -> tuple[TokenView, ...]:
        """Those that still count, the next to expire first."""
        return (await self._ask(TOKENS, ListTokens())).tokens

    async def revoke_token(self, token_id: str) -> tuple[TokenView, ...]:
        """What still counts then. A unique prefix is enough. Raises `NotFound` or `Conflict`."""
        request = RevokeTokenRequest(id=token_id, idempotency_key=self._key())
        return (await self._ask(REVOKE_TOKEN, request)).tokens

    async def add_user(self, name: str, role: Role, namespaces: Iterable[str] = (), ttl_s: float = 0.0) -> AddedUser:
        """The token is told once. Raises `Conflict` when there is one of this name."""
        request = AddUserRequest(
            name=name, role=role, namespaces=tuple(namespaces), ttl_s=ttl_s, idempotency_key=self._key()
        )
        return await self._ask(ADD_USER, request)

    async def rotate_user(self, name: str, keep_s: float = 0.0) -> AddedUser:
        """A new token for a user, told once; the present one counts for `keep_s` more. Raises `NotFound`."""
        return await self._ask(ROTATE_USER, RotateUserRequest(name=name, keep_s=keep_s, idempotency_key=self._key()))

    async def users(self) -> tuple[UserView, ...]:
        return (await self._ask(USERS, ListUsers())).users

    async def remove_user(self, name: str) -> tuple[UserView, ...]:
        """Those that are left. Raises `NotFound`."""
        return (await self._ask(REMOVE_USER, RemoveUserRequest(name=name, idempotency_key=self._key()))).users

    async def authority(self) -> AuthorityView:
        """The cluster's own keys, and how far they are replaced."""
        return await self._ask(AUTHORITY, AuthorityRequest())

    async def rotate_authority(self, *, forget: bool = False) -> AuthorityView:
        """Begin to replace the authority; with `forget` drop what leads to earlier ones instead.

        Raises `Conflict` while one is being replaced.
        """
        return await self._ask(ROTATE_AUTHORITY, RotateAuthorityRequest(forget=forget, idempotency_key=self._key()))

    async def rotate_key(self, *, by_token: bool = False) -> AuthorityView:
        """Begin to replace the cluster key; with `by_token` at once, and all other controllers have to join anew.

        Raises `Conflict` while it is being replaced.
        """
        return await self._ask(ROTATE_KEY, RotateKeyRequest(by_token=by_token, idempotency_key=self._key()))

    async def audit(self, since_s: float = 0.0, limit: int = 100) -> tuple[AuditRecord, ...]:
        """The latest records of the leader's audit log, oldest first."""
        return (await self._ask(AUDIT, AuditRequest(since_s=since_s, limit=limit))).records
