"""What makes this node a member of its cluster: a private key that never leaves it, and a certificate that is renewed.

Kept in one file of the data directory. Joins by a token when there is no certificate, asks for the next one in good
time, and by its key alone when the last one has expired. Everything else on the node goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from common.backoff import Backoff
from common.certificates import facts, fingerprint, new_key, renew_at_s, signing_request
from common.errors import Conflict, Forbidden, Invalid, NotLeader, Unauthenticated, Unavailable
from common.http_tls import http_context, show
from common.model.ids import Rng
from common.model.joining import Doors, Joined, JoinRequest, RecoverRequest, RenewRequest
from common.private_files import read_private, write_private
from common.token_file import awaited_token, token_in
from common.tokens import JOIN, Token, parse_token

logger = logging.getLogger(__name__)

_LIMIT_BYTES = 256 * 1024
_AGAIN = Backoff(first_s=0.5, limit_s=30.0)
"""Between rounds over the controllers."""
_LEAST_WAIT_S = 1.0
_LOOK_S = 3_600.0
"""The wall clock may be set meanwhile; a day is left for each of several tries."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What the node shows, and whom it believes; PEM."""

    cluster_id: str
    key: str
    chain: str
    authorities: tuple[str, ...]
    signer: str = ""
    """Fingerprint of the authority that signed it."""
    token_id: str = ""
    """By which it joined: another one is for joining anew."""
    next_key: str = ""
    """That the next certificate was asked for: kept before it is, or a lost answer would lock the node out."""

    def __repr__(self) -> str:
        return f"Certificate(of {self.cluster_id})"


class Trust(Protocol):
    """The calls of the `Trust` service that an agent makes. All raise `Unavailable` when nobody answers in time,
    `NotLeader`, and the refusals of the service."""

    async def authority(self, address: str, pin: str) -> str:
        """The authority that the controller at `address` shows, and that has this digest."""

    async def doors(self, address: str, own: Certificate) -> Doors: ...

    async def join(self, address: str, authority: str, request: JoinRequest) -> Joined: ...

    async def renew(self, address: str, own: Certificate, request: RenewRequest) -> Joined: ...

    async def recover(self, address: str, own: Certificate, request: RecoverRequest) -> Joined: ...


class Membership:
    """`controllers` are the addresses that the operator gave; `clock` is Unix time."""

    def __init__(
        self,
        path: Path,
        node_id: str,
        controllers: tuple[str, ...],
        trust: Trust,
        *,
        clock: Callable[[], float],
        rng: Rng,
    ) -> None:
        """Raises `Invalid` for a file that cannot be read, or that others may read."""
        self._path = path
        self._node_id = node_id
        self._controllers = controllers
        self._trust = trust
        self._clock = clock
        self._rng = rng
        self._doors: dict[str, str] = {}
        self.ready = asyncio.Event()
        """Set once the node has joined: before, no controller knows it."""
        self._due_now = asyncio.Event()
        self._http: ssl.SSLContext | None = None
        self._own = _read(path)
        if self._own is not None:
            self.ready.set()
        self._renew_at_s = self._due(self._own)

    @property
    def joined(self) -> bool:
        return self._own is not None

    @property
    def own(self) -> Certificate:
        assert self._own is not None, "the node has joined"
        return self._own

    def http_context(self) -> ssl.SSLContext:
        """Of an HTTP listener: shows what the node has, once it has joined, and what it is given from then on."""
        self._http = http_context()
        self._show()
        return self._http

    def _show(self) -> None:
        if self._http is not None and self._own is not None:
            show(self._http, self._own.key, self._own.chain)

    async def _join(self, text: str) -> None:
        """Become a member by a token; waits for a controller that leads. Raises `Invalid`, `Unauthenticated` or
        `Conflict` when that will never be."""
        token, new = parse_token(text, JOIN), new_key()

        async def ask(address: str) -> tuple[str, Joined]:
            authority = await self._trust.authority(address, token.pin)
            try:
                return new, await self._trust.join(address, authority, self._request(token, new))
            except Conflict:  # the cluster knows this node, by a key that may still be its own
                if self._own is None:
                    raise
                return self._own.key, await self._trust.join(address, authority, self._request(token, self._own.key))

        key, joined = await self._of_the_leader(ask, "join")
        self._keep(joined, key, token.id)
        logger.info("this node joined the cluster %s", joined.cluster_id)

    async def _join_if_let(self, token: str) -> None:
        """A member stays one although a token that somebody left in its settings counts no more."""
        try:
            await self._join(token)
        except (Invalid, Unauthenticated, Conflict) as error:
            if self._own is None:
                raise
            logger.error("this node did not join anew, and goes on with the certificate that it has: %s", error)

    async def _token_in(self, path: Path) -> str:
        """A member does not wait for one, nor ends by one that is none."""
        if self._own is None:
            return await awaited_token(path, JOIN)
        try:
            return token_in(path, JOIN)
        except Invalid as error:
            logger.error("this node goes on with the certificate that it has: %s", error)
            return ""

    def _request(self, token: Token, key: str) -> JoinRequest:
        return JoinRequest(
            token_id=token.id, secret=token.secret, signing_request=signing_request(key), id=self._node_id
        )

    def _wants_to_join(self, token: str) -> bool:
        """A token that it did not join by is given for a reason: it was removed, or is to belong to another cluster."""
        return self._own is None or (bool(token) and parse_token(token, JOIN).id != self._own.token_id)

    async def run(self, token: str = "", token_file: str = "") -> None:
        """Join by `token` unless that is done, then keep the certificate fresh, until cancelled. `token_file` holds it
        instead, and is waited for by who is no member. Raises `Invalid`, `Unauthenticated` or `Conflict` when that will
        never be."""
        if token_file:
            token = await self._token_in(Path(token_file))
        if self._wants_to_join(token):
            await self._join_if_let(token)
        while True:
            if self._clock() >= self._renew_at_s:
                await self._next()
            self._due_now.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(self._renew_at_s - self._clock(), _LEAST_WAIT_S), _LOOK_S)):
                    await self._due_now.wait()

    def renew_unless_of(self, authority: str) -> None:
        """The cluster replaces its authority, and it is this node's turn to have a certificate of the new one."""
        if self._own is not None and self._own.signer != authority:
            self._renew_at_s = min(self._renew_at_s, self._clock())
            self._due_now.set()

    async def door(self, address: str) -> str:
        """Where agents are let in at the controller at `address`; also learns whom the cluster believes by now."""
        if self._own is None:
            raise Unavailable("this node has not joined the cluster yet")
        if address not in self._doors:
            found = await self._trust.doors(address, self.own)
            if found.cluster_id != self.own.cluster_id:
                raise Unavailable(f"{address} belongs to the cluster {found.cluster_id}, this node to another one")
            if found.certificates and found.certificates != self.own.authorities:
                self._save(msgspec.structs.replace(self.own, authorities=found.certificates))
            self._doors[address] = f"{address.rpartition(':')[0]}:{found.agent_port}"
        return self._doors[address]

    def forget_door(self, address: str) -> None:
        """Nobody answered there: it may have moved."""
        self._doors.pop(address, None)

    async def _next(self) -> None:
        """The next certificate, by the present one, or by its key when that has expired."""
        own = self.own
        if not own.next_key:
            own = msgspec.structs.replace(own, next_key=new_key())
            self._save(own)

        async def ask(address: str) -> tuple[str, Joined]:
            if self._clock() < facts(own.chain).not_after_s:
                request = RenewRequest(signing_request=signing_request(own.next_key))
                return own.next_key, await self._trust.renew(await self.door(address), own, request)
            return await self._recovered(address, own)

        try:
            key, joined = await self._of_the_leader(ask, "renew its certificate")
        except (Invalid, Unauthenticated, Forbidden) as error:
            logger.error("this node's certificate was not renewed: %s", error)
            self._renew_at_s = self._clock() + _LOOK_S
            return
        self._keep(joined, key, own.token_id)
        logger.info("this node's certificate was renewed")

    async def _recovered(self, address: str, own: Certificate) -> tuple[str, Joined]:
        """By either key: which of them the cluster knows depends on whether the last answer was lost."""
        for key in (own.next_key, own.key):
            request = RecoverRequest(id=self._node_id, signing_request=signing_request(key))
            try:
                return key, await self._trust.recover(address, own, request)
            except Unauthenticated:
                if key is own.key:
                    raise
        raise AssertionError("one of the two answers or raises")

    async def _of_the_leader(
        self, ask: Callable[[str], Awaitable[tuple[str, Joined]]], what: str
    ) -> tuple[str, Joined]:
        """Ask one controller after the other, and whom they name, until one answers."""
        failures, complaint = 0, ""
        while True:
            waiting = list(self._controllers)
            for address in waiting:
                try:
                    return await ask(address)
                except NotLeader as error:
                    if error.leader and error.leader not in waiting:
                        waiting.append(error.leader)
                    reason = f"controller {address}: {error}"
                except Unavailable as error:
                    self.forget_door(address)
                    reason = f"controller {address}: {error}"
                if reason != complaint:
                    complaint = reason
                    logger.warning("this node cannot %s yet: %s", what, reason)
            failures += 1
            await asyncio.sleep(_AGAIN.full_jitter_s(failures, self._rng))

    def _keep(self, joined: Joined, key: str, token_id: str) -> None:
        self._save(
            Certificate(
                cluster_id=joined.cluster_id,
                key=key,
                chain=joined.chain,
                authorities=joined.certificates,
                signer=fingerprint(joined.certificates[0]),
                token_id=token_id,
            )
        )
        self._renew_at_s = self._due(self._own)

    def _save(self, own: Certificate) -> None:
        write_private(self._path, msgspec.json.encode(own).decode())
        self._own = own
        self._show()
        self.ready.set()

    def _due(self, own: Certificate | None) -> float:
        if own is None:
            return float("inf")
        known = facts(own.chain)
        return renew_at_s(known.not_before_s, known.not_after_s, self._rng)


def _read(path: Path) -> Certificate | None:
    text = read_private(path, limit_bytes=_LIMIT_BYTES)
    if text is None:
        return None
    try:
        own = msgspec.json.decode(text, type=Certificate)
        facts(own.chain)
    except (msgspec.DecodeError, Invalid) as error:
        text = f"{path}: {error}; remove it and join anew (--join TOKEN), what runs here goes on"
        raise Invalid(text) from None
    return own
