"""Which store a URL means. Refuses what it does not understand with everything that is wrong; opens nothing yet.

Backends are imported when asked for: each brings libraries of its own.

memory:                                       nothing outlives the process
sqlite:///var/lib/podium/state.db             one controller; the path is absolute
etcd://h1:2379,h2:2379?prefix=/podium/v1/     several controllers
etcds://h1,h2?ca=FILE&cert=FILE&key=FILE      the same over mutual TLS
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from common.errors import Fault, Invalid
from common.tls import TlsFiles
from controller.store.interface import Store

_ETCD_PORT = 2379
_ETCD_PREFIX = "/podium/v1/"
_PREFIX_LIMIT_BYTES = 128
"""Of etcd's 1.5 MiB per request, 120 keys with such a prefix leave room for the largest commit."""
_TLS_OPTIONS = {"ca", "cert", "key"}
_FORMS = "memory:, sqlite:///path, etcd://host:port,host:port or etcds://host:port?ca=FILE&cert=FILE&key=FILE"


def open_store(url: str, *, lease_s: float = 3.0, tls: TlsFiles | None = None) -> Store:
    """The store at `url`. Raises `Invalid`.

    `lease_s` is asked of etcd; where nobody else can lead, leadership does not lapse. `tls` is for an etcd whose URL
    names no files; with it `etcd://` means `etcds://`.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _refusal(f"{url!r} is no store ({error}); allowed: {_FORMS}") from None
    match parts.scheme:
        case "memory":
            from controller.store.memory import MemoryDatabase, MemoryStore

            return MemoryStore(MemoryDatabase(lease_s=math.inf))
        case "sqlite":
            from controller.store.sqlite import SqliteStore

            return SqliteStore(_sqlite_path(url, parts))
        case "etcd" | "etcds":
            return _etcd(url, parts, lease_s, tls)
        case _:
            raise _refusal(f"{url!r} is no store; allowed: {_FORMS}")


def folder_of(url: str) -> Path | None:
    """Where a store on this machine keeps its file; None for others, and for what `open_store` will refuse."""
    try:
        parts = urlsplit(url)
        return _sqlite_path(url, parts).parent if parts.scheme == "sqlite" else None
    except (ValueError, Invalid):
        return None


def _sqlite_path(url: str, parts: SplitResult) -> Path:
    if parts.netloc:
        raise _refusal(f"{url!r} names a host; a file's path is absolute and follows three slashes; allowed: {_FORMS}")
    if parts.query or parts.fragment:
        raise _refusal(f"{url!r} has options; sqlite takes none. Write ? as %3F and # as %23 in a path")
    if not parts.path.strip("/") or parts.path.endswith("/"):
        raise _refusal(f"{url!r} names no file; allowed: {_FORMS}")
    return Path("/" + unquote(parts.path).lstrip("/"))


def _etcd(url: str, parts: SplitResult, lease_s: float, tls: TlsFiles | None) -> Store:
    faults: list[str] = []
    endpoints = _endpoints(parts.netloc, faults)
    if parts.path.strip("/") or parts.fragment:
        faults.append(f"{url!r} has a path; a key prefix is given as ?prefix={_ETCD_PREFIX}")
    options = _options(parts, faults)
    prefix = _prefix(options.get("prefix", _ETCD_PREFIX), faults)
    if parts.scheme == "etcds":
        tls = _tls(options, tls, faults)
    if faults:
        raise _refusal(*faults)
    from controller.store.etcd import EtcdSettings, EtcdStore

    return EtcdStore(endpoints, prefix=prefix, tls=tls, settings=EtcdSettings(lease_s=lease_s))


def _options(parts: SplitResult, faults: list[str]) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = {"prefix"} | (_TLS_OPTIONS if parts.scheme == "etcds" else set())
    for name in sorted(options.keys() - allowed):
        hint = "; TLS is chosen by etcds://" if name in _TLS_OPTIONS else ""
        faults.append(f"option {name!r} is unknown; allowed: {', '.join(sorted(allowed))}{hint}")
    return options


def _tls(options: dict[str, str], configured: TlsFiles | None, faults: list[str]) -> TlsFiles | None:
    """The files the URL names, or else those configured elsewhere; never a mixture."""
    if configured is not None and not options.keys() & _TLS_OPTIONS:
        return configured
    missing = [name for name in sorted(_TLS_OPTIONS) if not options.get(name)]
    if missing:
        faults.append(f"etcds:// needs the files ca, cert and key; missing: {', '.join(missing)}")
        return None
    return TlsFiles(ca_file=options["ca"], cert_file=options["cert"], key_file=options["key"])


def _endpoints(hosts: str, faults: list[str]) -> list[str]:
    """`host:port` each, with etcd's port where none is given."""
    if not hosts:
        faults.append(f"etcd:// names no server; allowed: {_FORMS}")
        return []
    endpoints = []
    for host in hosts.split(","):
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", host)
        port = int(match[2] or _ETCD_PORT) if match else 0
        if match is None or not 0 < port < 65_536:
            faults.append(f"{host!r} is no server; allowed: host, host:port or [ipv6]:port")
        else:
            endpoints.append(f"{match[1]}:{port}")
    return endpoints


def _prefix(given: str, faults: list[str]) -> str:
    prefix = given if given.endswith("/") else given + "/"
    if not given.strip("/") or len(prefix.encode()) > _PREFIX_LIMIT_BYTES:
        faults.append(f"prefix {given!r} must be 1 to {_PREFIX_LIMIT_BYTES} bytes, such as {_ETCD_PREFIX}")
    return prefix


def _refusal(*texts: str) -> Invalid:
    return Invalid(Fault(path="store", text=text) for text in texts)
