"""Configs and secrets: files that are given to tasks, kept by name and by what is in them.

An asset is one of them by its name; each content it ever had that somebody may still want is a version of its own,
never changed. A job's spec names versions, so another content is another version of the job. Written by the controller
alone. Of a secret nothing here tells what is in it: its content is sealed, and its digest is keyed.
"""

from __future__ import annotations

import enum

import msgspec

from common.model.trust import Sealed

SHOWN_DIGEST_CHARACTERS = 12
"""Enough to tell versions apart."""


class AssetKind(enum.Enum):
    CONFIG = "config"
    """Anybody who may read the job may read it."""
    SECRET = "secret"  # noqa: S105 - the word itself
    """Only the tasks that use it."""


class AssetMount(msgspec.Struct, frozen=True, kw_only=True):
    """A config or secret as a container sees it: a file that it can only read."""

    kind: AssetKind
    name: str
    """Within the job's namespace."""
    digest: str = ""
    """Which version, 64 hexadecimal digits. Empty before a file's content was handed to a controller."""
    target: str
    """Absolute path inside the container."""
    uid: int | None = None
    """None: the user of the container's program, like `gid`."""
    gid: int | None = None
    mode: int
    """Permissions, e.g. 0o444."""


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    kind: AssetKind
    namespace: str
    name: str
    data_key: Sealed | None = None
    """Of a secret: what its versions are sealed and its digests are keyed with, sealed under the cluster key."""
    kept: bool = False
    """Made by name (`podium secret create`): stays when no job uses it. Otherwise it came with a Compose file."""
    current: str = ""
    """Of a kept one: digest of the version that `external: true` means."""
    created_at_s: float = 0.0
    changed_at_s: float = 0.0
    """When `current` was last set."""

    @property
    def key(self) -> str:
        return asset_key(self.kind, self.namespace, self.name)

    @property
    def full_name(self) -> str:
        return f"{self.kind.value} {self.namespace}/{self.name}"


class AssetVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One content of an asset."""

    kind: AssetKind
    namespace: str
    name: str
    digest: str
    """Of a config the SHA-256 of its content; of a secret an HMAC, which tells nothing to who has no data key."""
    size_bytes: int
    stored_at_s: float
    """When somebody last handed it in while no job used it."""
    content: bytes = b""
    """Of a config."""
    sealed: Sealed | None = None
    """Content of a secret, under the data key of its asset."""

    @property
    def key(self) -> str:
        """Of its asset."""
        return asset_key(self.kind, self.namespace, self.name)


def asset_key(kind: AssetKind, namespace: str, name: str) -> str:
    return f"{kind.value}/{namespace}/{name}"
