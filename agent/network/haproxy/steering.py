"""What to tell a running HAProxy so that its servers become the wanted ones, and what its counters say. PURE.

A server that is wanted no more is drained first: it gets nothing new and keeps what it has; when it has nothing left it
is deleted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping

import msgspec

from agent.network.haproxy.config import OWN_PROXIES
from agent.network.haproxy.site import LEAD, Server, task_of

Key = tuple[str, str]
"""Proxy and name of a server."""

_DRAINS, _RESTS = "DRAIN", "MAINT"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One server as HAProxy tells of it."""

    key: Key
    status: str
    weight: int
    sessions: int
    failures: int
    """Connections to it that could not be made, so far."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One worker at one moment."""

    servers: tuple[Seen, ...] = ()
    connections: dict[str, int] = {}
    """Accepted so far, by frontend."""
    requests: dict[str, int] = {}
    """HTTP requests passed on so far, by backend."""
    open: dict[str, int] = {}
    """Connections at this moment, by proxy: of a backend those that are routed to it."""
    led: dict[str, int] = {}
    """Connections at this moment, by backend, that were led to where the job is now."""
    proxies: frozenset[str] = frozenset()


def read_statistics(text: str) -> Reading:
    """The answer to `show stat`. Raises `ValueError` when it is none."""
    if not text.startswith("# pxname,"):
        raise ValueError(f"no statistics: {text[:100]!r}")
    servers, connections, requests, proxies = [], {}, {}, set()
    standing: dict[str, int] = {}
    led: dict[str, int] = {}
    for row in csv.DictReader(io.StringIO(text.removeprefix("# "))):
        proxy, name = row["pxname"], row["svname"]
        if proxy in OWN_PROXIES or not proxy:
            continue
        proxies.add(proxy)
        if name == "FRONTEND":
            connections[proxy] = int(row["stot"])
            standing[proxy] = int(row["scur"])
        elif name == "BACKEND":
            if row["mode"] == "http":
                requests[proxy] = int(row["stot"])
                standing[proxy] = int(row["scur"])
        elif name == LEAD:
            led[proxy] = int(row["scur"])
        else:
            servers.append(_server(row))
    return Reading(
        servers=tuple(servers),
        connections=connections,
        requests=requests,
        open=standing,
        led=led,
        proxies=frozenset(proxies),
    )


def _server(row: Mapping[str, str]) -> Seen:
    return Seen(
        key=(row["pxname"], row["svname"]),
        status=row["status"],
        weight=int(row["uweight"] or row["weight"]),
        sessions=int(row["scur"]),
        failures=sum(int(row[column] or 0) for column in ("econ", "wretr", "wredis")),
    )


def orders(wanted: Mapping[Key, Server], seen: Collection[Seen], left_out: Collection[Key]) -> Iterator[str]:
    """The commands for the worker that takes new connections. `left_out` of the wanted ones are to get none for now."""
    known = {server.key: server for server in seen}
    for key, server in wanted.items():
        yield from _bring(key, server, known.get(key), out=key in left_out)
    for key, one in known.items():
        if key not in wanted:
            yield from _take_away(one)


class Waiting(msgspec.Struct, frozen=True):
    """Connections to one proxy that wait for a server, and those that were turned away so far."""

    parked: int
    refused: int


def read_waiting(text: str) -> dict[str, Waiting]:
    """The answer to `podium parked` and `podium waits`, by proxy: one line each."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: Waiting(int(row[1]), int(row[2])) for row in rows if len(row) == 3 and "".join(row[1:]).isdigit()}


def leads(wanted: Mapping[Key, Server], waited_for: Collection[str]) -> dict[str, Server]:
    """Where a worker that was replaced is to pass on those who wait in it for these proxies, as far as there is one."""
    return {server.proxy: server for server in reversed(tuple(wanted.values())) if server.proxy in waited_for}


def lead(server: Server) -> str:
    """The command for it."""
    return f"podium lead {server.proxy} {server.address} {server.port}"


def draining(wanted: Collection[Key], seen: Collection[Seen]) -> set[str]:
    """Task ids of servers that are wanted no more and still have connections."""
    return {task_of(server.key[1]) for server in seen if server.key not in wanted and server.sessions}


def _bring(key: Key, server: Server, known: Seen | None, *, out: bool) -> Iterator[str]:
    if known is None:
        name = "/".join(key)
        yield f"add server {name} {server.address}:{server.port} weight {server.weight}{server.options}"
        yield f"enable server {name}"
        return
    if known.weight != server.weight:
        yield f"set server {'/'.join(key)} weight {server.weight}"
    drains = known.status.startswith((_DRAINS, _RESTS))
    if out and not drains:
        yield _state(key, "drain")
    elif drains and not out:
        yield _state(key, "ready")


def _take_away(server: Seen) -> Iterator[str]:
    if server.sessions:
        if not server.status.startswith((_DRAINS, _RESTS)):
            yield _state(server.key, "drain")
        return
    if not server.status.startswith(_RESTS):
        yield _state(server.key, "maint")
    yield f"del server {'/'.join(server.key)}"


def _state(key: Key, state: str) -> str:
    return f"set server {'/'.join(key)} state {state}"
