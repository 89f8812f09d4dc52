"""Secrets of tokens, made of chance or of the cluster key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable

from controller.security.sealing import ClusterKey

FIRST_USER = "admin"
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


def first_secret(key: ClusterKey) -> str:
    """Of the cluster's first user: whoever has the cluster key is master of the cluster anyway, and a token that was
    lost can be told again."""
    return derived_secret(key, f"user {FIRST_USER}")


def http_secret(key: ClusterKey) -> str:
    """By which probes and scrapers read any controller's HTTP: known without the store, which may be away."""
    return derived_secret(key, "http")
