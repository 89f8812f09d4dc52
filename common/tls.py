"""Who may listen and dial without TLS, and the credentials of those who have it.

Owns what an address looks like, the one rule of contract.md ("a listener on anything but loopback needs TLS settings
or the explicit --insecure"), and the reading of certificate files for gRPC and HTTP. TLS is mutual on gRPC: each side
shows a certificate that the same authority signed. Never decides who may do what.
"""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from common.errors import Fault, Invalid

if TYPE_CHECKING:
    import grpc

_FILE_LIMIT_BYTES = 1024 * 1024
"""Certificates are a few KiB; a larger file is the wrong file."""


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Three PEM files. All are needed, on both sides."""

    ca_file: str
    """The authority that signed the other side's certificate."""
    cert_file: str
    """Our own certificate (chain)."""
    key_file: str
    """Our own private key."""


class _Pem(msgspec.Struct, frozen=True, kw_only=True):
    ca: bytes
    cert: bytes
    key: bytes


def tls_files(ca_file: str, cert_file: str, key_file: str) -> TlsFiles | None:
    """The three settings as one; None when none is given. Raises `Invalid` when only some are."""
    given = {"tls_ca": ca_file, "tls_cert": cert_file, "tls_key": key_file}
    missing = [name for name, value in given.items() if not value]
    if len(missing) == len(given):
        return None
    if missing:
        raise Invalid(Fault(path=name, text="missing: TLS needs all of tls_ca, tls_cert, tls_key") for name in missing)
    return TlsFiles(ca_file=ca_file, cert_file=cert_file, key_file=key_file)


def check_listener(path: str, address: str, tls: TlsFiles | None, *, insecure: bool) -> None:
    """Raises `Invalid` naming the setting `path` when `address` must not be listened on without TLS."""
    if tls is None and not insecure and not is_loopback(address):
        text = (
            f"{address!r} can be reached from other machines: give the TLS files, or --insecure to serve in the clear"
        )
        raise Invalid([Fault(path=path, text=text)])


def check_dial(path: str, address: str, tls: TlsFiles | None, *, insecure: bool) -> None:
    """Raises `Invalid` naming the setting `path` when `address` must not be dialled without TLS."""
    if tls is None and not insecure and not is_loopback(address):
        text = (
            f"{address!r} is not on this machine: show who you are (a person by `podium context add`, a node by "
            "--join TOKEN), give the TLS files, or --insecure to talk in the clear"
        )
        raise Invalid([Fault(path=path, text=text)])


def address_fault(path: str, address: str, *, least_port: int = 0) -> Fault | None:
    """What is wrong with the setting `path` as `host:port`; None when it is one."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and port.isascii() and len(port) <= 5 and least_port <= int(port) <= 65_535:
        return None
    return Fault(path=path, text=f"{address!r} is not host:port with a port from {least_port} to 65535")


def advertise_fault(path: str, address: str) -> Fault | None:
    """Why others could not reach us at `address` (`host:port` or a bare host); None when they may."""
    try:
        everywhere = ipaddress.ip_address(host_of(address)).is_unspecified
    except ValueError:
        return None
    text = f"{address!r} means every address of this machine; name the one at which others reach it"
    return Fault(path=path, text=text) if everywhere else None


def is_loopback(address: str) -> bool:
    """Whether `host:port` (or a bare host) can only be reached from this machine. Unix sockets can."""
    if address.startswith("unix:"):
        return True
    host = host_of(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of `host:port`, `[v6]:port` or a bare host."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.rpartition(":")[0] or address


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """For a gRPC listener; callers without a certificate of the authority are turned away in the handshake."""
    import grpc  # a tenth of a second and 10 MB: not for whoever only checks settings

    pem = _read(files)
    return grpc.ssl_server_credentials([(pem.key, pem.cert)], root_certificates=pem.ca, require_client_auth=True)


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """For a gRPC channel to such a listener."""
    import grpc

    pem = _read(files)
    return grpc.ssl_channel_credentials(root_certificates=pem.ca, private_key=pem.key, certificate_chain=pem.cert)


def http_context(files: TlsFiles) -> ssl.SSLContext:
    """For an HTTP listener. Probes and scrapers have no certificates of ours, so none is asked for."""
    _read(files)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.cert_file, files.key_file)
    return context


def _read(files: TlsFiles) -> _Pem:
    """All three files, checked to be a matching pair and an authority. Raises `Invalid` with every fault."""
    faults: list[Fault] = []
    ca = _read_file("tls_ca", files.ca_file, faults)
    cert = _read_file("tls_cert", files.cert_file, faults)
    key = _read_file("tls_key", files.key_file, faults)
    if not faults:
        faults += _mismatches(files)
    if faults:
        raise Invalid(faults)
    return _Pem(ca=ca, cert=cert, key=key)


def _read_file(path: str, name: str, faults: list[Fault]) -> bytes:
    try:
        with Path(name).open("rb") as file:
            content = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        faults.append(Fault(path=path, text=f"cannot read {name}: {error.strerror}"))
        return b""
    if len(content) > _FILE_LIMIT_BYTES:
        faults.append(Fault(path=path, text=f"{name} is over {_FILE_LIMIT_BYTES} bytes: not a PEM file"))
    return content


def _mismatches(files: TlsFiles) -> list[Fault]:
    """What the TLS library says against the files; gRPC itself would only say that handshakes fail."""
    faults: list[Fault] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(files.ca_file)
    except ssl.SSLError as error:
        faults.append(Fault(path="tls_ca", text=f"{files.ca_file} holds no usable PEM certificate ({error.reason})"))
    try:
        context.load_cert_chain(files.cert_file, files.key_file)
    except ssl.SSLError as error:
        text = f"{files.cert_file} and {files.key_file} are not a PEM certificate and its key ({error.reason})"
        faults.append(Fault(path="tls_cert", text=text))
    return faults
