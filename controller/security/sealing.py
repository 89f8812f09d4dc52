"""What the store must not be able to read is sealed under the cluster key: AES-256-GCM, bound to the place it lies in.

Several keys may be known at once: the first one seals, all of them open. A key is replaced by adding the new one in
front, sealing everything again (`rewrapped`), and only then forgetting the old one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.errors import Invalid
from common.model.trust import Sealed

KEY_BYTES = 32
_NONCE_BYTES = 12
"""Of random: safe for 2**32 seals under one key (NIST SP 800-38D, 8.3), far more than a cluster ever makes."""


class ClusterKey(msgspec.Struct, frozen=True, kw_only=True):
    secret: bytes

    @property
    def id(self) -> str:
        """Names the key without telling it."""
        return hashlib.sha256(b"podium cluster key id" + self.secret).hexdigest()[:16]


def new_cluster_key(random_bytes: Callable[[int], bytes] = os.urandom) -> ClusterKey:
    return ClusterKey(secret=random_bytes(KEY_BYTES))


class KeyRing:
    """The cluster keys that a controller was given. `random_bytes(n)` gives n of them."""

    def __init__(self, keys: Iterable[ClusterKey], random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        """Raises `Invalid` without any key."""
        self.keys = tuple(keys)
        if not self.keys:
            raise Invalid("no cluster key was given")
        self._ciphers = {key.id: AESGCM(key.secret) for key in self.keys}
        self._random_bytes = random_bytes

    def know(self, key: ClusterKey) -> None:
        """Open what it sealed, too."""
        if key.id not in self._ciphers:
            self._ciphers[key.id] = AESGCM(key.secret)
            self.keys = (*self.keys, key)

    def use(self, key_id: str) -> None:
        """Seal under this one of our keys from now on."""
        self.keys = tuple(sorted(self.keys, key=lambda key: key.id != key_id))

    def knows(self, key_id: str) -> bool:
        return key_id in self._ciphers

    @property
    def current(self) -> ClusterKey:
        return self.keys[0]

    def seal(self, place: str, content: bytes) -> Sealed:
        """`place` is the key of the record that will hold it: moved to another one, it cannot be opened."""
        nonce = self._random_bytes(_NONCE_BYTES)
        ciphertext = self._ciphers[self.current.id].encrypt(nonce, content, place.encode())
        return Sealed(key_id=self.current.id, nonce=nonce, ciphertext=ciphertext)

    def open(self, place: str, sealed: Sealed) -> bytes:
        """Raises `Invalid` when the key is not among ours, or what is sealed was changed or comes from elsewhere."""
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            known = ", ".join(self._ciphers)
            raise Invalid(f"{place} is sealed under the cluster key {sealed.key_id}; this controller has {known}")
        try:
            return cipher.decrypt(sealed.nonce, sealed.ciphertext, place.encode())
        except (InvalidTag, ValueError):
            raise Invalid(f"{place} was changed after it was sealed, or copied from another place") from None

    def rewrapped(self, place: str, sealed: Sealed) -> Sealed | None:
        """The same content under the current key; None when it is already."""
        if sealed.key_id == self.current.id:
            return None
        return self.seal(place, self.open(place, sealed))
