"""The certificate that this controller shows, and whom it believes; made by itself, since it holds the cluster key.

Before the authority is known there is a throw-away one that nobody believes: listeners are up from the start, and
whoever dials so early is turned away by its own side of the handshake and comes again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from common.certificates import facts, new_key, renew_at_s, signing_request
from common.identity import Identity
from common.model.ids import Rng
from common.model.trust import Authority, Kind
from controller.security.authority import issue, new_authority
from controller.security.sealing import KeyRing, new_cluster_key


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a TLS listener needs; PEM."""

    key: str
    chain: str
    """Our certificate, what leads from it to older authorities, and all of these, for those that know a digest."""
    roots: str
    """Every authority that is believed."""


class OwnCertificate:
    """`clock` is Unix time. `shown` is replaced as a whole and may be read at any time."""

    def __init__(self, ring: KeyRing, controller_id: str, *, clock: Callable[[], float], rng: Rng) -> None:
        self._ring = ring
        self._controller_id = controller_id
        self._clock = clock
        self._rng = rng
        self._renew_at_s = 0.0
        nobodys = KeyRing([new_cluster_key()])
        self.shown = self._issued(nobodys, new_authority(nobodys, clock(), rng))
        self.authority: Authority | None = None
        """Whose certificate this is; None while it is the throw-away one."""

    def believe(self, authority: Authority) -> bool:
        """Follow the cluster's authority; whether anything changed. Also renews in time, so ask again now and then.

        Raises `Invalid` when our cluster key is not the one that the authority is sealed under.
        """
        if authority == self.authority and self._clock() < self._renew_at_s:
            return False
        self.shown = self._issued(self._ring, authority)
        self.authority = authority
        return True

    def _issued(self, ring: KeyRing, authority: Authority) -> Shown:
        identity = Identity(cluster_id=authority.cluster_id, kind=Kind.CONTROLLER, id=self._controller_id)
        key = new_key()
        chain = issue(ring, authority, identity, signing_request(key), self._clock())
        known = facts(chain)
        self._renew_at_s = renew_at_s(known.not_before_s, known.not_after_s, self._rng)
        shown = "".join((*authority.certificates, *authority.retired))
        return Shown(key=key, chain=chain + shown, roots="".join(authority.certificates))
