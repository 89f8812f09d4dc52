"""Certificates for an etcd of its own: made once, into a directory, by an authority whose key is kept nowhere.

    python3 certificates.py DIRECTORY MEMBER...

`ca.pem`, for each member NAME.pem and NAME.key under its host name, and `controller.pem`, `controller.key` for whoever
uses it. With one that is there already nothing is done.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = datetime.timedelta(days=3650)
USES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
"""Members are both to each other."""


def main(directory: Path, members: list[str]) -> None:
    if (directory / "ca.pem").exists():
        return
    key, name = ec.generate_private_key(ec.SECP256R1()), named("etcd of Podium")
    authority = begun(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    for member in (*members, "controller"):
        own = ec.generate_private_key(ec.SECP256R1())
        made = begun(named(member), name, own).add_extension(x509.ExtendedKeyUsage(USES), critical=False)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(member)]), critical=False)
        write(directory / f"{member}.key", pem(own))
        write(directory / f"{member}.pem", certificate(made, key))
    write(directory / "ca.pem", certificate(authority, key))  # last: with it all are there


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + LIFE)


def certificate(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
