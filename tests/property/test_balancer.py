"""The relay's choice of endpoints: even, away from what failed, and never to what was withdrawn."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network.ejection import EJECTION
from agent.network.relay.balancer import Balancer, Member
from common.model.endpoint import Endpoint


def endpoint(number: int) -> Endpoint:
    return Endpoint(task_id=f"t{number}", slot=number, node_id="n", address="10.0.0.1", port=number)


def balancer(count: int) -> Balancer:
    made = Balancer()
    made.update(endpoint(number) for number in range(count))
    return made


@given(st.integers(min_value=1, max_value=8), st.integers(min_value=1, max_value=50))
def test_connections_spread_evenly(count: int, connections: int) -> None:
    members = balancer(count)
    taken: Counter[str] = Counter()
    for _ in range(connections):
        member = members.choose(0.0)
        assert member is not None
        members.opened(member)
        taken[member.endpoint.task_id] += 1
    assert max(taken.values()) - min(taken[f"t{number}"] for number in range(count)) <= 1


def test_short_connections_take_turns() -> None:
    members = balancer(3)
    chosen = []
    for _ in range(6):
        member = members.choose(0.0)
        assert member is not None
        members.opened(member)
        members.closed(member)
        chosen.append(member.endpoint.task_id)
    assert sorted(chosen) == ["t0", "t0", "t1", "t1", "t2", "t2"]


def test_a_failed_member_is_left_out_for_longer_each_time() -> None:
    members = balancer(2)
    member, other = members.choose(0.0), members.choose(0.0)
    assert member is not None
    assert other is not None
    members.opened(other)  # busier: only chosen while the first is left out
    now_s = 100.0
    for failures in (1, 2, 3):
        members.failed(member, now_s)
        now_s += EJECTION.ceiling_s(failures)
        assert members.choose(now_s - 0.001) is other
        assert members.choose(now_s) is member
    members.opened(member)
    members.closed(member)
    members.failed(member, now_s)
    assert members.choose(now_s + EJECTION.ceiling_s(1)) is member


@given(st.integers(min_value=1, max_value=5), st.integers(min_value=1, max_value=50))
def test_when_all_have_failed_however_often_the_wait_for_the_next_try_is_the_shortest(count: int, times: int) -> None:
    members, now_s = balancer(count), 0.0
    for _ in range(times):
        while (member := members.choose(now_s)) is not None:
            members.failed(member, now_s)
        assert 0.0 < members.next_try_s(now_s) <= EJECTION.first_s
        now_s += members.next_try_s(now_s)
        assert members.choose(now_s) is not None


def test_connections_that_fail_at_the_same_time_are_one_failure() -> None:
    members = balancer(2)
    member, other = members.choose(0.0), members.choose(0.0)
    assert member is not None
    assert other is not None
    members.opened(other)
    for _ in range(20):
        members.failed(member, 100.0)
    assert members.choose(100.0 + EJECTION.ceiling_s(1)) is member


@given(
    weights=st.lists(st.integers(min_value=1, max_value=256), min_size=1, max_size=6),
    rounds=st.integers(min_value=1, max_value=3),
)
def test_weights_are_shares_however_busy_the_endpoints_are(weights: list[int], rounds: int) -> None:
    members = Balancer()
    members.update(msgspec.structs.replace(endpoint(number), weight=weight) for number, weight in enumerate(weights))
    taken: Counter[int] = Counter()
    for _ in range(rounds * sum(weights)):
        member = members.choose(0.0)
        assert member is not None
        if member.endpoint.slot % 2:  # these keep all their connections
            members.opened(member)
        taken[member.endpoint.weight] += 1
    for weight, number in Counter(weights).items():
        assert taken[weight] == rounds * weight * number


def test_a_weight_that_changes_keeps_the_connections_and_what_is_known_of_failures() -> None:
    members = balancer(2)
    first = members.choose(0.0)
    assert first is not None
    members.opened(first)
    members.update(msgspec.structs.replace(endpoint(number), weight=1 + 98 * number) for number in range(2))
    taken = Counter(chosen.endpoint.task_id for _ in range(100) if (chosen := members.choose(0.0)))
    assert taken == {"t0": 1, "t1": 99}
    assert first.active == 1


def test_an_endpoint_without_a_weight_counts_like_any_other() -> None:
    members = Balancer()
    members.update([msgspec.structs.replace(endpoint(0), weight=0), endpoint(1)])
    taken = Counter(chosen.endpoint.task_id for _ in range(10) if (chosen := members.choose(0.0)))
    assert taken == {"t0": 5, "t1": 5}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.sets(st.integers(min_value=0, max_value=4))),
        st.tuples(st.sampled_from(["open", "close", "fail"]), st.integers(min_value=0, max_value=9)),
    ),
    max_size=60,
)


@given(steps)
def test_withdrawn_members_get_nothing_and_drain_exactly_while_they_carry_something(history) -> None:  # type: ignore[no-untyped-def]
    members, wanted, open_members = Balancer(), set(), list[Member]()
    for step, argument in history:
        match step:
            case "update":
                wanted = {f"t{number}" for number in argument}
                members.update(endpoint(number) for number in sorted(argument))
            case "open":
                member = members.choose(1e9)
                assert (member is None) == (not wanted)
                if member is not None:
                    assert member.endpoint.task_id in wanted
                    members.opened(member)
                    open_members.append(member)
            case "close" if open_members:
                members.closed(open_members.pop(argument % len(open_members)))
            case "fail" if wanted:
                member = members.choose(1e9)
                assert member is not None
                members.failed(member, 0.0)
        carrying = {member.endpoint.task_id for member in open_members}
        assert set(members.draining()) >= carrying - wanted
        assert set(members.draining()).isdisjoint(wanted - carrying)


def taken(members: Balancer, connections: int, now_s: float = 0.0) -> Counter[str]:
    """Who took so many short connections one after the other."""
    counts: Counter[str] = Counter()
    for _ in range(connections):
        member = members.choose(now_s)
        assert member is not None
        members.opened(member)
        members.closed(member)
        counts[member.endpoint.task_id] += 1
    return counts


def test_a_new_endpoint_starts_slowly_where_that_is_asked_for() -> None:
    members = Balancer()
    members.update([endpoint(0)], now_s=0.0, slow_start_s=10.0)
    members.update([endpoint(0), endpoint(1)], now_s=100.0, slow_start_s=10.0)
    shares = [taken(members, 100, now_s)["t1"] for now_s in (100.0, 102.5, 105.0, 110.0)]
    assert shares == pytest.approx([5, 23, 35, 50], abs=2)


def test_the_connections_of_one_that_failed_go_to_the_others() -> None:
    members = Balancer()
    members.update([msgspec.structs.replace(endpoint(0), weight=1), endpoint(1)])
    failed = next(member for _ in range(9) if (member := members.choose(0.0)) and member.endpoint.task_id == "t1")
    members.failed(failed, 0.0)
    assert taken(members, 10) == {"t0": 10}
