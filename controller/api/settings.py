"""The bounds of what a controller serves, each with its unit and its reason: no flood of one side takes others' turn.

What agents may send within their sessions is bounded in `controller.dispatcher.settings`.
"""

from __future__ import annotations

import msgspec


class ServerBounds(msgspec.Struct, frozen=True, kw_only=True):
    """Of the gRPC server."""

    connections: int = 12_000
    """Twice the nodes one leader is measured with, and people: beyond that new ones are refused, old ones served."""
    handshake_s: float = 5.0
    """For TLS and HTTP/2 to be agreed on: who has not by then is cut off, and does not hold a connection's place."""
    idle_s: float = 120.0
    """A connection without any call is closed after so long. A program that calls again connects again."""
    calls: int = 20_000
    """At once, of all connections. A session is one call; the rest answers in milliseconds."""
    calls_per_connection: int = 128
    """At once; a program that makes more waits for its own earlier ones."""
    streams_per_caller: int = 256
    """Open at once of one user (without access control: of one address): a stream may last for days, and holds what
    was not read yet."""
    unsaid_per_caller: int = 256
    """Calls of one user or machine that have begun and whose request has not come as a whole."""
    unsaid_per_address: int = 512
    """The same of those who have shown nothing, for each address: hundreds of machines join at once from behind one."""
    unsaid_by_strangers: int = 4_096
    """The same from everywhere: a fifth of `calls`, so that whoever shows a token finds a place."""
    request_s: float = 60.0
    """From the beginning of a call to the whole of its request, which is at most 4 MiB: a slow line takes a while."""
    request_of_strangers_s: float = 5.0
    """The same of who has shown nothing, and may ask for nothing but what is a few KiB."""
    public_per_address: int = 32
    """Calls of health and reflection at once, which anybody may ask: one for each service that is watched, twice."""
    public: int = 1_024
    """The same from everywhere."""
    public_s: float = 60.0
    """For the next request of a stream of reflection."""
    keepalive_s: float = 30.0
    """A silent connection is asked after so long: agents acknowledge by themselves, laptops go to sleep."""
    keepalive_timeout_s: float = 10.0
    """For the answer."""
    ping_interval_s: float = 1.0
    """Clients may ask as often whether a silent connection still lives ..."""
    ping_strikes: int = 20
    """... and are cut off after so many that came sooner: an honest one's may come in a bunch after a pause of the
    machine."""


SERVER_BOUNDS = ServerBounds()
