"""Throw-away certificates, made by the openssl program: an authority, a pair it signed, and a pair of a stranger."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from common.tls import TlsFiles


def make(folder: Path) -> dict[str, TlsFiles]:
    """`ours` for both ends, `stranger` whose certificate another authority signed. Skips without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    for authority in ("ca", "other-ca"):
        _authority(folder, authority)
    return {"ours": _pair(folder, "ours", "ca"), "stranger": _pair(folder, "stranger", "other-ca")}


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
