"""Certificates that are shown for the hosts of routes: whether one can be, and what is in it in plain PEM.

They come from outside, as the content of a secret or a file of a node. Knows nothing of files, clocks or who has one.
"""

from __future__ import annotations

import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from common.errors import Invalid

RSA_BITS_LEAST = 2_048
"""Proxies and clients of today take no shorter key."""
_NAMES_SHOWN = 5


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate with those that vouch for it, and its private key."""

    chain: tuple[x509.Certificate, ...]
    """Its own first."""
    key: PrivateKeyTypes

    def __repr__(self) -> str:
        """Tracebacks must not tell the key."""
        return f"Pair({', '.join(_names(self.chain[0]))})"


def read_pair(content: bytes) -> Pair:
    """What a program can show. Raises `Invalid` for what is no certificate with its own key."""
    try:
        chain = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise Invalid("it holds no certificate in PEM") from None
    try:
        key = load_pem_private_key(content, password=None)
    except (TypeError, ValueError):
        raise Invalid("it holds no private key in PEM without a password") from None
    as_bytes = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*as_bytes) != chain[0].public_key().public_bytes(*as_bytes):
        raise Invalid("the private key belongs to another certificate")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < RSA_BITS_LEAST:
        raise Invalid(f"its RSA key has {key.key_size} bits; at least {RSA_BITS_LEAST} are needed")
    return Pair(chain=tuple(chain), key=key)


def check_host(pair: Pair, host: str) -> None:
    """Raises `Invalid` for a certificate of other hosts."""
    names = _names(pair.chain[0])
    if not any(_matches(name, host) for name in names):
        raise Invalid(f"it is for {', '.join(names[:_NAMES_SHOWN]) or 'no host'}, not for {host}")


def date_problem(pair: Pair, now_s: float) -> str:
    """Why clients refuse it today; empty when they do not."""
    leaf, now = pair.chain[0], datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC)
    if leaf.not_valid_after_utc <= now:
        return f"has expired on {leaf.not_valid_after_utc:%Y-%m-%d}: clients will refuse it"
    if leaf.not_valid_before_utc > now:
        return f"is valid from {leaf.not_valid_before_utc:%Y-%m-%d} on only: clients will refuse it"
    return ""


def plain_pem(pair: Pair) -> bytes:
    """Chain and key with nothing around them, so without empty lines: it can be handed to a program line by line."""
    key = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"".join(one.public_bytes(Encoding.PEM) for one in pair.chain) + key


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        return [str(attribute.value).lower() for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _matches(name: str, host: str) -> bool:
    """`*.example.com` stands for one label (RFC 6125)."""
    if name.startswith("*."):
        return host.partition(".")[2] == name[2:]
    return name == host
