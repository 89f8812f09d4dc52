"""Seals what is in secrets, each under a data key of its own, and those under the cluster key.

So a new cluster key costs one small record for each secret. The data key also keys the digests of its versions: equal
contents are recognised, and whoever reads the store cannot try guesses against them. Knows no state.
"""

from __future__ import annotations

import hmac

import msgspec

from common.errors import Invalid
from common.model.asset import Asset, AssetVersion
from controller.security.sealing import ClusterKey, KeyRing, new_cluster_key
from controller.store.keys import key_of

_DIGESTS = b"podium digests of a secret's versions"
"""What the key of the digests is derived for: one key must not serve two ciphers."""


class Vault:
    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    def sealed(self, asset: Asset, content: bytes, now_s: float) -> tuple[Asset, AssetVersion]:
        """The secret, with a data key if it had none, and its version with this content. Raises `Invalid` when the
        data key cannot be opened."""
        data_key = new_cluster_key() if asset.data_key is None else self._data_key(asset)
        if asset.data_key is None:
            asset = msgspec.structs.replace(asset, data_key=self._ring.seal(key_of(asset), data_key.secret))
        version = AssetVersion(
            kind=asset.kind,
            namespace=asset.namespace,
            name=asset.name,
            digest=_keyed_digest(data_key, content),
            size_bytes=len(content),
            stored_at_s=now_s,
        )
        sealed = KeyRing((data_key,)).seal(key_of(version), content)
        return asset, msgspec.structs.replace(version, sealed=sealed)

    def content(self, asset: Asset, version: AssetVersion) -> bytes:
        """Raises `Invalid` when a key is not among ours, or what is sealed was changed."""
        if version.sealed is None:
            raise Invalid(f"{version.key} has no content")
        return KeyRing((self._data_key(asset),)).open(key_of(version), version.sealed)

    def rewrapped(self, asset: Asset) -> Asset | None:
        """The same under the current cluster key; None when it is already."""
        if asset.data_key is None:
            return None
        sealed = self._ring.rewrapped(key_of(asset), asset.data_key)
        return None if sealed is None else msgspec.structs.replace(asset, data_key=sealed)

    def _data_key(self, asset: Asset) -> ClusterKey:
        if asset.data_key is None:
            raise Invalid(f"{asset.full_name} has no data key")
        return ClusterKey(secret=self._ring.open(key_of(asset), asset.data_key))


def _keyed_digest(data_key: ClusterKey, content: bytes) -> str:
    key = hmac.digest(data_key.secret, _DIGESTS, "sha256")
    return hmac.new(key, content, "sha256").hexdigest()
