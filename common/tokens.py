"""What a token looks like: what it is for, which one it is, its secret, and the authority that it pins.

    podium-join.4hkd8mz2c0qp.8yWQ...Tk.wB3v...0E

The last part is the SHA-256 of the certificate of the cluster's authority: whoever was handed the token knows the
cluster by it before anything else is believed. (kubeadm's `discovery-token-ca-cert-hash` and Swarm's join tokens do
the same.)
"""

from __future__ import annotations

import base64
import re

import msgspec

from common.errors import Invalid

JOIN, USER = "podium-join", "podium-user"
_TEXT = re.compile(r"(podium-join|podium-user)\.([a-z0-9][a-z0-9-]{0,62})\.([A-Za-z0-9_-]{32})\.([A-Za-z0-9_-]{43})")


class Token(msgspec.Struct, frozen=True, kw_only=True):
    purpose: str
    """`JOIN` or `USER`."""
    id: str
    """Of the record of it; of a user's its name."""
    secret: str
    pin: str
    """Fingerprint of the authority, hexadecimal."""

    def __str__(self) -> str:
        pin = base64.urlsafe_b64encode(bytes.fromhex(self.pin)).decode().rstrip("=")
        return f"{self.purpose}.{self.id}.{self.secret}.{pin}"

    def __repr__(self) -> str:
        """Tracebacks and logs must not tell the secret."""
        return f"Token({self.purpose}.{self.id}.***)"


def parse_token(text: str, purpose: str) -> Token:
    """Raises `Invalid`, without repeating what may be most of a secret."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"not a token: it is {len(text)} characters instead of `{purpose}.ID.SECRET.PIN`, copied whole")
    given, identifier, secret, pin = match.groups()
    if given != purpose:
        raise Invalid(f"this is a token for {_USE[given]}, not for {_USE[purpose]}")
    return Token(purpose=given, id=identifier, secret=secret, pin=base64.urlsafe_b64decode(pin + "=").hex())


_USE = {JOIN: "joining the cluster (`--join`)", USER: "using the cluster (`podium context add --token`)"}
