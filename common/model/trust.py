"""What a cluster trusts: its authority, who may join, who may ask. Written by the controller alone.

Nothing in here is secret by itself: private keys are sealed under the cluster key, of tokens only a digest is kept.
"""

from __future__ import annotations

import enum

import msgspec


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that only a holder of the cluster key can read (AES-256-GCM)."""

    key_id: str
    """Which cluster key."""
    nonce: bytes
    ciphertext: bytes


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate authority of a cluster. There is one record of it."""

    cluster_id: str
    certificates: tuple[str, ...]
    """PEM of every authority that is believed: the one that signs first, then those that are being left behind."""
    private_key: Sealed
    """Of the first certificate, as PEM."""
    bridges: tuple[str, ...] = ()
    """PEM: the signing authority's key certified by the ones before it, for those that believe only these yet."""
    created_at_s: float = 0.0
    """Of the signing authority."""
    retired: tuple[str, ...] = ()
    """PEM of those that are believed no more. They are still shown with the bridges: whoever was given a token or a
    context in their time finds the cluster by them."""


class NextKey(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster key that is about to replace the current one; every controller takes it from here."""

    id: str
    sealed: Sealed
    """Under the one that it replaces."""
    created_at_s: float


class Kind(enum.Enum):
    """Whose certificate it is."""

    AGENT = "agent"
    CONTROLLER = "controller"


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """Admits machines to the cluster until it expires or was used up."""

    id: str
    digest: str
    """SHA-256 of its secret, hexadecimal: who reads the store cannot join with it."""
    kind: Kind
    created_at_s: float
    expires_at_s: float
    uses_left: int
    created_by: str = ""


class Role(enum.Enum):
    """What a user may do where: see `controller.core.rights`. Each one may do what those before it may."""

    VIEWER = "viewer"
    DEPLOYER = "deployer"
    OPERATOR = "operator"
    ADMIN = "admin"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person or a program that may ask the engineer's API."""

    name: str
    role: Role
    digest: str
    """SHA-256 of the secret of its token, hexadecimal."""
    namespaces: tuple[str, ...] = ()
    """Where the role counts; empty: everywhere."""
    created_at_s: float = 0.0
    expires_at_s: float = 0.0
    """0: never."""
    former: str = ""
    """Digest of the token before this one, which counts for a while too."""
    former_until_s: float = 0.0


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that was given to a machine."""

    serial: str
    """Hexadecimal."""
    until_s: float
    authority: str = ""
    """Fingerprint of the authority that signed it."""


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that has a certificate: by its key it is known again when that has expired."""

    kind: Kind
    id: str
    key_digest: str
    """SHA-256 of its public key, hexadecimal."""
    certificates: tuple[Issued, ...]
    """Those that have not expired, the latest one last."""

    @property
    def latest(self) -> Issued:
        return self.certificates[-1]

    @property
    def name(self) -> str:
        return f"{self.kind.value}-{self.id}"


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that counts no more though it has not expired."""

    serial: str
    """Hexadecimal."""
    reason: str
    until_s: float
    """It expires then: the record may be forgotten."""
