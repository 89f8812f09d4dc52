"""Throw-away certificates, made by the openssl program: an authority, a pair it signed, and a pair of a stranger."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from common.tls import TlsFiles

P256 = ec.SECP256R1()


def make(folder: Path) -> dict[str, TlsFiles]:
    """`ours` for both ends, `stranger` whose certificate another authority signed. Skips without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    for authority in ("ca", "other-ca"):
        _authority(folder, authority)
    return {"ours": _pair(folder, "ours", "ca"), "stranger": _pair(folder, "stranger", "other-ca")}


def pair(
    *hosts: str,
    since_s: float = -60.0,
    until_s: float = 86_400.0,
    rsa_bits: int = 0,
    curve: ec.EllipticCurve = P256,
) -> bytes:
    """Like `self_signed`, made here: valid from and to so many seconds from now."""
    key = rsa.generate_private_key(65_537, rsa_bits) if rsa_bits else ec.generate_private_key(curve)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
    first, last = (datetime.datetime.fromtimestamp(time.time() + s, tz=datetime.UTC) for s in (since_s, until_s))
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, serial_number=x509.random_serial_number())
        .public_key(key.public_key())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem) + private


def self_signed(file: Path, *hosts: str) -> Path:
    """A certificate for these hosts and its key, in one file."""
    names = ",".join(f"DNS:{host}" for host in hosts)
    _openssl(
        file.parent,
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
        *("-subj", f"/CN={hosts[0]}", "-addext", f"subjectAltName={names}"),
        *("-keyout", f"{file.name}.key", "-out", f"{file.name}.crt"),
    )
    parts = [file.with_name(f"{file.name}.{kind}") for kind in ("crt", "key")]
    file.write_text("".join(part.read_text() for part in parts))
    for part in parts:
        part.unlink()
    return file


def _authority(folder: Path, name: str) -> None:
    _openssl(
        folder,
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
        *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
    )


def _pair(folder: Path, name: str, authority: str) -> TlsFiles:
    (folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl(
        folder,
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
    )
    _openssl(
        folder,
        *("x509", "-req", "-days", "1", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key"),
        *("-CAcreateserial", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
    )
    return TlsFiles(
        ca_file=str(folder / "ca.pem"), cert_file=str(folder / f"{name}.pem"), key_file=str(folder / f"{name}.key")
    )


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=20)
