"""How a further controller gets the cluster's keys: by a token, from the one that leads, which the store names or which
is among those that the operator does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from common.certificates import cluster_of, new_key, signing_request
from common.errors import Conflict, Fault, Invalid, NotLeader, Unauthenticated, Unavailable
from common.grpc_trust import ask
from common.model.joining import Joined, JoinRequest
from common.pinning import pinned_authority
from common.tokens import JOIN, Token, parse_token
from controller.security.sealing import ClusterKey
from controller.store.interface import Store

logger = logging.getLogger(__name__)

_ANSWER_S = 5.0
_AGAIN_S = 1.0


async def keys_by_token(
    text: str, store: Store, controller_id: str, ask_at: tuple[str, ...] = ()
) -> tuple[ClusterKey, ...]:
    """The current key first. Waits for somebody to lead; `ask_at` are addresses to try instead of the leader's own.

    Raises `Invalid` for a token of another cluster or for agents, or one that does not count.
    """
    token, own, complaint = parse_token(text, JOIN), new_key(), ""
    while True:
        leader = await _leader(store)
        reasons = []
        for address in ask_at or (leader,):
            try:
                return await _asked(address, token, own, controller_id)
            except (Unauthenticated, Conflict) as error:
                raise Invalid([Fault(path="join", text=str(error))]) from None
            except (NotLeader, Unavailable) as error:
                reasons.append(f"{address}: {error}")
        if "; ".join(reasons) != complaint:
            complaint = "; ".join(reasons)
            logger.warning("this controller cannot join yet: %s", complaint)
        await asyncio.sleep(_AGAIN_S)


async def _leader(store: Store) -> str:
    """Its address, once there is one."""
    async with aclosing(store.observe_leader()) as seen:  # type: ignore[type-var]  # every backend's is a generator
        async for leader in seen:
            if leader is not None:
                return leader.address
    raise AssertionError("the leader is observed without end")


async def _asked(address: str, token: Token, own: str, controller_id: str) -> tuple[ClusterKey, ...]:
    authority = await pinned_authority(address, token.pin, timeout_s=_ANSWER_S)
    request = JoinRequest(
        token_id=token.id, secret=token.secret, signing_request=signing_request(own), id=controller_id
    )
    joined = await ask(
        address,
        "Join",
        request,
        Joined,
        cluster_id=cluster_of(authority),
        authorities=(authority,),
        timeout_s=_ANSWER_S,
    )
    if not joined.cluster_keys:
        text = "this token is for agents; `podium token create --role controller` makes one for controllers"
        raise Invalid([Fault(path="join", text=text)])
    return tuple(ClusterKey(secret=secret) for secret in joined.cluster_keys)
