"""Secrets of tokens are kept as digests, and compared in constant time.

A plain SHA-256 does, since a secret is 192 random bits: there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import hmac


def digest_of(secret: str) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(digest: str, secret: str) -> bool:
    return hmac.compare_digest(digest, digest_of(secret))
