"""Certificates name who holds them and nothing else; successors are believed by those that know only the one before."""

from __future__ import annotations

import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from common.certificates import (
    cluster_of,
    facts,
    fingerprint,
    load_certificate,
    load_key,
    new_key,
    renew_at_s,
    signed_by,
    signing_request,
)
from common.errors import Invalid
from common.identity import Identity, parse_identity, server_name
from common.model.trust import Authority, Kind
from controller.core.joining import CERTIFICATE_S
from controller.security.authority import (
    BACKDATED_S,
    forgotten,
    issue,
    new_authority,
    rewrapped,
    settled,
    successor,
)
from controller.security.sealing import ClusterKey, KeyRing

NOW_S = 1_800_000_000.0
RING = KeyRing([ClusterKey(secret=b"k" * 32)])
END = "-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority(RING, NOW_S, random.Random(1))


def identity(authority: Authority, kind: Kind = Kind.AGENT, name: str = "n1") -> Identity:
    return Identity(cluster_id=authority.cluster_id, kind=kind, id=name)


def names(pem: str) -> list[str]:
    extension = load_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def test_the_private_key_lies_sealed(authority: Authority) -> None:
    assert b"PRIVATE" not in authority.private_key.ciphertext
    assert RING.open("authority", authority.private_key).startswith(b"-----BEGIN PRIVATE KEY-----")


def test_a_certificate_says_who_holds_it_and_for_how_long(authority: Authority) -> None:
    pem = issue(RING, authority, identity(authority), signing_request(new_key()), NOW_S)
    known = facts(pem)
    assert known.identity == identity(authority)
    assert known.not_before_s == NOW_S - BACKDATED_S
    assert known.not_after_s == NOW_S + CERTIFICATE_S
    assert signed_by(pem, authority.certificates[0])
    assert not load_certificate(pem).subject


def test_only_controllers_carry_the_name_that_is_dialled(authority: Authority) -> None:
    controller = issue(RING, authority, identity(authority, Kind.CONTROLLER), signing_request(new_key()), NOW_S)
    agent = issue(RING, authority, identity(authority), signing_request(new_key()), NOW_S)
    assert names(controller) == ["controller.podium", server_name(authority.cluster_id)]
    assert names(agent) == ["agent.podium"]


def test_what_a_request_says_of_itself_is_ignored(authority: Authority) -> None:
    key = load_key(new_key())
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "controller")]))
    claimed = x509.SubjectAlternativeName([x509.DNSName(server_name(authority.cluster_id))])
    builder = builder.add_extension(claimed, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    pem = issue(RING, authority, identity(authority), request, NOW_S)
    assert names(pem) == ["agent.podium"]
    assert not load_certificate(pem).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("request_pem", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "A" * 20_000])
def test_what_is_no_request_is_refused(authority: Authority, request_pem: str) -> None:
    with pytest.raises(Invalid):
        issue(RING, authority, identity(authority), request_pem, NOW_S)


def test_a_request_for_another_key_than_signed_it_is_refused(authority: Authority) -> None:
    one, other = signing_request(new_key()), signing_request(new_key())
    body, tail = one.splitlines(), other.splitlines()
    mixed = "\n".join([*body[:-2], tail[-2], body[-1]]) + "\n"
    with pytest.raises(Invalid):
        issue(RING, authority, identity(authority), mixed, NOW_S)


def test_another_cluster_key_signs_nothing(authority: Authority) -> None:
    stranger = KeyRing([ClusterKey(secret=b"s" * 32)])
    with pytest.raises(Invalid, match="sealed under the cluster key"):
        issue(stranger, authority, identity(authority), signing_request(new_key()), NOW_S)


def test_a_successor_is_believed_by_both_sides_until_it_is_settled(authority: Authority) -> None:
    later = successor(RING, authority, NOW_S + 10)
    chain = issue(RING, later, identity(later), signing_request(new_key()), NOW_S + 10)
    assert later.cluster_id == authority.cluster_id
    assert signed_by(chain, later.certificates[0])
    assert not signed_by(chain, authority.certificates[0])
    bridge = chain.split("-----END CERTIFICATE-----\n", 1)[1]
    assert signed_by(bridge, authority.certificates[0])
    assert load_certificate(bridge).public_key() == load_certificate(later.certificates[0]).public_key()
    assert later.certificates[1:] == authority.certificates
    done = settled(later)
    assert (done.certificates, done.retired) == (later.certificates[:1], authority.certificates)
    assert done.bridges == later.bridges  # people go by the one before for as long as they like
    gone = forgotten(done)
    assert (gone.retired, gone.bridges) == ((), ())


def test_whoever_knows_the_first_authority_finds_the_third(authority: Authority) -> None:
    second = settled(successor(RING, authority, NOW_S + 10))
    third = settled(successor(RING, second, NOW_S + 20))
    assert third.retired == (*second.certificates, *authority.certificates)
    chain = issue(RING, third, identity(third), signing_request(new_key()), NOW_S + 20)
    _, to_second, to_first = (one + END for one in chain.split(END)[:-1])
    assert signed_by(to_second, second.certificates[0])
    assert signed_by(to_first, authority.certificates[0])


def test_a_new_cluster_key_takes_the_authority_over(authority: Authority) -> None:
    both = KeyRing([ClusterKey(secret=b"n" * 32), *RING.keys])
    moved = rewrapped(both, authority)
    assert moved is not None
    assert moved.certificates == authority.certificates
    assert KeyRing(both.keys[:1]).open("authority", moved.private_key)
    assert rewrapped(both, moved) is None


def test_renewals_are_spread_over_the_middle_of_a_life() -> None:
    rng = random.Random(3)
    moments = [renew_at_s(0.0, 100.0, rng) for _ in range(200)]
    assert 50 <= min(moments) < 53
    assert 77 < max(moments) <= 80


def test_an_authority_says_whose_it_is(authority: Authority) -> None:
    assert cluster_of(authority.certificates[0]) == authority.cluster_id
    for chain in (issue(RING, authority, identity(authority), signing_request(new_key()), NOW_S), "nonsense"):
        with pytest.raises(Invalid):
            cluster_of(chain)


def test_fingerprints_tell_authorities_apart(authority: Authority) -> None:
    other = new_authority(RING, NOW_S, random.Random(2))
    assert fingerprint(authority.certificates[0]) != fingerprint(other.certificates[0])
    assert other.cluster_id != authority.cluster_id


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://c/agent/",
        "spiffe://c/agent/a/b",
        "spiffe://c/agent/a\n",
        "spiffe://c/user/a",
        "spiffe://C/agent/a",
        "spiffe://c/agent/../controller",
        "http://c/agent/a",
        "spiffe://c/agent/\u0430",
        "spiffe://c/agent/" + "a" * 64,
    ],
)
def test_identities_are_read_exactly(uri: str) -> None:
    with pytest.raises(Invalid):
        parse_identity(uri)


def test_an_identity_is_its_uri() -> None:
    known = Identity(cluster_id="c1", kind=Kind.CONTROLLER, id="x-1")
    assert parse_identity(str(known)) == known
