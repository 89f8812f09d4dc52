"""The cluster's certificate authority: made once, signs certificates of agents and controllers, and can be replaced.

Whoever signs is handed the time and says how long; the caller decides who may have a certificate. A certificate is
valid from an hour before it was made, since machines' clocks differ.
"""

from __future__ import annotations

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.certificates import at, load_certificate, load_key, new_key, random_serial, requested_key
from common.identity import Identity, http_name, server_name, trust_domain
from common.model.ids import Rng, new_id
from common.model.trust import Authority, Kind
from controller.core.joining import CERTIFICATE_S
from controller.security.sealing import KeyRing

PLACE = "authority"
"""The key of the one record, which its private key is sealed to."""
AUTHORITY_S = 10 * 365.25 * 86_400.0
"""Long enough that no cluster meets its end unprepared; `successor` is how one is replaced."""
BACKDATED_S = 3_600.0


def new_authority(ring: KeyRing, now_s: float, rng: Rng) -> Authority:
    """The authority of a cluster that has none yet, and with it the cluster's id."""
    return _sealed(ring, new_id(rng), new_key(), now_s)


def successor(ring: KeyRing, authority: Authority, now_s: float) -> Authority:
    """The authority after `authority`, which stays believed, and certifies the new one for those that know only it.

    (Cross-signing, as when public authorities change their roots: RFC 4210, 4.4.)
    """
    key = new_key()
    made = _sealed(ring, authority.cluster_id, key, now_s)
    old_key, old = _signing(ring, authority)
    name = load_certificate(made.certificates[0]).subject
    bridge = _authority_certificate(authority.cluster_id, name, load_key(key).public_key(), old.subject, old_key, now_s)
    return msgspec.structs.replace(
        made,
        certificates=(*made.certificates, *authority.certificates),
        bridges=(bridge, *authority.bridges),
        retired=authority.retired,
    )


def settled(authority: Authority) -> Authority:
    """Believe nobody but the authority that signs: once no certificate of the ones before it is in use.

    People's tokens and contexts pin the one of their time, so what leads from it to this one is shown on.
    """
    signs, *before = authority.certificates
    return msgspec.structs.replace(authority, certificates=(signs,), retired=(*before, *authority.retired))


def forgotten(authority: Authority) -> Authority:
    """Show nothing of earlier authorities any more: whoever still goes by one of them does not find the cluster."""
    return msgspec.structs.replace(authority, retired=(), bridges=())


def rewrapped(ring: KeyRing, authority: Authority) -> Authority | None:
    """The same under the current cluster key; None when it is already."""
    sealed = ring.rewrapped(PLACE, authority.private_key)
    return None if sealed is None else msgspec.structs.replace(authority, private_key=sealed)


def issue(
    ring: KeyRing,
    authority: Authority,
    identity: Identity,
    request_pem: str,
    now_s: float,
    life_s: float = CERTIFICATE_S,
    serial: int = 0,
) -> str:
    """A certificate chain (PEM) for the key of `request_pem`: the certificate, then what leads to older authorities.

    Without `serial` one is drawn.

    Raises `Invalid` when the request is none, or our cluster key does not open the authority's key.
    """
    assert identity.cluster_id == authority.cluster_id, "an authority signs for its own cluster"
    key, own = _signing(ring, authority)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    names.append(x509.DNSName(http_name(identity.kind)))
    if identity.kind is Kind.CONTROLLER:  # whoever dials one asks for this name, which no agent may carry
        names.append(x509.DNSName(server_name(identity.cluster_id)))
    public_key = requested_key(request_pem)
    builder = _begun(x509.Name([]), own.subject, public_key, now_s, life_s, serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)  # as the subject is empty
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return _pem(builder.sign(key, hashes.SHA256())) + "".join(authority.bridges)


def _sealed(ring: KeyRing, cluster_id: str, key_pem: str, now_s: float) -> Authority:
    key = load_key(key_pem)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Podium"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {cluster_id} since {at(now_s):%Y-%m-%d %H:%M:%S}"),
        ]
    )
    return Authority(
        cluster_id=cluster_id,
        certificates=(_authority_certificate(cluster_id, name, key.public_key(), name, key, now_s),),
        private_key=ring.seal(PLACE, key_pem.encode()),
        created_at_s=now_s,
    )


def _authority_certificate(
    cluster_id: str,
    name: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    now_s: float,
) -> str:
    builder = _begun(name, issuer, public_key, now_s, AUTHORITY_S)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    domain = x509.UniformResourceIdentifier(trust_domain(cluster_id))
    builder = builder.add_extension(x509.SubjectAlternativeName([domain]), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    return _pem(builder.sign(issuer_key, hashes.SHA256()))


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now_s: float,
    life_s: float,
    serial: int = 0,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(serial or random_serial())
    return builder.not_valid_before(at(now_s - BACKDATED_S)).not_valid_after(at(now_s + life_s))


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signing(ring: KeyRing, authority: Authority) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    return (
        load_key(ring.open(PLACE, authority.private_key).decode()),
        load_certificate(authority.certificates[0]),
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
