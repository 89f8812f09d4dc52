"""Secrets of tokens: made of chance, kept as digests, compared in constant time. Times and uses are for decisions.

A plain SHA-256 does, since a secret is 192 random bits: there is no dictionary to try.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable

from controller.security.sealing import ClusterKey

_SECRET_BYTES = 24


def new_secret(random_bytes: Callable[[int], bytes] = os.urandom) -> str:
    """32 characters that need no quoting anywhere."""
    return base64.urlsafe_b64encode(random_bytes(_SECRET_BYTES)).decode()


def derived_secret(key: ClusterKey, purpose: str) -> str:
    """A secret that is the same for the same purpose, and that nobody without the cluster key can tell; a fresh one for
    no purpose."""
    if not purpose:
        return new_secret()
    made = hmac.new(key.secret, b"podium secret of " + purpose.encode(), hashlib.sha256).digest()
    return new_secret(lambda count: made[:count])


def digest_of(secret: str) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(digest: str, secret: str) -> bool:
    return hmac.compare_digest(digest, digest_of(secret))
