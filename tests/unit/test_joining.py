"""Who gets a certificate: for a token that counts, with one that does, or by the key of one that did; and whose id."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Conflict, Forbidden, Unauthenticated
from common.model.trust import Denied, Enrolment, Issued, JoinToken, Kind
from controller.core.joining import CERTIFICATES_LIMIT, expelled, forget_at_s, forgettable, joined, recovered, renewed
from controller.state import Group, State

NOW_S = 100.0
LATER_S = 200.0


def token(**fields: object) -> JoinToken:
    made = JoinToken(id="t1", digest="d", kind=Kind.AGENT, created_at_s=0.0, expires_at_s=150.0, uses_left=1)
    return msgspec.structs.replace(made, **fields)


FIRST, NEXT = Issued(serial="a", until_s=LATER_S), Issued(serial="b", until_s=300.0)


def enrolment(key: str = "k1", *certificates: Issued) -> Enrolment:
    return Enrolment(kind=Kind.AGENT, id="n1", key_digest=key, certificates=certificates or (FIRST,))


def join(
    state: State, of: JoinToken | None, *, identifier: str = "n1", key: str = "k1", issued: Issued = FIRST
) -> tuple[Enrolment, Group]:
    return joined(state, of, identifier=identifier, key_digest=key, issued=issued, now_s=NOW_S)


def carried_out(state: State, group: Group) -> None:
    for change in group:
        state.apply(change)


def test_a_token_makes_a_member_and_is_used_up() -> None:
    state = State.of([token()])
    made, group = join(state, token())
    carried_out(state, group)
    assert made == enrolment() == state.enrolments["agent-n1"]
    assert state.join_tokens["t1"].uses_left == 0


@pytest.mark.parametrize("counting", [None, token(expires_at_s=NOW_S), token(uses_left=0)])
def test_all_tokens_that_do_not_count_are_answered_alike(counting: JoinToken | None) -> None:
    with pytest.raises(Unauthenticated) as error:
        join(State(), counting)
    with pytest.raises(Unauthenticated) as other:
        join(State(), None)
    assert str(error.value) == str(other.value)


@given(st.integers(1, 6))
def test_a_join_repeated_after_lost_answers_uses_the_token_once(times: int) -> None:
    state = State.of([token(uses_left=3)])
    given = tuple(Issued(serial=f"{number:x}", until_s=LATER_S) for number in range(times))
    for issued in given:
        made, group = join(state, state.join_tokens["t1"], issued=issued)
        carried_out(state, group)
    assert made == enrolment("k1", *given)
    assert state.join_tokens["t1"].uses_left == 2
    assert len(state.enrolments) == 1


def test_a_repeated_join_is_answered_although_the_token_is_used_up() -> None:
    state = State.of([token(uses_left=0), enrolment()])
    made, _ = join(state, state.join_tokens["t1"], issued=NEXT)
    assert made == enrolment("k1", FIRST, NEXT)


def test_a_token_never_gives_the_id_of_another_machine() -> None:
    with pytest.raises(Conflict, match=r"another machine is agent n1.*a new id"):
        join(State.of([enrolment()]), token(), key="k2")


def test_kinds_have_ids_of_their_own() -> None:
    made, _ = join(State.of([enrolment()]), token(kind=Kind.CONTROLLER), key="k2")
    assert made.kind is Kind.CONTROLLER


def test_a_renewal_takes_the_new_key() -> None:
    state = State.of([enrolment()])
    made, group = renewed(state, Kind.AGENT, "n1", "k2", issued=NEXT, now_s=NOW_S)
    carried_out(state, group)
    assert state.enrolments["agent-n1"] == made == enrolment("k2", FIRST, NEXT)
    assert made.latest == NEXT


def test_certificates_that_have_expired_are_forgotten() -> None:
    made, _ = renewed(State.of([enrolment()]), Kind.AGENT, "n1", "k2", issued=NEXT, now_s=LATER_S)
    assert made.certificates == (NEXT,)


def test_nobody_collects_certificates() -> None:
    many = tuple(Issued(serial=f"{number:x}", until_s=LATER_S) for number in range(CERTIFICATES_LIMIT))
    with pytest.raises(Conflict, match="16 certificates"):
        renewed(State.of([enrolment("k1", *many)]), Kind.AGENT, "n1", "k2", issued=NEXT, now_s=NOW_S)


def test_an_expelled_machine_has_no_certificate_that_counts_and_no_key() -> None:
    state = State.of([enrolment("k1", Issued(serial="old", until_s=NOW_S), FIRST, NEXT)])
    carried_out(state, expelled(state.enrolments["agent-n1"], "gone", NOW_S))
    assert set(state.denied) == {"a", "b"}
    assert state.denied["b"].until_s == 300.0
    with pytest.raises(Unauthenticated):
        recovered(state, "n1", "k1", issued=NEXT, now_s=NOW_S)


def test_a_removed_machine_renews_nothing() -> None:
    with pytest.raises(Forbidden, match="was removed"):
        renewed(State(), Kind.AGENT, "n1", "k1", issued=NEXT, now_s=NOW_S)


def test_the_key_of_an_expired_certificate_gets_the_next() -> None:
    made, _ = recovered(State.of([enrolment()]), "n1", "k1", issued=NEXT, now_s=250.0)
    assert made.certificates == (NEXT,)


@pytest.mark.parametrize(("state", "key"), [(State(), "k1"), (State.of([enrolment()]), "k2")])
def test_nobody_recovers_by_another_key(state: State, key: str) -> None:
    with pytest.raises(Unauthenticated, match="join anew"):
        recovered(state, "n1", key, issued=NEXT, now_s=NOW_S)


def test_what_counts_no_more_is_forgotten_in_time() -> None:
    old, new = token(expires_at_s=NOW_S), token(id="t2")
    gone, kept = Denied(serial="1", reason="", until_s=NOW_S), Denied(serial="2", reason="", until_s=LATER_S)
    state = State.of([old, new, gone, kept])
    assert forget_at_s(state) == NOW_S
    for group in forgettable(state, NOW_S):
        carried_out(state, group)
    assert list(state.records()) == [new, kept]
    assert forgettable(state, NOW_S) == ()
    assert forget_at_s(State()) == math.inf
