"""Who is let in: by a certificate or a token that counts, and for nothing that its right does not cover."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

import msgspec
import pytest

from common.certificates import facts, fingerprint, new_key, signing_request
from common.errors import Forbidden, PodiumError, Unauthenticated
from common.identity import Identity
from common.model.api import ApplyRequest, JobRef, JobsRequest, ListJobs, ScaleRequest, ScaleTarget, TaskRef
from common.model.trust import Denied, Kind, Role, User
from common.tokens import USER, Token
from controller.api.gate import Gate
from controller.api.touched import namespaces_of
from controller.core.rights import Everybody, Machine, Nobody, Person
from controller.security.authority import issue, new_authority
from controller.security.sealing import ClusterKey, KeyRing
from controller.security.tokens import digest_of, new_secret
from controller.state import State, Write
from tests.builders import job, job_spec, task

NOW_S = 1_800_000_000.0
RING = KeyRing([ClusterKey(secret=b"k" * 32)])
AUTHORITY = new_authority(RING, NOW_S, random.Random(1))
SECRET = new_secret()
GATE = Gate(guarded=True, clock=lambda: NOW_S)


class Call:
    """What gRPC would know of a call."""

    def __init__(self, certificate: str = "", shown: str = "") -> None:
        self._certificate, self._shown = certificate, shown

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return {"x509_pem_cert": [self._certificate.encode()]} if self._certificate else {}

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        return (("authorization", self._shown),) if self._shown else ()


def state(*users: User) -> State:
    return State.of([AUTHORITY, *users])


def user(**fields: object) -> User:
    made = User(name="ann", role=Role.DEPLOYER, digest=digest_of(SECRET))
    return msgspec.structs.replace(made, **fields)


def bearer(name: str = "ann", secret: str = SECRET) -> Call:
    token = Token(purpose=USER, id=name, secret=secret, pin=fingerprint(AUTHORITY.certificates[0]))
    return Call(shown=f"Bearer {token}")


def certificate(kind: Kind = Kind.AGENT, *, authority: object = None) -> str:
    own = AUTHORITY if authority is None else authority
    assert isinstance(own, type(AUTHORITY))
    identity = Identity(cluster_id=own.cluster_id, kind=kind, id="n1")
    return issue(RING, own, identity, signing_request(new_key()), NOW_S)


def admit(known: State, call: Call, name: str = "Jobs/Apply", namespaces: frozenset[str] | None = None) -> object:
    return GATE.admit(known, call, name, lambda: namespaces)


def refused(
    known: State, call: Call, name: str = "Jobs/Apply", namespaces: frozenset[str] | None = None
) -> PodiumError:
    with pytest.raises(PodiumError) as error:
        admit(known, call, name, namespaces)
    return error.value


def test_a_token_makes_its_user() -> None:
    assert admit(state(user()), bearer()) == Person(name="ann", role=Role.DEPLOYER)


@pytest.mark.parametrize(
    ("known", "call", "said"),
    [
        (state(user()), bearer(secret=new_secret()), "no user 'ann' with this token"),
        (state(user()), bearer(name="bob"), "no user 'bob' with this token"),
        (state(user(expires_at_s=NOW_S)), bearer(), "has expired"),
        (state(user()), Call(shown="Bearer nonsense"), "not a token"),
        (state(user()), Call(shown="Basic YTpi"), "not a token"),
        (state(), bearer(), "no user"),
        (state(user()), Call(), "nobody may apply job"),
    ],
)
def test_a_token_that_does_not_count_makes_nobody(known: State, call: Call, said: str) -> None:
    error = refused(known, call)
    assert isinstance(error, Unauthenticated)
    assert said in str(error)
    assert SECRET not in str(error)


def test_a_token_that_has_not_expired_counts() -> None:
    assert admit(state(user(expires_at_s=NOW_S + 1)), bearer())


def test_a_role_elsewhere_is_forbidden_and_not_unknown() -> None:
    known = state(user(namespaces=("shop",)))
    assert admit(known, bearer(), namespaces=frozenset({"shop"}))
    assert isinstance(refused(known, bearer(), namespaces=frozenset({"blog"})), Forbidden)
    assert isinstance(refused(known, bearer(), "Nodes/Drain"), Forbidden)


def test_an_agents_certificate_opens_sessions_and_nothing_else() -> None:
    call = Call(certificate())
    assert GATE.agent(state(), call) == "n1"
    assert isinstance(refused(state(), call), Forbidden)
    assert isinstance(admit(state(), call, "Trust/Renew"), Machine)


def test_a_certificate_comes_before_a_token() -> None:
    call = Call(certificate(), shown=bearer()._shown)
    assert isinstance(refused(state(user()), call), Forbidden)


@pytest.mark.parametrize("call", [Call(), Call(certificate(Kind.CONTROLLER)), bearer()])
def test_a_session_is_for_agents_only(call: Call) -> None:
    for known in (state(user()), None):
        with pytest.raises(Forbidden):
            GATE.agent(known, call)


def test_a_denied_certificate_counts_no_more() -> None:
    call = Call(certificate())
    known = state()
    known.apply(Write(Denied(serial=facts(call._certificate).serial, reason="its node was removed", until_s=1.0)))
    with pytest.raises(Unauthenticated, match="its node was removed"):
        GATE.agent(known, call)
    assert isinstance(refused(known, call, "Trust/Renew"), Unauthenticated)


def test_a_certificate_of_another_cluster_counts_nothing() -> None:
    other = new_authority(RING, NOW_S, random.Random(2))
    with pytest.raises(Unauthenticated, match="another cluster"):
        GATE.agent(state(), Call(certificate(authority=other)))


def test_without_access_control_everybody_is_let_in() -> None:
    gate = Gate(guarded=False, clock=lambda: NOW_S)
    assert gate.admit(State(), Call(), "Trust/AddUser", lambda: None) == Everybody()
    assert gate.agent(State(), Call()) is None


def test_what_everybody_may_is_open_to_nobody() -> None:
    assert admit(state(), Call(), "Trust/Join") == Nobody()


# --- which namespaces a request is about


def test_a_request_is_about_every_namespace_it_reaches_by_whatever_name() -> None:
    web = job_spec("shop/web")
    shop, version = job(web)
    only = task(shop)
    known = State.of([shop, version, only])
    here = "blog"
    assert namespaces_of(known, ListJobs()) is None
    assert namespaces_of(known, ListJobs(namespace="blog")) == {"blog"}
    assert namespaces_of(known, JobRef(namespace=here, name="shop/web")) == {"blog", "shop"}
    assert namespaces_of(known, JobRef(namespace=here, name="later/none")) == {"blog", "later"}
    assert namespaces_of(known, JobRef(namespace=here, name=shop.id[:12])) == {"blog", "shop"}
    assert namespaces_of(known, TaskRef(namespace=here, name=only.id)) == {"blog", "shop"}
    assert namespaces_of(known, JobsRequest(namespace=here, jobs=("x", "shop/web"))) == {"blog", "shop"}
    scaled = ScaleRequest(namespace=here, targets=(ScaleTarget(job="shop/web", replicas=0),))
    assert namespaces_of(known, scaled) == {"blog", "shop"}
    assert namespaces_of(known, ApplyRequest(namespace=here, specs=(web,))) == {"blog", "shop"}
