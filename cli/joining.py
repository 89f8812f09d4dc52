"""An agent on the machine of its cluster, started by the same user, needs to be told nothing: it joins by that user's
own right. Elsewhere somebody hands it a token.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping

import msgspec

from agent.settings import AgentSettings
from cli.messages import say
from client.client import Client
from client.contexts import Context
from client.local import found
from client.settings import ClientSettings
from common.model.trust import Kind
from common.tls import is_loopback

_TTL_S = 600.0
"""The agent joins at once."""
_LOOK_S = 0.5
_LOOKS_IN_SILENCE = 10
"""A controller that is started beside it takes a few seconds."""


def with_a_right_to_join(settings: AgentSettings, environ: Mapping[str, str]) -> AgentSettings:
    """`settings`, as those of a node that may connect; waits for a cluster of this user to begin on this machine.

    Raises what `Client` raises.
    """
    if settings.insecure or settings.tls is not None or settings.member:
        return settings
    known = found(environ, settings.controllers)
    if known is None and not all(map(is_loopback, settings.controllers)):
        return settings
    return _by(settings, known or _awaited(settings, environ))


def _awaited(settings: AgentSettings, environ: Mapping[str, str]) -> Context:
    for look in itertools.count():
        known = found(environ, settings.controllers)
        if known is not None:
            return known
        if look == _LOOKS_IN_SILENCE:
            where = ", ".join(settings.controllers)
            say(f"waiting for a cluster that you start at {where}: give --join TOKEN (`podium token create`) to join")
            say("somebody else's, or --insecure for one without TLS")
        time.sleep(_LOOK_S)
    raise AssertionError("it is looked for without end")


def _by(settings: AgentSettings, known: Context) -> AgentSettings:
    if known.insecure:
        return msgspec.structs.replace(settings, insecure=True)
    own = ClientSettings(controllers=settings.controllers, token=known.token, authority=known.authority, insecure=True)
    return msgspec.structs.replace(settings, join_token=asyncio.run(_token(own, settings.count)))


async def _token(own: ClientSettings, uses: int) -> str:
    async with Client(own) as client:
        return (await client.trust.create_token(Kind.AGENT, _TTL_S, uses)).token
