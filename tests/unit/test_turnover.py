"""Nodes renew in batches until none has a certificate of an earlier authority, or only one that has expired."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.model.trust import Enrolment, Issued, Kind
from controller.core.turnover import AT_ONCE, asked_now, turnover
from controller.state import State

NOW_S = 100.0


def member(name: str, authority: str, until_s: float = 200.0, kind: Kind = Kind.AGENT) -> Enrolment:
    old = Issued(serial=f"0{name}", until_s=150.0, authority="a")
    return Enrolment(
        kind=kind,
        id=name,
        key_digest="k",
        certificates=(old, Issued(serial=name, until_s=until_s, authority=authority)),
    )


def test_who_is_waited_for() -> None:
    state = State.of(
        [
            member("n1", "b"),
            member("n2", "a"),
            member("n3", "a", until_s=NOW_S),  # comes back by its key
            member("c1", "a", kind=Kind.CONTROLLER),  # signs its own
        ]
    )
    found = turnover(state, "b", NOW_S)
    assert (found.nodes, found.waiting) == (2, ("n2",))


@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 300)))
def test_batches_are_of_those_that_hear_it_and_come_to_an_end(there: set[int], connected: set[int]) -> None:
    waiting, hear = {f"n{number:03}" for number in there}, {f"n{number:03}" for number in connected}
    rounds = 0
    while asked := asked_now(tuple(sorted(waiting)), hear):
        assert len(asked) <= AT_ONCE
        assert asked <= waiting & hear
        waiting -= asked
        rounds += 1
    assert not waiting & hear
    assert rounds == -(-len({f"n{number:03}" for number in there} & hear) // AT_ONCE)
