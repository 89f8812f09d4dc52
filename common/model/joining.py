"""Requests and answers of the `Trust` service: machines that join, tokens, users and what they may."""

from __future__ import annotations

import msgspec

from common.model.trust import Kind, Role

TOKEN_TTL_S = 3_600.0


class FindDoorsRequest(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Doors(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine needs to know before it can show who it is; nothing of it is secret."""

    cluster_id: str
    certificates: tuple[str, ...] = ()
    """PEM of every authority that is believed."""
    agent_port: int = 0
    """Where agents connect, on the same host."""


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    token_id: str
    secret: str
    signing_request: str
    """PKCS #10 PEM; only its key counts."""
    id: str
    """That the machine gave itself."""

    def __repr__(self) -> str:
        return f"JoinRequest(token_id={self.token_id!r}, id={self.id!r})"


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True):
    signing_request: str


class RecoverRequest(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    signing_request: str
    """For the key of the last certificate."""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    cluster_id: str
    kind: Kind
    id: str
    chain: str
    """PEM: the certificate, and what leads from it to older authorities."""
    certificates: tuple[str, ...] = ()
    """PEM of every authority that is believed."""
    cluster_keys: tuple[bytes, ...] = ()
    """Only for a controller: the current one first."""

    def __repr__(self) -> str:
        return f"Joined({self.kind.value} {self.id!r} of {self.cluster_id!r})"


class WhoAmIRequest(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """As whom one is known."""

    cluster_id: str = ""
    """Empty where the cluster has no authority of its own."""
    kind: str
    """`anybody`, `user`, `agent`, `controller` or `nobody`."""
    name: str = ""
    role: Role | None = None
    """Of a user."""
    namespaces: tuple[str, ...] = ()
    """Where the role counts; empty: everywhere."""
    expires_at_s: float = 0.0
    """0: never."""


class CanIRequest(msgspec.Struct, frozen=True, kw_only=True):
    verb: str
    kind: str
    namespace: str = ""
    """Empty: in all of them."""


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    refusal: str = ""
    """Empty: yes."""
    rights: tuple[str, ...] = ()
    """All there are, as `verb kind`."""


class RotateAuthorityRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Replace the cluster's authority."""

    forget: bool = False
    """Instead of that, show nothing of earlier ones any more: tokens and contexts of their time find nobody then."""
    idempotency_key: str = ""


class RotateKeyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Replace the cluster key."""

    by_token: bool = False
    """The leader takes the new key at once and hands it to no other controller by the store: each joins anew."""
    idempotency_key: str = ""


class AuthorityRequest(msgspec.Struct, frozen=True, kw_only=True):
    pass


class AuthorityView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster's authority and cluster key, and how far they are replaced."""

    cluster_id: str
    fingerprint: str
    """Of the authority that signs."""
    created_at_s: float
    believed: int = 1
    """Authorities: more than one while it is being replaced."""
    retired: int = 0
    """Earlier ones by which people still find the cluster."""
    nodes: int = 0
    """Agents whose certificate counts."""
    waiting: tuple[str, ...] = ()
    """Names of those whose certificate is still of an earlier authority."""
    key_id: str = ""
    """Of the cluster key that the authority is sealed under."""
    next_key_id: str = ""
    """Of the one that comes next, while not everything is sealed under it."""


class CreateTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    kind: Kind
    ttl_s: float = TOKEN_TTL_S
    uses: int = 1
    idempotency_key: str = ""


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    kind: Kind
    created_at_s: float
    expires_at_s: float
    uses_left: int
    created_by: str = ""


class CreatedToken(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    """Whole: it is shown once."""
    view: TokenView

    def __repr__(self) -> str:
        return f"CreatedToken({self.view.id!r})"


class ListTokens(msgspec.Struct, frozen=True, kw_only=True):
    pass


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    tokens: tuple[TokenView, ...] = ()


class RevokeTokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    """Or a unique prefix of one."""
    idempotency_key: str = ""


class AddUserRequest(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: Role
    namespaces: tuple[str, ...] = ()
    ttl_s: float = 0.0
    """0: it never expires."""
    idempotency_key: str = ""


class RotateUserRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A new token for a user."""

    name: str
    keep_s: float = 0.0
    """For so long the present one counts too."""
    idempotency_key: str = ""


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: Role
    namespaces: tuple[str, ...] = ()
    created_at_s: float = 0.0
    expires_at_s: float = 0.0


class AddedUser(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    view: UserView

    def __repr__(self) -> str:
        return f"AddedUser({self.view.name!r})"


class ListUsers(msgspec.Struct, frozen=True, kw_only=True):
    pass


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    users: tuple[UserView, ...] = ()


class RemoveUserRequest(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    idempotency_key: str = ""
