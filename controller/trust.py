"""A controller's part in what the cluster trusts: the cluster keys it was given, and the certificate it shows.

Follows the authority that the store holds, whoever leads, and renews its own certificate in time. Never writes to the
store: the authority is made by whoever leads (`controller.loops.authority`).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from common.certificates import fingerprint, key_digest, random_serial, requested_key
from common.errors import Fault, Invalid, Unavailable
from common.http_tls import http_context, show
from common.identity import Identity
from common.model.ids import Rng
from common.model.joining import Joined
from common.model.trust import Authority, Enrolment, Kind, NextKey, User
from common.private_files import read_private, write_private
from common.token_file import awaited_token
from common.tokens import JOIN, USER, Token
from controller.core.secrets import digest_of, matches
from controller.joining import keys_by_token
from controller.ledger import Ledger
from controller.loops.authority import AuthorityLoop
from controller.security.authority import forgotten, issue, rewrapped, successor
from controller.security.cluster_key import begin_keys, read_keys, write_keys
from controller.security.own_certificate import OwnCertificate
from controller.security.sealing import ClusterKey, KeyRing, new_cluster_key
from controller.security.tokens import FIRST_USER, derived_secret, first_secret, http_secret
from controller.security.vault import Vault
from controller.settings import Timers
from controller.store.interface import Store
from controller.store.keys import AUTHORITY, NEXT_KEY, Record, check_record

logger = logging.getLogger(__name__)

FIRST_USER_FILE = "admin.token"
HTTP_FILE = "http.token"
AUTHORITY_FILE = "ca.pem"
"""Whom to believe where this controller's HTTP is TLS, for whoever scrapes it."""
_KEPT_LIMIT_BYTES = 64 * 1024
UNKNOWN_LOOK_S = 0.2
"""Until the cluster's authority is known nobody can be served."""
KNOWN_LOOK_S = 10.0
"""A restored store may bring another authority; nothing hangs on hearing of it sooner."""
STORE_LOOK_S = 1.0
"""A store that does not answer is asked again."""


class JoinToken(NamedTuple):
    """As it was given, or the file that holds it or will; neither: none."""

    text: str = ""
    file: str = ""
    at: tuple[str, ...] = ()
    """Whom to ask, where the leader's own address does not lead to it from here."""

    async def read(self) -> str:
        return await awaited_token(Path(self.file), JOIN) if self.file else self.text


async def key_ring(path: Path, store: Store, token: JoinToken, controller_id: str) -> KeyRing:
    """The cluster keys in the file; a new file for a cluster that has no authority yet, or that is joined by `token`.
    Waits for the store.

    Raises `Invalid` for a file that cannot be used, and when the cluster has an authority that no key was given for.
    """
    keys = read_keys(path)
    if (token.text or token.file) and not await _open(keys, store):
        keys = await keys_by_token(await token.read(), store, controller_id, token.at)
        write_keys(path, keys)
        logger.info("this controller joined, and keeps the cluster's keys in %s", path)
    if not keys:
        if await _authority(store) is not None:
            text = (
                f"{path} is not there, and this cluster has keys: join by a token (--join TOKEN, from `podium token "
                "create --role controller`), or copy the file of one of its other controllers"
            )
            raise Invalid([Fault(path="cluster_key", text=text)])
        keys = begin_keys(path)
        logger.info("a new cluster key was written to %s: give each further controller a copy, and keep one", path)
    return KeyRing(keys)


async def _open(keys: tuple[ClusterKey, ...], store: Store) -> bool:
    """Whether one of them is the cluster's by now: it may have been replaced while this controller was away."""
    authority = await _authority(store)
    return bool(keys) and (authority is None or authority.private_key.key_id in {key.id for key in keys})


class ClusterTrust:
    """`clock` is Unix time; `run` lasts as long as the controller."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        controller_id: str,
        *,
        clock: Callable[[], float],
        rng: Rng,
        key_file: Path | None = None,
    ) -> None:
        """Beside `key_file` lie the tokens for whoever keeps this controller, the first user's and that for HTTP, and
        the authority."""
        self.ring = ring
        self.vault = Vault(ring)
        self.first_token = ""
        """Of the first user, for as long as it counts and we can tell it; empty otherwise."""
        self.own = OwnCertificate(ring, controller_id, clock=clock, rng=rng)
        self.http: ssl.SSLContext = http_context()
        """Of an HTTP listener that other machines reach."""
        self.known = asyncio.Event()
        """Set once the cluster's authority is known, and with it a certificate that others believe."""
        self._store = store
        self._key_file = key_file
        self._look = asyncio.Event()
        show(self.http, self.own.shown.key, self.own.shown.chain)
        self._keep(HTTP_FILE, http_secret(ring.current))

    def loop(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], float],
        rng: Rng,
        timers: Timers,
        connected: Callable[[], Container[str]],
    ) -> AuthorityLoop:
        """The part of a term that keeps the cluster's authority."""
        return AuthorityLoop(
            ledger,
            self.ring,
            clock=clock,
            rng=rng,
            timers=timers,
            connected=connected,
            use_key=self._use_key,
            changed=self._look.set,
        )

    # --- what it does for the `Trust` service

    def signed(self, authority: Authority, enrolment: Enrolment, signing_request: str, now_s: float) -> Joined:
        """What a machine becomes: its certificate, and for a controller the cluster keys. Raises `Invalid`."""
        identity = Identity(cluster_id=authority.cluster_id, kind=enrolment.kind, id=enrolment.id)
        keys = self.ring.keys if enrolment.kind is Kind.CONTROLLER else ()
        return Joined(
            cluster_id=authority.cluster_id,
            kind=enrolment.kind,
            id=enrolment.id,
            chain=issue(
                self.ring, authority, identity, signing_request, now_s, serial=int(enrolment.latest.serial, 16)
            ),
            certificates=authority.certificates,
            cluster_keys=tuple(key.secret for key in keys),
        )

    def new_serial(self) -> str:
        """Of the next certificate, hexadecimal."""
        return f"{random_serial():x}"

    def digest_of_key(self, signing_request: str) -> str:
        """By which its holder is known again. Raises `Invalid` for what is no request."""
        return key_digest(requested_key(signing_request))

    def pin(self, authority: Authority) -> str:
        """By which a token names the cluster."""
        return fingerprint(authority.certificates[0])

    def secret(self, purpose: str) -> str:
        """The same for the same purpose, whoever leads; a fresh one for none."""
        return derived_secret(self.ring.current, purpose)

    def reads_http(self, secret: str) -> bool:
        """Whether it is the token for probes and scrapers; that of a cluster key being left behind is, too."""
        return any(matches(digest_of(http_secret(key)), secret) for key in self.ring.keys)

    def next_authority(self, authority: Authority, now_s: float) -> Authority:
        return successor(self.ring, authority, now_s)

    def forgotten(self, authority: Authority) -> Authority:
        return forgotten(authority)

    def next_key(self, now_s: float) -> NextKey:
        """A new cluster key, for all controllers to read."""
        key = new_cluster_key()
        return NextKey(id=key.id, sealed=self.ring.seal(NEXT_KEY, key.secret), created_at_s=now_s)

    def take_new_key(self) -> None:
        """A cluster key that no other controller has, kept and sealed under from now on."""
        key = new_cluster_key()
        self.ring.know(key)
        self._use_key(key.id)

    def resealed(self, authority: Authority) -> Authority:
        """Under the key that we seal under now; what else is sealed follows the authority."""
        return rewrapped(self.ring, authority) or authority

    # --- keeping up

    async def run(self) -> None:
        """Raises `Invalid` when the authority is sealed under a key that we were not given."""
        while True:
            self._look.clear()
            coming = await self._learn_key()
            authority = await _authority(self._store)
            if authority is not None:
                self._follow_key(authority.private_key.key_id, coming)
            if authority is not None and self.own.believe(authority):
                show(self.http, self.own.shown.key, self.own.shown.chain)
                self._keep(AUTHORITY_FILE, self.own.shown.roots.rstrip())
                await self._find_first_token(authority)
                self.known.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(KNOWN_LOOK_S if self.known.is_set() else UNKNOWN_LOOK_S):
                    await self._look.wait()

    async def _learn_key(self) -> NextKey | None:
        """The cluster key that comes next, while it lies in the store: under one that we have."""
        coming = await _record(self._store, NEXT_KEY)
        assert coming is None or isinstance(coming, NextKey), "its key says so"
        if coming is None or self.ring.knows(coming.id) or not self.ring.knows(coming.sealed.key_id):
            return coming
        self.ring.know(ClusterKey(secret=self.ring.open(NEXT_KEY, coming.sealed)))
        self._keep_keys()
        logger.info("a new cluster key is known, and kept in %s", self._key_file)
        return coming

    def _follow_key(self, key_id: str, coming: NextKey | None) -> None:
        """Seal under the key that the leader seals under; never back to one that is being replaced."""
        if self.ring.knows(key_id) and (coming is None or coming.id == key_id):
            self._use_key(key_id)

    def _use_key(self, key_id: str) -> None:
        if self.ring.current.id != key_id:
            self.ring.use(key_id)
            self._keep_keys()
            self._keep(HTTP_FILE, http_secret(self.ring.current))
            logger.info("what the store must not read is sealed under the cluster key %s from now on", key_id)

    def _keep_keys(self) -> None:
        if self._key_file is not None:
            write_keys(self._key_file, self.ring.keys)

    async def _find_first_token(self, authority: Authority) -> None:
        """By the record of its user: it may have been removed, or a restored store may have another one."""
        user = await _record(self._store, f"users/{FIRST_USER}")
        secrets = [first_secret(key) for key in self.ring.keys]
        assert user is None or isinstance(user, User), "its key says so"
        right = next((secret for secret in secrets if user is not None and matches(user.digest, secret)), "")
        token = Token(purpose=USER, id=FIRST_USER, secret=right, pin=self.pin(authority))
        self.first_token = str(token) if right else ""
        if right and self._keep(FIRST_USER_FILE, self.first_token):
            logger.info("the first user, who may do everything, has its token beside %s", self._key_file)

    def _keep(self, name: str, text: str) -> bool:
        """For the operator's eyes alone; whether it was not there."""
        if self._key_file is None:
            return False
        path = self._key_file.with_name(name)
        if read_private(path, limit_bytes=_KEPT_LIMIT_BYTES) == text + "\n":
            return False
        write_private(path, text + "\n")
        return True


async def _authority(store: Store) -> Authority | None:
    """Of the cluster, as the store has it; waits until the store answers."""
    record = await _record(store, AUTHORITY)
    assert record is None or isinstance(record, Authority), "its key says so"
    return record


async def _record(store: Store, key: str) -> Record | None:
    complaint = ""
    while True:
        try:
            content = await store.get(key)
        except Unavailable as error:
            if str(error) != complaint:
                complaint = str(error)
                logger.warning("cannot see whom the cluster believes: %s", error)
            await asyncio.sleep(STORE_LOOK_S)
            continue
        return None if content is None else check_record(key, content)
