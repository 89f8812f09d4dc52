"""Who a certificate speaks for: its SPIFFE URI names the cluster, the kind of its holder and its id; nothing else does.

    spiffe://<cluster id>/agent/<node id>
    spiffe://<cluster id>/controller/<controller id>

(SPIFFE-ID: one URI in the subject alternative name; the rest of the certificate says nothing about identity.)
"""

from __future__ import annotations

import re

import msgspec

from common.errors import Invalid
from common.model.trust import Kind

_URI = re.compile(r"spiffe://([a-z0-9][a-z0-9-]{0,62})/(agent|controller)/([a-z0-9][a-z0-9-]{0,62})")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    cluster_id: str
    kind: Kind
    id: str

    def __str__(self) -> str:
        return f"spiffe://{self.cluster_id}/{self.kind.value}/{self.id}"


def parse_identity(uri: str) -> Identity:
    """The identity that `uri` names. Raises `Invalid` for anything but exactly such a URI."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise Invalid(f"{uri[:200]!r} is not the URI of an agent or a controller")
    cluster_id, kind, identifier = match.groups()
    return Identity(cluster_id=cluster_id, kind=Kind(kind), id=identifier)


def trust_domain(cluster_id: str) -> str:
    """The URI that a cluster's authority carries, without a path (SPIFFE's trust domain)."""
    return f"spiffe://{cluster_id}"


def server_name(cluster_id: str) -> str:
    """The DNS name that every controller's certificate carries and no agent's does: what whoever dials one asks for.

    Machines change addresses and hide behind others; a cluster's id it keeps.
    """
    return f"{cluster_id}.podium"


def http_name(kind: Kind) -> str:
    """The DNS name for whoever asks a machine's HTTP port, and believes no authority but the cluster's: the same in all
    clusters, so that a scraper's configuration can say it before there is one."""
    return f"{kind.value}.podium"
