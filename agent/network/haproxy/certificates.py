"""Which certificates can be shown for routes, and what is wrong with the others.

A route's certificate NAME is a secret, of which the controller says which one it is now (`Service.certificate`);
otherwise it lies in the node's own directory, as `NAME.pem` (chain and key in one file), or `NAME.crt` with `NAME.key`.
Only those that are whole are handed on: one bad file must not keep HAProxy from serving the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.network.haproxy.site import FILES, MEMORY, Certificate
from agent.network.interface import Certificates
from common.errors import Invalid
from common.model.endpoint import Service, TrafficProblem
from common.names import name_fault
from common.route_certificates import Pair, check_host, date_problem, plain_pem, read_pair

SIZE_LIMIT_BYTES = 1024 * 1024


class Found(NamedTuple):
    content: bytes
    fingerprint: str
    """Of a secret its digest, which is keyed."""


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where certificates come from."""

    files: Path | None
    """The node's own."""
    secrets: Certificates
    """That have come from a controller."""
    kept: Callable[[str], Found | None]
    """By name: a secret that is shown already. It stays until what it has become has come."""
    refused: Mapping[tuple[str, str], str]
    """By name and fingerprint: why HAProxy does not take it."""


class Shelf(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for the routes that ask for TLS."""

    certificates: tuple[Certificate, ...] = ()
    contents: dict[str, bytes] = {}
    """By name: what HAProxy gets."""
    problems: tuple[TrafficProblem, ...] = ()
    """Of routes that cannot be served, or not for long."""
    refused: frozenset[str] = frozenset()
    """Keys of the services that cannot be served."""


def look_up(sources: Sources, services: Iterable[Service], now_s: float) -> Shelf:
    """The certificates for these services."""
    contents: dict[str, bytes] = {}
    fingerprints: dict[str, str] = {}
    hosts: dict[str, list[str]] = {}
    problems, refused = [], set()
    pairs: dict[bytes, Pair] = {}
    for service in services:
        if service.http is None or not service.http.tls:
            continue
        wanted, name = service.http.tls, _name(service)
        try:
            found = _found(sources, service)
            pair = pairs[found.content] = pairs.get(found.content) or read_pair(found.content)
            check_host(pair, service.http.host)
            if text := sources.refused.get((name, found.fingerprint)):
                raise Invalid(text)
        except Invalid as error:
            refused.add(service.key)
            problems.append(_problem(service, f"cannot be served: certificate {wanted}: {error}"))
            continue
        if warning := date_problem(pair, now_s):
            problems.append(_problem(service, f"certificate {wanted} {warning}"))
        if fingerprints.get(name) != found.fingerprint:
            contents[name], fingerprints[name] = plain_pem(pair), found.fingerprint
        hosts.setdefault(name, []).append(service.http.host)
    certificates = tuple(
        Certificate(
            name=name,
            fingerprint=fingerprints[name],
            hosts=tuple(sorted({*hosts[name]})),
            folder=MEMORY if "." in name else FILES,
        )
        for name in sorted(contents)
    )
    return Shelf(certificates=certificates, contents=contents, problems=tuple(problems), refused=frozenset(refused))


def _name(service: Service) -> str:
    """For HAProxy. Those of nodes are names without a dot; those of a namespace have one in between."""
    assert service.http is not None
    return f"{service.namespace}.{service.http.tls}" if service.certificate else service.http.tls


def _problem(service: Service, text: str) -> TrafficProblem:
    return TrafficProblem(service=service.key, text=f"{service.key} of {service.job_name}: {text}")


def _found(sources: Sources, service: Service) -> Found:
    assert service.http is not None
    if not service.certificate:
        content = _read(sources.files, service.http.tls)
        return Found(content, hashlib.sha256(content).hexdigest())
    if service.certificate in sources.secrets:
        return Found(sources.secrets[service.certificate], service.certificate)
    kept = sources.kept(_name(service))
    if kept is None:
        raise Invalid("it is a secret that no controller has sent yet")
    return kept


def _read(directory: Path | None, name: str) -> bytes:
    if name_fault(name):
        raise Invalid(name_fault(name))
    if directory is None:
        raise Invalid(
            "its namespace has no secret of that name, and this node has no certificates of its own: "
            f"podium secret create {name}, or start the agent with --certs DIRECTORY"
        )
    whole, parts = directory / f"{name}.pem", (directory / f"{name}.crt", directory / f"{name}.key")
    files = (whole,) if whole.exists() else parts
    try:
        contents = [_bounded(file) for file in files]
    except FileNotFoundError:
        raise Invalid(
            f"there is neither {whole.name} nor {parts[0].name} with {parts[1].name} in {directory}, and its namespace "
            "has no secret of that name"
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
