"""Reads what `x-podium` says of a service's traffic: HTTP routes, the PROXY protocol and slow starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from client.compose import keys, optional
from client.compose.assets import AssetReader
from client.compose.field import Field
from client.compose.ports import PlacedPort
from client.compose.tree import Fields, Items
from common.model.job import HttpRoute, Port, Protocol, ProxyProtocol, PublishMode

PROXY_PROTOCOLS: Mapping[str, ProxyProtocol] = {protocol.value: protocol for protocol in ProxyProtocol}


def with_traffic(
    ports: tuple[PlacedPort, ...], podium: Mapping[str, Field], assets: AssetReader, *, active: bool
) -> tuple[PlacedPort, ...]:
    """The ports of a service with their routes and protocols. What the texts mean is checked with the whole spec."""
    found = list(ports)
    if "http" in podium:
        for field in podium["http"].items() if isinstance(podium["http"].node, Items) else [podium["http"]]:
            _route(found, field, assets, active)
    if "proxy_protocol" in podium:
        _proxy_protocol(found, podium["proxy_protocol"])
    return tuple(found)


def _route(ports: list[PlacedPort], field: Field, assets: AssetReader, active: bool) -> None:
    given = keys.honoured(field, keys.PODIUM_HTTP, active=active)
    if "host" not in given:
        field.fault("host is missing: whose requests are meant, e.g. shop.example.com")
        return
    place = _target(ports, field, given.get("port"))
    if place is None:
        return
    path = optional.text(given.get("path"), "/")
    route = HttpRoute(
        host=optional.text(given["host"]).lower(),
        path=path.rstrip("/") or "/" if path.startswith("/") else path,
        tls=assets.certificate(given["tls"], active=active) if "tls" in given else "",
    )
    port = ports[place].port
    ports[place] = msgspec.structs.replace(
        ports[place], port=msgspec.structs.replace(port, http=(*port.http, route)), routes=field
    )


def _target(ports: list[PlacedPort], field: Field, wanted: Field | None) -> int | None:
    """Which port of the container requests go to; one that is named and not listed is added."""
    of_tcp = [place for place, placed in enumerate(ports) if placed.port.protocol is Protocol.TCP]
    if wanted is None:
        if len({ports[place].port.container_port for place in of_tcp}) == 1:
            return of_tcp[0]
        number = "several TCP ports" if of_tcp else "no TCP port"
        field.fault(f"port is missing: the service has {number}, so say which one of the container answers")
        return None
    number_ = wanted.integer(1, 65535)
    if number_ is None:
        return None
    for place in of_tcp:
        if ports[place].port.container_port == number_:
            return place
    ports.append(PlacedPort(Port(container_port=number_), field))
    return len(ports) - 1


def _proxy_protocol(ports: list[PlacedPort], field: Field) -> None:
    published = [place for place, placed in enumerate(ports) if _takes_protocol(placed.port)]
    if not isinstance(field.node, Fields):
        protocol = optional.choice(field, PROXY_PROTOCOLS, ProxyProtocol.NONE)
        if not published:
            field.fault(
                "the service publishes no TCP port for the cluster, and routed HTTP has X-Forwarded-For instead"
            )
        _set(ports, published, protocol)
        return
    for key, inner in field.fields().items():
        protocol = optional.choice(inner, PROXY_PROTOCOLS, ProxyProtocol.NONE)
        places = [place for place in published if str(ports[place].port.container_port) == key]
        if not places:
            inner.fault(f"the service publishes no TCP port {key} of its container for the cluster")
        _set(ports, places, protocol)


def _set(ports: list[PlacedPort], places: Sequence[int], protocol: ProxyProtocol) -> None:
    for place in places:
        port = msgspec.structs.replace(ports[place].port, proxy_protocol=protocol)
        ports[place] = msgspec.structs.replace(ports[place], port=port)


def _takes_protocol(port: Port) -> bool:
    return port.protocol is Protocol.TCP and bool(port.published_port) and port.mode is PublishMode.INGRESS
