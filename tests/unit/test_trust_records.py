"""What a cluster trusts is kept like everything else: under a key, in the state, in backups."""

from __future__ import annotations

import pytest

from common.model.trust import Authority, Denied, JoinToken, Kind, Role, Sealed, User
from controller.state import Erase, State, Write
from controller.store.keys import Trust, check_record, encode, key_of

RECORDS: tuple[tuple[str, Trust], ...] = (
    (
        "authority",
        Authority(
            cluster_id="c1",
            certificates=("PEM",),
            private_key=Sealed(key_id="k", nonce=b"\x00n", ciphertext=b"\xffc"),
        ),
    ),
    ("tokens/t1", JoinToken(id="t1", digest="d", kind=Kind.AGENT, created_at_s=1.0, expires_at_s=2.0, uses_left=1)),
    ("users/ann", User(name="ann", role=Role.DEPLOYER, digest="d", namespaces=("shop",))),
    ("denied/0f", Denied(serial="0f", reason="its node was removed", until_s=3.0)),
)


@pytest.mark.parametrize(("key", "record"), RECORDS)
def test_each_lies_under_its_own_key_and_reads_as_it_was(key: str, record: Trust) -> None:
    assert key_of(record) == key
    assert check_record(key, encode(record)) == record


@pytest.mark.parametrize(("key", "record"), RECORDS)
def test_each_comes_into_the_state_and_goes(key: str, record: Trust) -> None:
    state = State.of([record])
    assert list(state.fork().records()) == [record]
    state.apply(Erase(record))
    assert list(state.records()) == []
    assert state.apply(Write(record)).before is None
