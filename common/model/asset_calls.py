"""What is asked about configs and secrets. No answer ever holds what is in a secret."""

from __future__ import annotations

import enum

import msgspec

from common.model.api import JobChange
from common.model.asset import AssetKind


class PutHow(enum.Enum):
    """Why a content is handed in."""

    UPLOAD = "upload"
    """It comes with a Compose file: kept for as long as a version of a job uses it."""
    CREATE = "create"
    """Made by name, for `external: true`. There must be none of that name."""
    ROTATE = "rotate"
    """Another content for one that was made by name; the services that use it change over to it."""


class PutAsset(msgspec.Struct, frozen=True, kw_only=True):
    kind: AssetKind
    namespace: str
    asset: str
    """Its name."""
    content: bytes
    how: PutHow = PutHow.UPLOAD
    dry_run: bool = False
    """Change nothing: only tell the digest. (Of a secret that is not there yet, one that nothing else has.)"""

    def __repr__(self) -> str:
        """Tracebacks and logs must not tell the content."""
        return f"PutAsset({self.kind.value} {self.namespace}/{self.asset}, {len(self.content)} bytes, {self.how.value})"


class AssetPut(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    stored: bool
    """Whether this content was not there before."""
    changes: tuple[JobChange, ...] = ()
    """Of the services that change over to it."""
    warnings: tuple[str, ...] = ()


class ListAssets(msgspec.Struct, frozen=True, kw_only=True):
    kind: AssetKind
    namespace: str = ""
    """Empty: all."""
    asset: str = ""
    """Empty: all."""


class AssetVersionView(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    size_bytes: int
    stored_at_s: float
    jobs: tuple[str, ...] = ()
    """`namespace/name` of the jobs that a version of uses it, be it only to go back to."""


class AssetView(msgspec.Struct, frozen=True, kw_only=True):
    kind: AssetKind
    namespace: str
    name: str
    kept: bool
    """Made by name; otherwise it came with a Compose file."""
    current: str
    """Digest of the version that `external: true` means; empty for one that came with a file."""
    created_at_s: float
    changed_at_s: float
    versions: tuple[AssetVersionView, ...] = ()
    """The latest first."""


class AssetList(msgspec.Struct, frozen=True, kw_only=True):
    assets: tuple[AssetView, ...] = ()


class ReadConfig(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    asset: str
    digest: str = ""
    """Its beginning is enough. Empty: the current one, or else the latest."""


class ConfigContent(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    content: bytes


class RemoveAsset(msgspec.Struct, frozen=True, kw_only=True):
    kind: AssetKind
    namespace: str
    asset: str


class AssetRemoved(msgspec.Struct, frozen=True, kw_only=True):
    kept_versions: int
    """Versions that stay until no version of a job can go back to them."""
