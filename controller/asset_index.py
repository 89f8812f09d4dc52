"""Which configs and secrets there are, their versions, and how many versions of jobs use each of those.

Part of the state, kept true by the changes that are applied to it.
"""

from __future__ import annotations

from collections.abc import Iterator

from common.model.asset import Asset, AssetKind, AssetVersion, asset_key
from common.model.job import JobVersion


class AssetIndex:
    """Lookups by the key of `common.model.asset.asset_key`. Mappings handed out must not be changed by the caller."""

    def __init__(self) -> None:
        self.named: dict[str, Asset] = {}
        self._versions: dict[str, dict[str, AssetVersion]] = {}
        self._uses: dict[tuple[str, str], int] = {}

    def get(self, kind: AssetKind, namespace: str, name: str) -> Asset | None:
        return self.named.get(asset_key(kind, namespace, name))

    def versions_of(self, key: str) -> dict[str, AssetVersion]:
        """By digest."""
        return self._versions.get(key, {})

    def version(self, key: str, digest: str) -> AssetVersion | None:
        return self.versions_of(key).get(digest)

    def uses(self, key: str, digest: str) -> int:
        """Versions of jobs that name this one."""
        return self._uses.get((key, digest), 0)

    def records(self) -> Iterator[Asset | AssetVersion]:
        yield from self.named.values()
        for versions in self._versions.values():
            yield from versions.values()

    def copy(self) -> AssetIndex:
        copy = AssetIndex()
        copy.named, copy._uses = dict(self.named), dict(self._uses)
        copy._versions = {key: dict(versions) for key, versions in self._versions.items()}
        return copy

    # --- change

    def set_asset(self, asset: Asset, after: Asset | None) -> Asset | None:
        """What it was before, as the next one."""
        before = self.named.pop(asset.key, None)
        if after is not None:
            self.named[asset.key] = after
        return before

    def set_version(self, version: AssetVersion, after: AssetVersion | None) -> AssetVersion | None:
        versions = self._versions.setdefault(version.key, {})
        before = versions.pop(version.digest, None)
        if after is not None:
            versions[version.digest] = after
        elif not versions:
            del self._versions[version.key]
        return before

    def count(self, job_version: JobVersion | None, by: int) -> None:
        """Uses of what a job's version names; `by` is 1 for one that is there now, -1 for one that was."""
        for use in () if job_version is None else uses_of(job_version):
            left = self._uses.get(use, 0) + by
            if left:
                self._uses[use] = left
            else:
                self._uses.pop(use, None)


def uses_of(job_version: JobVersion) -> Iterator[tuple[str, str]]:
    """The versions of configs and secrets that a job's version names: their asset's key and their digest."""
    spec = job_version.spec
    for mount in spec.task.container.assets:
        yield asset_key(mount.kind, spec.namespace, mount.name), mount.digest
