"""Keys, signing requests and certificates as PEM, for both sides; nobody else reads or makes them.

ECDSA on P-256 with SHA-256 throughout. Knows nothing of files, clocks or who may have what.
"""

from __future__ import annotations

import datetime
import hashlib

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import Invalid
from common.identity import Identity, parse_identity, trust_domain
from common.model.ids import Rng

LIMIT_BYTES = 16 * 1024
"""Of one PEM: ours are under 1 KiB."""


RENEW_BETWEEN = (0.5, 0.8)
"""Shares of a certificate's life between which it is renewed, at random: a cluster that began together does not renew
together, and days are left for further tries."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a certificate of ours says."""

    identity: Identity
    serial: str
    """Hexadecimal."""
    not_before_s: float
    not_after_s: float


def random_serial() -> int:
    """For a certificate: 159 random bits (RFC 5280 allows 20 octets, positive)."""
    return x509.random_serial_number()


def new_key() -> str:
    """A fresh private key (PKCS #8 PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode()


def load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """Raises `Invalid` for anything but a private key on P-256."""
    try:
        key = serialization.load_pem_private_key(_checked(pem), password=None)
    except (ValueError, TypeError) as error:
        raise Invalid(f"not a private key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("not an elliptic-curve key on P-256")
    return key


def signing_request(key_pem: str) -> str:
    """A request (PKCS #10 PEM) for a certificate of this key. It names nobody: who asks is shown otherwise."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(load_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def requested_key(request_pem: str) -> ec.EllipticCurvePublicKey:
    """The public key that a request proves to hold. Its subject and extensions are ignored. Raises `Invalid`."""
    try:
        request = x509.load_pem_x509_csr(_checked(request_pem))
        valid = request.is_signature_valid
        key = request.public_key()
    except Exception as error:
        raise Invalid(f"not a certificate signing request in PEM: {error}") from None
    if not valid:
        raise Invalid("the signing request is not signed by the key it names")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid("the signing request is not for an elliptic-curve key on P-256")
    return key


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key, hexadecimal."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def load_certificate(pem: str) -> x509.Certificate:
    """The first certificate of a PEM. Raises `Invalid`."""
    try:
        return x509.load_pem_x509_certificate(_checked(pem))
    except ValueError as error:
        raise Invalid(f"not a certificate in PEM: {error}") from None


def facts(pem: str) -> Facts:
    """What a certificate of ours says. Raises `Invalid` when it is no such certificate.

    Whether it is signed by whom one believes is for the TLS handshake to find out.
    """
    certificate = load_certificate(pem)
    (uri,) = _uris(certificate)
    return Facts(
        identity=parse_identity(uri),
        serial=f"{certificate.serial_number:x}",
        not_before_s=certificate.not_valid_before_utc.timestamp(),
        not_after_s=certificate.not_valid_after_utc.timestamp(),
    )


def cluster_of(authority_pem: str) -> str:
    """Id of the cluster whose authority this is. Raises `Invalid` when it is nobody's."""
    (uri,) = _uris(load_certificate(authority_pem))
    cluster_id = uri.removeprefix(trust_domain(""))
    if uri != trust_domain(cluster_id) or "/" in cluster_id or not cluster_id:
        raise Invalid(f"{uri!r} is not the URI of a cluster's authority")
    return cluster_id


def renew_at_s(not_before_s: float, not_after_s: float, rng: Rng) -> float:
    """When a holder should ask for its next certificate: somewhere in `RENEW_BETWEEN` of its life."""
    first, last = RENEW_BETWEEN
    return not_before_s + (first + (last - first) * rng.random()) * (not_after_s - not_before_s)


def fingerprint(pem: str) -> str:
    """SHA-256 of a certificate, hexadecimal: what a token pins an authority by."""
    return load_certificate(pem).fingerprint(hashes.SHA256()).hex()


def signed_by(pem: str, authority_pem: str) -> bool:
    """Whether the authority's key signed this certificate; its times are not looked at."""
    try:
        load_certificate(pem).verify_directly_issued_by(load_certificate(authority_pem))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def at(moment_s: float) -> datetime.datetime:
    """Unix seconds as certificates count them: whole seconds, UTC."""
    return datetime.datetime.fromtimestamp(int(moment_s), datetime.UTC)


def _uris(certificate: x509.Certificate) -> tuple[str]:
    """The one URI that it carries. Raises `Invalid` when that is none or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise Invalid(f"the certificate names nobody: {error}") from None
    if len(uris) != 1:
        raise Invalid(f"the certificate carries {len(uris)} URIs instead of one")
    return (uris[0],)


def _checked(pem: str) -> bytes:
    if len(pem) > LIMIT_BYTES:
        raise Invalid(f"a PEM of {len(pem)} characters; at most {LIMIT_BYTES} are read")
    return pem.encode()
