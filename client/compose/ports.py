"""Reads `ports` and `expose`: the short form `[PUBLISHED:]TARGET[/PROTOCOL]` with ranges, and the long one."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

import msgspec

from client.compose import keys, optional
from client.compose.field import Field
from client.compose.tree import Fields, Scalar, shown
from common.errors import Invalid
from common.model.job import Port, Protocol, PublishMode
from common.settings import LIMITS

FORMS = "TARGET, PUBLISHED:TARGET or ranges like 8000-8002:80-82, each with /tcp or /udp if need be"
PROTOCOLS: Mapping[str, Protocol] = {protocol.value: protocol for protocol in Protocol}
MODES: Mapping[str, PublishMode] = {mode.value: mode for mode in PublishMode}
EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - read, not bound to
"""Host addresses that say no more than none at all."""
HOST_ADDRESS = (
    "a published port listens on each node's own address, or with 127.0.0.1 on its loopback; leave the address out"
)

_RANGE = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?")


class PlacedPort(msgspec.Struct, frozen=True):
    """A port and where the file asks for it."""

    port: Port
    field: Field
    routes: Field | None = None
    """Where the file routes HTTP to it."""


def read_ports(ports: Field | None, expose: Field | None, *, active: bool) -> tuple[PlacedPort, ...]:
    """The ports of a service; what `expose` repeats of `ports` counts once."""
    found: list[PlacedPort] = []
    for item in ports.items() if ports is not None else ():
        found.extend(PlacedPort(port, item) for port in _published(item, active))
    named = {(placed.port.container_port, placed.port.protocol) for placed in found}
    for item in expose.items() if expose is not None else ():
        for port in item.parsed(_parse_exposed, "a port") or ():
            if (port.container_port, port.protocol) not in named:
                named.add((port.container_port, port.protocol))
                found.append(PlacedPort(port, item))
    return tuple(found)


def parse_port(text: str) -> tuple[Port, ...]:
    """The short form; several ports when it has ranges. Raises `Invalid`."""
    body, slash, protocol = text.partition("/")
    if slash and protocol not in PROTOCOLS:
        raise Invalid(f"protocol {shown(protocol)} is not supported: allowed is {' or '.join(PROTOCOLS)}")
    host, published, target = _split(body)
    if host not in EVERYWHERE and not _is_loopback(host):
        raise Invalid(f"{shown(text)} names a host address, which {keys.NOT_SUPPORTED}: {HOST_ADDRESS}")
    targets = _range(text, target)
    publisheds = [0] * len(targets) if published is None else _range(text, published)
    if len(publisheds) != len(targets):
        raise Invalid(f"{shown(text)} pairs {len(publisheds)} published ports with {len(targets)} of the container")
    return tuple(
        Port(
            container_port=inner,
            published_port=outer,
            protocol=PROTOCOLS[protocol or "tcp"],
            loopback=published is not None and _is_loopback(host),
        )
        for outer, inner in zip(publisheds, targets, strict=True)
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(body: str) -> tuple[str, str | None, str]:
    """Host address, published ports (None: not published) and target of `[[HOST:]PUBLISHED:]TARGET`."""
    before, colon, target = body.rpartition(":")
    host, _, published = before.rpartition(":")
    if not colon:
        return "", None, target
    return (before, None, target) if "." in published else (host.strip("[]"), published, target)


def _range(text: str, part: str) -> list[int]:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise Invalid(f"{shown(text)} is not a port: write {FORMS}")
    first, last = int(match["first"]), int(match["last"] or match["first"])
    if not 1 <= first <= last <= 65535:
        raise Invalid(f"{shown(text)} is out of range: ports are 1 to 65535, ranges go upward")
    if last - first >= LIMITS.ports_per_job:
        raise Invalid(
            f"{shown(text)} is a range of {last - first + 1} ports; at most {LIMITS.ports_per_job} are allowed"
        )
    return list(range(first, last + 1))


def _parse_exposed(text: str) -> tuple[Port, ...]:
    if ":" in text:
        raise Invalid(f"{shown(text)} publishes a port: that is for ports, expose only names ports of the container")
    return parse_port(text)


def _published(item: Field, active: bool) -> tuple[Port, ...]:
    found = _long(item, active) if isinstance(item.node, Fields) else _short(item, active)
    for port in found:
        if not port.published_port and port.mode is PublishMode.INGRESS:
            target = port.container_port
            item.warn(
                f"port {target} is not reachable from outside: publish it, e.g. as {8000 + target % 1000}:{target}"
            )
    return found


def _short(item: Field, active: bool) -> tuple[Port, ...]:
    """Of a service that no active profile asks for, what is not supported does not matter."""
    inactive_host = not active and isinstance(item.node, Scalar) and _split(item.node.text)[0] not in EVERYWHERE
    return () if inactive_host else item.parsed(parse_port, "a port") or ()


def _long(item: Field, active: bool) -> tuple[Port, ...]:
    given = keys.honoured(item, keys.PORT, active=active)
    if "target" not in given:
        item.fault("target is missing: the container's port")
        return ()
    host = optional.text(given.get("host_ip"))
    if active and host not in EVERYWHERE and not _is_loopback(host):
        given["host_ip"].fault(f"{keys.NOT_SUPPORTED}: {HOST_ADDRESS}")
    target = given["target"].integer(1, 65535)
    published = given["published"].integer(1, 65535) if "published" in given else 0
    protocol = optional.choice(given.get("protocol"), PROTOCOLS, Protocol.TCP)
    mode = optional.choice(given.get("mode"), MODES, PublishMode.INGRESS)
    if target is None or published is None:
        return ()
    port = Port(container_port=target, published_port=published, protocol=protocol, mode=mode)
    return (msgspec.structs.replace(port, loopback=bool(published) and _is_loopback(host)),)
