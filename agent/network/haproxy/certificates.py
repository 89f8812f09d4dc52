"""Which certificates of the node's directory can be served, and what is wrong with the others.

A certificate NAME is `NAME.pem` (chain and key in one file), or `NAME.crt` with `NAME.key`. HAProxy gets copies of
those that are whole: one bad file must not keep it from serving the rest.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from agent.network.haproxy.site import Certificate
from common.errors import Invalid
from common.model.endpoint import Service, TrafficProblem
from common.names import name_fault

SIZE_LIMIT_BYTES = 1024 * 1024


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for the routes that ask for TLS."""

    certificates: tuple[Certificate, ...] = ()
    contents: dict[str, bytes] = {}
    """By name: what HAProxy gets."""
    problems: tuple[TrafficProblem, ...] = ()
    """Of routes that cannot be served, or not for long."""
    refused: frozenset[str] = frozenset()
    """Keys of the services that cannot be served."""


def look_up(directory: Path | None, services: Iterable[Service], now_s: float) -> Shelf:
    """The certificates for these services."""
    contents: dict[str, bytes] = {}
    hosts: dict[str, list[str]] = {}
    problems, refused = [], set()
    for service in services:
        if service.http is None or not service.http.tls:
            continue
        name, host = service.http.tls, service.http.host
        try:
            content = _read(directory, name)
            warning = _judge(content, host, now_s)
        except Invalid as error:
            refused.add(service.key)
            problems.append(_problem(service, f"cannot be served: certificate {name}: {error}"))
            continue
        if warning:
            problems.append(_problem(service, f"certificate {name} {warning}"))
        contents[name] = content
        hosts.setdefault(name, []).append(host)
    certificates = tuple(
        Certificate(name=name, fingerprint=hashlib.sha256(content).hexdigest(), hosts=tuple(sorted({*hosts[name]})))
        for name, content in sorted(contents.items())
    )
    return Shelf(certificates=certificates, contents=contents, problems=tuple(problems), refused=frozenset(refused))


def put(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Lay down exactly these, readable by the agent's user alone."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for file in directory.iterdir():
        if file.stem not in contents:
            file.unlink()
    for name, content in contents.items():
        path = directory / f"{name}.pem"
        if not path.exists() or path.read_bytes() != content:
            path.touch(mode=0o600)
            path.write_bytes(content)


def _problem(service: Service, text: str) -> TrafficProblem:
    return TrafficProblem(service=service.key, text=f"{service.key} of {service.job_name}: {text}")


def _read(directory: Path | None, name: str) -> bytes:
    if directory is None:
        raise Invalid("this node has no certificates: start its agent with --certs DIRECTORY")
    if name_fault(name):
        raise Invalid(name_fault(name))
    whole, parts = directory / f"{name}.pem", (directory / f"{name}.crt", directory / f"{name}.key")
    files = (whole,) if whole.exists() else parts
    try:
        contents = [_bounded(file) for file in files]
    except FileNotFoundError:
        raise Invalid(
            f"there is neither {whole.name} nor {parts[0].name} with {parts[1].name} in {directory}"
        ) from None
    except OSError as error:
        raise Invalid(f"{error.filename} cannot be read: {error.strerror}") from None
    return b"\n".join(contents)


def _bounded(file: Path) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(SIZE_LIMIT_BYTES + 1)
    if len(content) > SIZE_LIMIT_BYTES:
        raise Invalid(f"{file} is larger than {SIZE_LIMIT_BYTES} bytes")
    return content


def _judge(content: bytes, host: str, now_s: float) -> str:
    """What should be known of a certificate that can be served; `Invalid` for one that cannot."""
    try:
        leaf = x509.load_pem_x509_certificates(content)[0]
    except ValueError:
        raise Invalid("the file holds no certificate in PEM") from None
    try:
        key = load_pem_private_key(content, password=None)
    except (TypeError, ValueError):
        raise Invalid("the file holds no private key in PEM without a password") from None
    as_bytes = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*as_bytes) != leaf.public_key().public_bytes(*as_bytes):
        raise Invalid("the private key belongs to another certificate")
    names = _names(leaf)
    if not any(_matches(name, host) for name in names):
        raise Invalid(f"it is for {', '.join(names[:5]) or 'no host'}, not for {host}")
    end = leaf.not_valid_after_utc
    if end.timestamp() <= now_s:
        return f"has expired on {end:%Y-%m-%d}: clients will refuse it"
    if leaf.not_valid_before_utc > datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC):
        return f"is valid from {leaf.not_valid_before_utc:%Y-%m-%d} on only: clients will refuse it"
    return ""


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
