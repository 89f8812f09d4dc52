"""Secrets of tokens, made of chance or of the cluster key."""

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
