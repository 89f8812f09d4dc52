"""Writes HAProxy's configuration for a site. PURE: a site always gives the same text.

Sockets and files are named relative to the directory HAProxy runs in, since a Unix socket's path must be short.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from agent.network.haproxy.site import LEAD, Site, Web, introduction, proxy_name, servers_of
from agent.network.interface import wait_s
from common.model.endpoint import Service
from common.model.job import HttpRoute

ADMIN, METRICS, PARK, CERTIFICATES = "admin.sock", "metrics.sock", "park.lua", "certificates.list"
METRICS_PROXY, WEB_PROXY, NOWHERE_PROXY = "podium.metrics", "podium.web", "podium.nowhere"
OWN_PROXIES = frozenset({METRICS_PROXY, WEB_PROXY, NOWHERE_PROXY})

PARKED_SHARE = 2
"""One in so many connections may wait, of all jobs together: beyond its limit HAProxy takes none, for whomever."""

RELOADS_LIMIT = 50
"""A worker that still has connections after so many reloads is ended: each costs memory."""

CONNECT_TIMEOUT_S = 1
"""To one endpoint; a machine that is gone must not hold a client longer before the next one is tried."""

WOKEN_RETRIES = 15
"""Of a job that is started for its callers: without a health check it may run for a while before it listens. Not for as
long as they may wait, since those that are tried are not counted among those that wait, of which there is a limit."""

INSPECT_SPARE_S = 5
"""A connection that waits must not be decided on before its waiting is over."""

RETRIES = 5
"""Each at another endpoint where there is one, else after a second: a crashed single replica is back by then."""

_FIRST_LINE = "# Written by Podium's agent, and written over by it. Serves "


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine allows."""

    connections: int
    threads: int
    user: str = ""
    """To become after the ports are open; empty: who runs the agent."""


def render(site: Site, limits: Limits) -> str:
    """The whole file. Its first line holds the site, for `site_of`."""
    lines = [
        _FIRST_LINE + msgspec.json.encode(site).decode(),
        *_global(limits),
        *_defaults(),
        *_metrics(),
        *(line for service in site.services if service.http is None for line in _ports_of(site, service)),
        *(_web(site, site.web) if site.web is not None else ()),
        *(line for service in site.services for line in _backend(site, service)),
    ]
    return "\n".join(lines) + "\n"


def site_of(text: str) -> Site:
    """What a file was written for. Raises `ValueError` for a file that is not ours."""
    first = text.partition("\n")[0]
    if not first.startswith(_FIRST_LINE):
        raise ValueError("it does not begin with what it serves")
    return msgspec.json.decode(first.removeprefix(_FIRST_LINE), type=Site)


def certificate_list(site: Site) -> str:
    """HAProxy's `crt-list`: each certificate and the names it is shown for."""
    return "".join(f"{one.path} [alpn h2,http/1.1] {' '.join(one.hosts)}\n" for one in site.certificates)


def trial_of(certificates: str) -> str:
    """A file that asks HAProxy about certificates alone; `certificates` is the name of a list of them."""
    timeouts = "".join(f"    timeout {side} 1s\n" for side in ("connect", "client", "server"))
    return f"defaults\n{timeouts}frontend trial\n    bind unix@trial.sock ssl crt-list {certificates}\n"


def _global(limits: Limits) -> Iterator[str]:
    yield "global"
    yield f"    stats socket unix@{ADMIN} mode 600 level admin expose-fd listeners"
    yield f"    mworker-max-reloads {RELOADS_LIMIT}"
    yield f"    maxconn {limits.connections}"
    yield f"    nbthread {limits.threads}"
    yield f"    setenv PODIUM_MAY_WAIT {limits.connections // PARKED_SHARE}"  # for the next one: it takes no arguments
    yield f"    lua-load {PARK}"
    yield "    ssl-default-bind-options ssl-min-ver TLSv1.2"
    if limits.user:
        yield f"    user {limits.user}"


def _defaults() -> Iterator[str]:
    yield "defaults"
    yield "    mode tcp"
    yield f"    timeout connect {CONNECT_TIMEOUT_S}s"
    # Idle connections are the programs' own affair; dead peers are found by keep-alive probes.
    for side in ("client", "server", "tunnel"):
        yield f"    timeout {side} 1d"
    yield "    timeout http-request 30s"
    yield "    timeout http-keep-alive 60s"
    yield "    option clitcpka"
    yield "    option srvtcpka"
    yield f"    retries {RETRIES}"
    yield "    option redispatch 1"
    # Weights are exact in turns; by the least busy a canary would get every connection while it is idle.
    yield "    balance roundrobin"


def _metrics() -> Iterator[str]:
    yield f"frontend {METRICS_PROXY}"
    yield "    mode http"
    yield f"    bind unix@{METRICS} mode 600"
    yield "    http-request use-service prometheus-exporter"


def _ports_of(site: Site, service: Service) -> Iterator[str]:
    listeners = [listener for listener in site.listeners if listener.service == service.key]
    if not listeners:
        return
    name = proxy_name(service)
    yield f"frontend {name}"
    for listener in listeners:
        yield f"    bind {listener.address}:{listener.port}"
    yield f"    tcp-request inspect-delay {math.ceil(wait_s(service)) + INSPECT_SPARE_S}s"
    yield f"    tcp-request content {_park(service)}"
    yield f"    default_backend {name}"


def _backend(site: Site, service: Service) -> Iterator[str]:
    name = proxy_name(service)
    yield f"backend {name}"
    if service.http is not None:
        yield "    mode http"
        if service.http.tls and site.web is not None:
            yield f'    http-request redirect code 308 location "{_secure(service.http, site.web)}" if !{{ ssl_fc }}'
        yield f"    http-request {_park(service)}"
    if service.wake_wait_s:
        yield f"    retries {max(RETRIES, min(WOKEN_RETRIES, math.ceil(service.wake_wait_s)))}"
    yield f"    server {LEAD} 127.0.0.1:1 disabled{introduction(service)}"
    for server in servers_of(service):
        yield f"    server {server.name} {server.address}:{server.port} weight {server.weight}{server.options}"


def _park(service: Service) -> str:
    name = proxy_name(service)
    return f"lua.park {name} {math.ceil(wait_s(service) * 1000)} if {{ nbsrv({name}) eq 0 }}"


def _secure(route: HttpRoute, web: Web) -> str:
    port = "" if web.https_port == 443 else f":{web.https_port}"
    return f"https://{route.host}{port}%[pathq]"


def _web(site: Site, web: Web) -> Iterator[str]:
    yield f"frontend {WEB_PROXY}"
    yield "    mode http"
    yield f"    bind {web.address}:{web.http_port}"
    if site.certificates:
        yield f"    bind {web.address}:{web.https_port} ssl strict-sni crt-list {CERTIFICATES}"
    yield "    option forwardfor"
    yield "    http-request set-header X-Forwarded-Proto https if { ssl_fc }"
    yield "    http-request set-header X-Forwarded-Proto http if !{ ssl_fc }"
    yield "    http-request set-var(txn.host) req.hdr(host),field(1,:),lower"
    routed = [(service.http, service) for service in site.services if service.http is not None]
    for route, service in sorted(routed, key=lambda pair: (-len(pair[0].path), str(pair[0]))):
        host = f"{{ var(txn.host) -m str {route.host} }}"
        for path in _below(route.path):
            yield f"    use_backend {proxy_name(service)} if {host} {path}".rstrip()
    yield f"    default_backend {NOWHERE_PROXY}"
    yield f"backend {NOWHERE_PROXY}"
    yield "    mode http"
    yield '    http-request return status 404 content-type text/plain string "no job answers for this host and path\\n"'


def _below(path: str) -> tuple[str, ...]:
    """Conditions for a path and what is below it: `/api` and `/api/x`, not `/apis`."""
    if path == "/":
        return ("",)
    return f"{{ path -m str {path} }}", f"{{ path -m beg {path}/ }}"
