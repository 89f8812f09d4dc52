"""Who is let in: by a certificate or a token that counts, and for nothing that its right does not cover."""

from __future__ import annotations

import json
import random
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import pytest

from common.certificates import facts, fingerprint, new_key, signing_request
from common.errors import Forbidden, PodiumError, Unauthenticated
from common.identity import Identity
from common.model.api import ApplyRequest, JobRef, JobsRequest, ListJobs, ScaleRequest, ScaleTarget, TaskRef
from common.model.audit import AuditRecord
from common.model.job import Container, JobSpec, TaskSpec
from common.model.joining import JoinRequest
from common.model.trust import Denied, Kind, Role, User
from common.tokens import USER, Token
from controller.api.gate import Gate
from controller.api.touched import names_of, namespaces_of
from controller.audit import AuditLog, line_of
from controller.core.rights import Everybody, Machine, Nobody, Person
from controller.core.secrets import digest_of
from controller.security.authority import issue, new_authority
from controller.security.sealing import ClusterKey, KeyRing
from controller.security.tokens import new_secret
from controller.state import State, Write
from tests.builders import job, job_spec, task

NOW_S = 1_800_000_000.0
RING = KeyRing([ClusterKey(secret=b"k" * 32)])
AUTHORITY = new_authority(RING, NOW_S, random.Random(1))
SECRET = new_secret()
AUDIT = AuditLog(None, lambda: NOW_S)
GATE = Gate(guarded=True, clock=lambda: NOW_S, audit=AUDIT)


class Call:
    """What gRPC would know of a call."""

    def __init__(self, certificate: str = "", shown: str = "") -> None:
        self._certificate, self._shown = certificate, shown

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return {"x509_pem_cert": [self._certificate.encode()]} if self._certificate else {}

    def peer(self) -> str:
        return "ipv4:10.0.0.9:4711"

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
    (namespace,) = namespaces or ("",)
    return GATE.admit(known, call, name, ListJobs(namespace=namespace))


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


def test_a_token_that_was_replaced_counts_for_as_long_as_was_said() -> None:
    replaced = {"digest": digest_of(new_secret()), "former": digest_of(SECRET)}
    assert admit(state(user(**replaced, former_until_s=NOW_S + 1)), bearer())
    assert isinstance(refused(state(user(**replaced, former_until_s=NOW_S)), bearer()), Unauthenticated)


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
    gate = Gate(guarded=False, clock=lambda: NOW_S, audit=AUDIT)
    assert gate.admit(State(), Call(), "Trust/AddUser", ListJobs()) == Everybody()
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


# --- the audit log


def told() -> AuditRecord:
    (latest,) = AUDIT.latest(1, 0.0)
    return latest


def test_a_write_is_told_with_who_and_what() -> None:
    request = JobsRequest(namespace="shop", jobs=("web",))
    GATE.admit(state(user()), bearer(), "Jobs/Stop", request)
    assert told() == AuditRecord(
        time_s=NOW_S,
        caller="user ann",
        address="ipv4:10.0.0.9:4711",
        verb="stop",
        kind="job",
        namespaces=("shop",),
        names=("web",),
    )


def test_reading_is_not_told_and_a_refused_look_is() -> None:
    known = state(user(role=Role.VIEWER))
    refused(known, bearer(), "Jobs/Stop")
    before = told()
    assert before.refusal == "ann is viewer; to stop job takes deployer"
    admit(known, bearer(), "Jobs/List")
    assert told() == before
    refused(known, bearer(secret=new_secret()), "Jobs/List")
    assert (told().caller, told().verb) == ("nobody", "read")


def test_no_secret_is_told() -> None:
    joining = JoinRequest(token_id="t1", secret=SECRET, signing_request="PEM", id="n1")
    GATE.admit(state(), Call(), "Trust/Join", joining)
    assert told().names == ("n1", "t1")
    container = Container(environment={"PASSWORD": SECRET}, command=("run", SECRET))
    spec = JobSpec(namespace="shop", name="web", task=TaskSpec(container=container))
    GATE.admit(state(user()), bearer(), "Jobs/Apply", ApplyRequest(namespace="shop", specs=(spec,)))
    assert told().names == ("web",)
    assert all(SECRET not in line_of(record) for record in AUDIT.latest(1_000, 0.0))


def test_what_a_caller_names_begins_no_line_of_its_own() -> None:
    request = JobRef(namespace="a", name='x\n{"caller": "user admin"}' + "y" * 500)
    assert len(names_of(request)[0]) == 128
    refused(state(), Call(), "Jobs/Stop", None)
    record = msgspec.structs.replace(told(), names=names_of(request))
    assert line_of(record).count("\n") == 0
    assert json.loads(line_of(record))["allowed"] is False


def test_the_file_is_its_owners_and_holds_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "audit.log"
    log = AuditLog(path, lambda: NOW_S)
    for caller in ("user ann", "agent n1"):
        log.tell(msgspec.structs.replace(told(), caller=caller))
    log.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["caller"] for line in path.read_text().splitlines()] == ["user ann", "agent n1"]
    assert log.latest(1, 0.0)[0].caller == "agent n1"
    assert log.latest(5, NOW_S + 1) == ()


def test_a_disk_that_takes_nothing_costs_no_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(tmp_path / "audit.log", lambda: NOW_S)
    (tmp_path / "audit.log").mkdir()
    for _ in range(2):
        log.tell(told())
    assert len(log.latest(5, 0.0)) == 2
    assert caplog.text.count("cannot be written") == 1
