"""Which controllers a program talks to, as whom, and how patiently: flags over environment over context over defaults.

Owns the PODIUM_* variables of the client side. Never opens a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from client.contexts import Context, config_path, contexts
from client.local import found
from common.backoff import Backoff
from common.errors import Fault, Invalid
from common.tls import TlsFiles, check_dial, tls_files
from common.token_file import token_in
from common.tokens import USER

DEFAULT_CONTROLLER = "127.0.0.1:7077"
DEFAULT_NAMESPACE = "default"

ValueT = TypeVar("ValueT")


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    controllers: tuple[str, ...] = (DEFAULT_CONTROLLER,)
    """gRPC addresses, `host:port`; any of them may lead."""
    namespace: str = DEFAULT_NAMESPACE
    insecure: bool = False
    """Talk in the clear also to other machines."""
    tls: TlsFiles | None = None
    token: str = ""
    """Of a user, in a cluster that has an authority of its own."""
    authority: str = ""
    """Of that cluster, PEM; empty: found by the token, which pins it."""
    connect_timeout_s: float = 2.0
    """For one connection: a host that answers at all does so far sooner."""
    answer_timeout_s: float = 10.0
    """For one answer: a write waits for one commit, a plan for one scheduling pass."""
    silence_limit_s: float = 2.0
    """Nobody has answered anything for this long: most likely nothing runs there, and somebody waits at a prompt."""
    deadline_s: float = 20.0
    """For one call with all its repeats, once somebody answers: longer than a failover takes (about 4 s)."""
    backoff: Backoff = Backoff(first_s=0.1, limit_s=1.0)
    """Between rounds over the addresses."""
    redirects_limit: int = 3
    """Hints followed at once before waiting: more means that controllers contradict each other."""


def load(
    environ: Mapping[str, str],
    *,
    controller: str | None = None,
    namespace: str | None = None,
    insecure: bool | None = None,
    context: str | None = None,
) -> ClientSettings:
    """The settings in force; arguments are flags, None where not given. Raises `Invalid` naming each wrong source."""
    base = _context(environ, context)
    named = _first(_addresses(controller), _addresses(environ.get("PODIUM_CONTROLLER")))
    addresses = named or base.controllers or (DEFAULT_CONTROLLER,)
    if not (base.token or base.tls_ca) or not set(addresses) & set(base.controllers):
        base = _local(environ, addresses, base)
    settings = ClientSettings(
        controllers=addresses,
        namespace=_first(namespace, environ.get("PODIUM_NAMESPACE"), base.namespace) or DEFAULT_NAMESPACE,
        insecure=bool(_first(insecure, truth(environ, "PODIUM_INSECURE"), base.insecure)),
        tls=tls_files(
            _first(environ.get("PODIUM_TLS_CA"), base.tls_ca) or "",
            _first(environ.get("PODIUM_TLS_CERT"), base.tls_cert) or "",
            _first(environ.get("PODIUM_TLS_KEY"), base.tls_key) or "",
        ),
    )
    settings = _with_token(settings, environ, base)
    for address in settings.controllers:
        check_dial("controller", address, settings.tls, insecure=settings.insecure or bool(settings.token))
    return settings


def _context(environ: Mapping[str, str], named: str | None) -> Context:
    """The context asked for, or the current one of the file, or an empty one."""
    written = contexts(environ)
    name = named or environ.get("PODIUM_CONTEXT") or written.current
    if not name:
        return Context()
    if name not in written.contexts:
        known = ", ".join(sorted(written.contexts)) or "none"
        raise Invalid([Fault(path="context", text=f"{name!r} is not in {config_path(environ)} (there: {known})")])
    context = written.contexts[name]
    _check_addresses(f"contexts.{name}.controllers", context.controllers)
    return context


def _local(environ: Mapping[str, str], addresses: tuple[str, ...], base: Context) -> Context:
    """`base`, as whom this user is known at a cluster that it runs on this machine, if there is one at an address."""
    local = found(environ, addresses)
    if local is None:
        return base
    return msgspec.structs.replace(
        base, token=local.token, authority=local.authority, insecure=local.insecure, tls_ca="", tls_cert="", tls_key=""
    )


def _with_token(settings: ClientSettings, environ: Mapping[str, str], base: Context) -> ClientSettings:
    """As which user, unless something else was asked for. A token of the environment is of any cluster."""
    if settings.insecure or settings.tls is not None:
        return settings
    token = environ.get("PODIUM_TOKEN", "") or _in_file(environ)
    if token:
        return msgspec.structs.replace(settings, token=token)
    if base.token:
        return msgspec.structs.replace(settings, token=base.token, authority=base.authority)
    return settings


def _in_file(environ: Mapping[str, str]) -> str:
    """The token in the file that PODIUM_TOKEN_FILE names. Raises `Invalid` when it is not there."""
    path = environ.get("PODIUM_TOKEN_FILE", "")
    token = token_in(Path(path), USER) if path else ""
    if path and not token:
        raise Invalid([Fault(path="PODIUM_TOKEN_FILE", text=f"{path} is not there")])
    return token


def controllers(environ: Mapping[str, str], given: str | None) -> tuple[str, ...]:
    """The controllers a serving process dials: as given, else PODIUM_CONTROLLER, else the default."""
    return _addresses(given) or _addresses(environ.get("PODIUM_CONTROLLER")) or (DEFAULT_CONTROLLER,)


def truth(environ: Mapping[str, str], name: str) -> bool | None:
    """A yes-or-no variable; None when it is unset or empty."""
    value = environ.get(name, "").strip().lower()
    if not value:
        return None
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise Invalid([Fault(path=name, text=f"{value!r} is neither yes nor no: give 1 or 0")])


def _first(*values: ValueT | None) -> ValueT | None:
    """The first that says something."""
    return next((value for value in values if value not in (None, "", ())), None)


def _addresses(given: str | None) -> tuple[str, ...]:
    """`a:1,b:2` as addresses, each checked to be `host:port`."""
    addresses = tuple(part.strip() for part in (given or "").split(",") if part.strip())
    _check_addresses("controller", addresses)
    return addresses


def _check_addresses(path: str, addresses: tuple[str, ...]) -> None:
    wrong = [address for address in addresses if not _is_address(address)]
    if wrong:
        raise Invalid(Fault(path=path, text=f"{address!r} is not HOST:PORT, e.g. 127.0.0.1:7077") for address in wrong)


def _is_address(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    return bool(colon and host and "/" not in host and port.isascii() and port.isdigit() and 0 < int(port) < 65536)
